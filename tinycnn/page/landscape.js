// The network as a landscape: every map and unit of every stage, the chosen unit, and what it can see.

import { css, ink, sign, strength, table } from "./colours.js";
import { array, meta } from "./data.js";
import { canvas, h, replace, svg } from "./elements.js";
import { gy, gz, isMap, last, receptive, sizeOf, stages, stored, unflat, unitName, y, z } from "./network.js";
import { num, written } from "./numbers.js";
import { pastEpoch, sameUnit, set, state } from "./state.js";
import { SENTENCES } from "./words.js";

const HEIGHT = 248; // of a column's picture, in CSS pixels
const GAP = 2; // between maps
const columns = []; // for each stage: how its picture is laid out, and the elements
let overlay, board;

export function buildLandscape(onWord) {
  board = document.getElementById("columns");
  const row = h("div", { class: "row" });
  stages.forEach((stage, s) => {
    const layout = layoutOf(s);
    const [element, context] = canvas(layout.width, layout.height, { "data-stage": s, "aria-hidden": "true" });
    const range = h("p", { class: "range" });
    const kind = s === last ? "output" : stage.kind;
    const column = h("figure", { class: `column ${stage.kind}` },
      h("figcaption", {},
        h("button", { type: "button", class: "stage", title: SENTENCES[kind], tabindex: "-1", onclick: () => chooseStage(s) }, stage.name),
        h("span", {}, stage.shape.join("\u00d7")),
        h("span", {}, stage.parameters ? `${stage.parameters.toLocaleString("en")} weights` : sayKind(s))),
      element, layout.kind === "classes" ? classLines(s, layout) : null, range);
    row.append(column);
    columns.push({ ...layout, element, context, range, column });
    element.addEventListener("pointermove", (event) => point(event, s));
    element.addEventListener("pointerleave", () => set({ hover: null }));
    element.addEventListener("click", (event) => {
      const unit = unitAt(event, s);
      if (unit) set({ unit });
      board.focus({ preventScroll: true });
    });
  });
  overlay = svg("svg", { class: "overlay", "aria-hidden": "true" });
  row.append(overlay);
  board.append(row);
  board.addEventListener("keydown", moveByKey);
}

function sayKind(s) {
  const stage = stages[s];
  if (stage.kind === "pool") return `largest of ${stage.window.kh}\u00d7${stage.window.kw}`;
  if (stage.kind === "photo") return "as the network sees it";
  return stage.kind === "flatten" ? "in one row" : stage.activation;
}

// How a stage is drawn: maps in a grid, units as fields, a strip, or the classes one below the other.
function layoutOf(s) {
  const stage = stages[s];
  if (s === 0) {
    const scale = 150 / Math.max(stage.shape[0], stage.shape[1]);
    return { kind: "photo", scale, width: stage.shape[1] * scale, height: stage.shape[0] * scale };
  }
  if (isMap(s)) {
    const [rows, cols, count] = stage.shape;
    let across = Math.max(1, Math.ceil(Math.sqrt((count * rows) / (2 * cols))));
    while (across > 1 && count % across && across * 2 > count) across--;
    while (count % across) across++;
    const down = Math.ceil(count / across);
    const size = Math.min(72, (HEIGHT - (down - 1) * GAP) / down);
    const scale = Math.max(size / rows, 8 / rows);
    return {
      kind: "maps", across, down, scale, w: cols * scale, h: rows * scale,
      width: across * (cols * scale + GAP) - GAP, height: down * (rows * scale + GAP) - GAP,
    };
  }
  const count = stage.shape[0];
  if (s === last) return { kind: "classes", width: 34, height: Math.min(HEIGHT, Math.max(count, 2) * 34), size: Math.min(HEIGHT, Math.max(count, 2) * 34) / count };
  if (stage.kind === "flatten" || count > 1024) return { kind: "strip", width: 16, height: HEIGHT };
  const size = Math.max(4, Math.min(18, Math.floor(Math.sqrt((HEIGHT * 76) / count))));
  const down = Math.min(count, Math.floor(HEIGHT / size));
  const across = Math.ceil(count / down);
  return { kind: "fields", size, down, across, width: across * size, height: down * size };
}

