// Elements without a framework. Text becomes text nodes: nothing from outside is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const kept = new Map();

export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, part] of Object.entries(value)) element.style.setProperty(key, part);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// The same element each time: a control that is being used must survive the drawing of what it changes.
export function keep(key, make) {
  if (!kept.has(key)) kept.set(key, make());
  return kept.get(key);
}

export function replace(element, ...children) {
  const key = document.activeElement?.dataset?.key;
  const inside = key && element.contains(document.activeElement);
  element.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  if (inside) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

// A canvas of so many CSS pixels, sharp on any screen, that shows pixels as squares.
export function canvas(width, height, properties = {}) {
  const ratio = Math.max(1, window.devicePixelRatio || 1);
  const element = h("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio), ...properties });
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
  const context = element.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.imageSmoothingEnabled = false;
  return [element, context];
}