function classLines(s, layout) {
  const names = stages[s].shape[0] === 1 ? [meta.classes[1]] : meta.classes;
  return h("ul", { class: "classes", style: { "--line-of-class": `${layout.size}px` } }, names.map((name, k) =>
    h("li", {}, h("span", { class: "class", title: name }, name), h("span", { class: "p", "data-class": k }))));
}

// Which numbers are shown: of the finished network or of a past epoch, values or gradients.
function valuesOf(s) {
  const past = pastEpoch();
  const gradients = state.view === "backward" && past === null;
  if (past !== null && s > 0) {
    const kept = meta.epochs.stages[s];
    if (kept?.map) return smallMaps(s, kept, past);
    if (kept?.y) {
      const count = sizeOf(s);
      const all = array(kept.y);
      return all && { at: (k) => all[past * count + k], signed: false };
    }
    if (stages[s].kind === "flatten") return null;
  }
  if (gradients) {
    if (s === last) return { at: (k) => gz(s, k), signed: true };
    return stages[s].kind === "flatten" || stored(s, "gy") ? { at: (k) => gy(s, k), signed: true } : null;
  }
  const known = stages[s].kind === "flatten" || stored(s, "y") || stored(s, "z");
  const canBeNegative = stages[s].activation === "linear" && isMap(s) && stages[s].kind === "conv";
  return known && { at: (k) => y(s, k), signed: canBeNegative };
}

function smallMaps(s, kept, past) {
  const maps = array(kept.map);
  const tops = array(kept.top);
  if (!maps) return null;
  const [, rows, cols, count] = meta.arrays[kept.map].shape;
  const size = rows * cols * count;
  return { small: [rows, cols], at: (k) => (maps[past * size + k] / 255) * tops[past], signed: false, top: tops[past] };
}

export function drawLandscape() {
  stages.forEach((_, s) => drawColumn(s));
  drawVerdictBars();
}

function drawColumn(s) {
  const column = columns[s];
  const { context, width, height } = column;
  context.clearRect(0, 0, width, height);
  const values = valuesOf(s);
  if (!values) {
    column.range.textContent = pastEpoch() !== null ? "not kept" : "\u2026";
    return;
  }
  if (column.kind === "photo" && !values.signed) {
    drawPhoto(column);
    column.range.textContent = stages[0].shape[2] === 1 ? "grey" : "red, green, blue";
    return;
  }
  const shape = values.small ? [...values.small, stages[s].shape[2]] : stages[s].shape;
  const count = shape.reduce((a, b) => a * b, 1);
  let top = 0;
  for (let k = 0; k < count; k++) top = Math.max(top, Math.abs(values.at(k)));
  if (column.kind === "maps" || column.kind === "photo") drawMaps(column, values, shape, top);
  else if (column.kind === "strip") drawStrip(column, values, count, top);
  else for (let k = 0; k < count; k++) {
    const [x, yy, size] = fieldOf(column, k);
    const colour = values.signed ? sign(values.at(k), top) : strength(values.at(k), s === last ? 1 : top);
    context.fillStyle = css(colour);
    context.fillRect(x, yy, size - 1, (column.kind === "classes" ? column.size : size) - 1);
  }
  const end = s === last && !values.signed ? "0 to 1" : values.signed ? `\u00b1${written(top, 3)}` : `0 to ${written(top, 3)}`;
  replace(column.range, `colours: ${end}`);
}

function fieldOf(column, k) {
  if (column.kind === "classes") return [0, k * column.size, column.width];
  return [Math.floor(k / column.down) * column.size, (k % column.down) * column.size, column.size];
}

function drawPhoto({ context, width, height }) {
  const [rows, cols, channels] = stages[0].shape;
  const pixels = new ImageData(cols, rows);
  const raw = array("pixels");
  for (let k = 0; k < rows * cols; k++) {
    for (let c = 0; c < 3; c++) pixels.data[k * 4 + c] = raw[k * channels + (channels < 3 ? 0 : c)];
    pixels.data[k * 4 + 3] = 255;
  }
  stamp(context, pixels, 0, 0, width, height);
}

// All maps of a stage as one picture of their own size, then each at its place.
function drawMaps(column, values, [rows, cols, count], top) {
  const colours = table(values.signed);
  const photo = column.kind === "photo";
  const maps = photo ? 1 : count;
  for (let c = 0; c < maps; c++) {
    const pixels = new ImageData(cols, rows);
    const words = new Uint32Array(pixels.data.buffer);
    for (let k = 0; k < rows * cols; k++) {
      let value = values.at(k * count + c);
      if (photo) for (let other = 1; other < count; other++) value += values.at(k * count + other);
      const share = top > 0 ? value / top : 0;
      words[k] = colours[values.signed ? Math.round(Math.min(Math.max(share, -1), 1) * 127 + 127.5) : Math.round(Math.min(Math.max(share, 0), 1) * 255)];
    }
    const [x, yy] = photo ? [0, 0] : placeOfMap(column, c);
    stamp(column.context, pixels, x, yy, photo ? column.width : column.w, photo ? column.height : column.h);
  }
}

const workshop = document.createElement("canvas");

function stamp(context, pixels, x, yy, width, height) {
  if (workshop.width < pixels.width || workshop.height < pixels.height) {
    workshop.width = Math.max(workshop.width, pixels.width);
    workshop.height = Math.max(workshop.height, pixels.height);
  }
  workshop.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = width < pixels.width;
  context.drawImage(workshop, 0, 0, pixels.width, pixels.height, x, yy, width, height);
}

function placeOfMap(column, c) {
  return [(c % column.across) * (column.w + GAP), Math.floor(c / column.across) * (column.h + GAP)];
}

function drawStrip({ context, width, height }, values, count, top) {
  for (let line = 0; line < height; line++) {
    const from = Math.floor((line * count) / height);
    const to = Math.max(from + 1, Math.floor(((line + 1) * count) / height));
    let best = 0;
    for (let k = from; k < to; k++) if (Math.abs(values.at(k)) > Math.abs(best)) best = values.at(k);
    context.fillStyle = css(values.signed ? sign(best, top) : strength(best, top));
    context.fillRect(0, line, width, 1);
  }
}

function drawVerdictBars() {
  const past = pastEpoch();
  const p = past === null ? array("p") : meta.epochs.p[past];
  for (const element of board.querySelectorAll(".classes .p")) {
    const k = Number(element.dataset.class);
    replace(element, num(p[k], past === null ? `p ${k}` : `p.past ${past} ${k}`, 3));
  }
}

// The chosen unit, what it sees in every stage before it, and the lines between.
export function drawOverlay() {
  const origin = overlay.parentElement.getBoundingClientRect();
  overlay.setAttribute("width", overlay.parentElement.scrollWidth);
  overlay.setAttribute("height", overlay.parentElement.clientHeight);
  const parts = [];
  const hovering = state.hover && !sameUnit(state.hover, state.unit);
  parts.push(...marks(state.unit, origin, hovering ? "chosen faint" : "chosen"));
  if (hovering) parts.push(...marks(state.hover, origin, "hovered"));
  replace(overlay, parts);
  const shown = state.hover ?? state.unit;
  const readout = document.getElementById("readout");
  const past = pastEpoch();
  replace(readout, h("b", {}, unitName(shown)), " ", past === null ? readoutOf(shown) : `epoch ${meta.epochs.numbers[past]}: the maps as they were then`,
    h("span", { class: "what" }, state.view === "backward" && past === null ? "The maps show \u2202loss/\u2202y, before the ReLU gate: where ReLU is off it goes no further back. Orange: the loss grows with this number; blue: it falls." : SENTENCES[shown.s === last ? "output" : stages[shown.s].kind]));
}

function readoutOf(unit) {
  const k = sizeIndex(unit);
  if (state.view === "backward") {
    const g = unit.s === last ? gz(unit.s, k) : gy(unit.s, k);
    return [unit.s === last ? "\u2202loss/\u2202z " : "\u2202loss/\u2202y ", g === null ? "\u2013" : num(g, `${unit.s === last ? "gz" : "gy"} ${unit.s} ${k}`), stages[unit.s].activation === "relu" && stored(unit.s, "z") ? (z(unit.s, k) > 0 ? ", which ReLU lets through" : ", which ReLU stops: it is off here") : ""];
  }
  const area = isMap(0) ? receptive(unit, 0) : null;
  const sees = area && unit.s > 0 && area.top !== undefined
    ? [", sees rows ", ends(area.top, area.bottom, `rf ${unit.s} ${k} rows`), ", columns ", ends(area.left, area.right, `rf ${unit.s} ${k} columns`), " of the photo"] : "";
  const known = stages[unit.s].kind === "flatten" || stored(unit.s, "y") || stored(unit.s, "z");
  return ["= ", known ? num(y(unit.s, k), `y ${unit.s} ${k}`) : "\u2026", sees];
}

export function ends(from, to, address) {
  return h("span", { class: "n", "data-n": address }, `${from}\u2013${to}`);
}

function sizeIndex({ s, at }) {
  return at.reduce((total, index, axis) => total * stages[s].shape[axis] + index, 0);
}

function marks(unit, origin, kind) {
  const parts = [];
  const own = boxOf(unit.s, exactly(unit), origin, unit);
  let previous = own;
  for (let t = unit.s - 1; t >= 0; t--) {
    const area = receptive(unit, t);
    const everywhere = stages[t].shape.length !== 3 || area.channel === null;
    const box = boxOf(t, area, origin, null);
    if (box) {
      parts.push(svg("path", { class: `beam ${kind}`, d: `M${box.x + box.w},${box.y} L${previous.x},${previous.y} V${previous.y + previous.h} L${box.x + box.w},${box.y + box.h} Z` }));
      parts.push(...areaMarks(t, area, origin, kind, everywhere));
      previous = box;
    }
  }
  parts.push(svg("rect", { class: `unit ${kind}`, x: own.x - 2, y: own.y - 2, width: own.w + 4, height: own.h + 4, rx: 2 }));
  return parts;
}

function exactly({ s, at }) {
  return isMap(s) ? { top: at[0], bottom: at[0], left: at[1], right: at[1], channel: at[2] } : { index: at[0] };
}

// Where an area of a stage lies on the board; for all channels, the whole picture.
function boxOf(s, area, origin, unit) {
  const column = columns[s];
  const place = column.element.getBoundingClientRect();
  const x = place.left - origin.left;
  const yy = place.top - origin.top;
  if (column.kind === "photo") return rectangle(x, yy, column.scale, area);
  if (column.kind === "maps") {
    if (area.channel === null || area.channel === undefined) return { x, y: yy, w: column.width, h: column.height };
    const [mx, my] = placeOfMap(column, area.channel);
    return rectangle(x + mx, yy + my, column.scale, area);
  }
  if (column.kind === "strip") {
    if (area.index === undefined) return { x, y: yy, w: column.width, h: column.height };
    return { x, y: yy + (area.index / sizeOf(s)) * column.height, w: column.width, h: 2 };
  }
  if (area.index === undefined) return { x, y: yy, w: column.width, h: column.height };
  const [fx, fy, size] = fieldOf(column, area.index);
  return { x: x + fx, y: yy + fy, w: size - 1, h: (column.kind === "classes" ? column.size : size) - 1 };
}

function rectangle(x, yy, scale, { top, bottom, left, right }) {
  return { x: x + left * scale, y: yy + top * scale, w: (right - left + 1) * scale, h: (bottom - top + 1) * scale };
}

function areaMarks(t, area, origin, kind, everywhere) {
  const column = columns[t];
  if (column.kind !== "maps" || !everywhere) {
    const { x, y: yy, w, h: height } = boxOf(t, area, origin);
    return [svg("rect", { class: `area ${kind}`, x, y: yy, width: w, height })];
  }
  const place = column.element.getBoundingClientRect();
  let d = "";
  for (let c = 0; c < stages[t].shape[2]; c++) {
    const [mx, my] = placeOfMap(column, c);
    const box = rectangle(place.left - origin.left + mx, place.top - origin.top + my, column.scale, area);
    d += `M${box.x},${box.y}h${box.w}v${box.h}h${-box.w}z`;
  }
  return [svg("path", { class: `area thin ${kind}`, d })];
}

// Pointing and moving.
function unitAt(event, s) {
  const column = columns[s];
  const place = column.element.getBoundingClientRect();
  const x = Math.min(Math.max(event.clientX - place.left, 0), column.width - 0.01);
  const yy = Math.min(Math.max(event.clientY - place.top, 0), column.height - 0.01);
  const shape = stages[s].shape;
  if (column.kind === "photo") return { s, at: [Math.floor(yy / column.scale), Math.floor(x / column.scale), 0] };
  if (column.kind === "maps") {
    const across = Math.floor(x / (column.w + GAP));
    const down = Math.floor(yy / (column.h + GAP));
    const c = down * column.across + across;
    if (c >= shape[2]) return null;
    const [mx, my] = placeOfMap(column, c);
    return { s, at: [clamp(Math.floor((yy - my) / column.scale), shape[0]), clamp(Math.floor((x - mx) / column.scale), shape[1]), c] };
  }
  if (column.kind === "strip") return { s, at: [clamp(Math.floor((yy / column.height) * shape[0]), shape[0])] };
  if (column.kind === "classes") return { s, at: [clamp(Math.floor(yy / column.size), shape[0])] };
  const k = Math.floor(x / column.size) * column.down + Math.floor(yy / column.size);
  return k < shape[0] ? { s, at: [k] } : null;
}

const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);

function point(event, s) {
  const unit = unitAt(event, s);
  if (!sameUnit(unit, state.hover)) set({ hover: unit });
}

export function chooseStage(s) {
  const target = clamp(s, stages.length);
  const { at } = state.unit;
  const shape = stages[target].shape;
  if (shape.length === at.length && shape.length === 3) {
    const from = stages[state.unit.s].shape;
    const scaled = [0, 1].map((axis) => clamp(Math.floor(((at[axis] + 0.5) * shape[axis]) / from[axis]), shape[axis]));
    set({ unit: { s: target, at: [...scaled, clamp(at[2], shape[2])] } });
  } else if (shape.length === 3) set({ unit: { s: target, at: strongest(target) } });
  else set({ unit: { s: target, at: strongest(target) } });
}

function strongest(s) {
  let best = 0;
  if (stages[s].kind === "flatten" || stored(s, "y") || stored(s, "z")) {
    for (let k = 1; k < sizeOf(s); k++) if (y(s, k) > y(s, best)) best = k;
  }
  return unflat(stages[s].shape, best);
}

export function moveUnit(changes) {
  const { s, at } = state.unit;
  const shape = stages[s].shape;
  set({ unit: { s, at: at.map((index, axis) => clamp(index + (changes[axis] ?? 0), shape[axis])) } });
}

function moveByKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const { s } = state.unit;
  const field = columns[s];
  const across = field.kind === "fields" ? field.down : 10;
  const map = isMap(s);
  const moves = {
    ArrowUp: map ? [-1, 0, 0] : [-1], ArrowDown: map ? [1, 0, 0] : [1],
    ArrowLeft: map ? [0, -1, 0] : [-across], ArrowRight: map ? [0, 1, 0] : [across],
    PageUp: map ? [0, 0, -1] : [-across], PageDown: map ? [0, 0, 1] : [across],
    Home: map ? [-1e9, -1e9, 0] : [-1e9], End: map ? [1e9, 1e9, 0] : [1e9],
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  set({ hover: null });
  moveUnit(moves[event.key]);
}

// Keep the chosen column in sight where the landscape is wider than the screen.
export function showChosen() {
  const { column } = columns[state.unit.s];
  const box = column.getBoundingClientRect();
  const view = board.getBoundingClientRect();
  if (box.left < view.left || box.right > view.right) {
    board.scrollLeft += box.left - view.left - (view.width - box.width) / 2;
  }
  columns.forEach(({ column: other }, s) => other.classList.toggle("current", s === state.unit.s));
}

export function colourCell(value, top, signedValue = true) {
  const colour = signedValue ? sign(value, top) : strength(value, top);
  return { "background-color": css(colour), color: ink(colour) };
}
