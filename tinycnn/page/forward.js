// Forward: how a unit's value came about, from the numbers it reads to the number it hands on.

import { css, sign, table } from "./colours.js";
import { meta, array } from "./data.js";
import { canvas, h, keep, svg } from "./elements.js";
import { colourCell, ends } from "./landscape.js";
import { flat, isMap, largest, last, receptive, stages, stored, sum, taps, termsOf, unflat, unitName, weightName, weightShape, y, z } from "./network.js";
import { fraction, num, signed, written } from "./numbers.js";
import { pastEpoch, set, state } from "./state.js";

const TERMS = 10; // named one by one; the rest is summed

export function forwardView(word) {
  const { unit } = state;
  const stage = stages[unit.s];
  if (stage.kind === "photo") return photoPixel(unit);
  if (stage.kind === "pool") return pool(unit, word);
  if (stage.kind === "flatten") return flattened(unit, word);
  if (stage.kind === "activation") return activated(unit);
  return weighted(unit, word);
}

export function unitLink(s, k, text = null) {
  const unit = { s, at: unflat(stages[s].shape, k) };
  return h("button", { type: "button", class: "unit-link", "data-key": `unit ${s} ${k}`, onclick: () => set({ unit }) }, text ?? unitName(unit));
}

export function weightLink(weight, text) {
  return h("button", { type: "button", class: "unit-link", "data-key": `weight ${Object.values(weight).join(" ")}`, onclick: () => set({ weight, view: "weight" }) }, text ?? weightName(weight));
}

function title(unit, ...rest) {
  const places = { 3: `[row, column, ${unit.s === 0 ? "channel" : "map"}], counted from 0`, 1: "[number of the unit], counted from 0" }[unit.at.length];
  return [h("h2", {}, unitName(unit), " ", ...rest), h("p", { class: "say places" }, places)];
}

function photoPixel(unit) {
  const k = flat(stages[0].shape, unit.at);
  const channels = stages[0].shape[2];
  const names = channels === 1 ? ["grey"] : ["red", "green", "blue", "opacity"].slice(0, channels);
  const start = k - unit.at[2];
  const rescale = meta.picture.settings.rescale;
  return [h("div", { class: "pane" }, title(unit),
    h("p", { class: "say" }, "One pixel of the photo, as the network reads it: the picture's bytes, ", rescale ? [`times ${fraction(rescale)}`, num(rescale, "rescale")] : "as they are", "."),
    h("table", { class: "terms" }, h("tbody", {}, names.map((name, c) => h("tr", {},
      h("th", { scope: "row" }, name), h("td", {}, num(array("pixels")[start + c], `byte ${start + c}`)),
      h("td", {}, rescale ? "\u00d7 " : "", rescale ? num(rescale, "rescale") : "", " ="), h("td", {}, num(y(0, start + c), `y 0 ${start + c}`))))))),
  h("div", { class: "pane" })];
}

function weighted(unit, word) {
  const { s, at } = unit;
  const k = flat(stages[s].shape, at);
  if (!stored(s, "w")) return [h("p", { class: "say" }, "\u2026")];
  const terms = termsOf(unit);
  const total = sum(terms, (term) => term.product);
  const bias = stored(s, "b")?.[at.at(-1)] ?? null;
  const dense = stages[s].kind === "dense";
  const left = dense ? denseLeft(unit, terms, total, bias, word) : windowAndKernel(unit, terms, word);
  return [left, h("div", { class: "pane" },
    h("h3", {}, "The sum"),
    formula(unit, k, total, bias),
    termTable(unit, terms, total),
    s === last ? null : whereNext(unit, k))];
}

function formula({ s }, k, total, bias) {
  const stage = stages[s];
  const name = stage.activation === "linear" ? "" : stage.activation;
  const lines = [
    ["z = \u03a3 x\u00b7w", bias === null ? "" : " + b"],
    ["\u00a0\u00a0= ", num(total, `sum ${s} ${k}`), bias === null ? "" : [" + ", signed(bias, `b ${s} ${stage.kind === "dense" ? k : k % stage.shape[2]}`)], " = ", num(z(s, k), `z ${s} ${k}`)],
  ];
  if (stage.activation === "relu") lines.push(["y = ReLU(z) = max(z, 0) = ", num(y(s, k), `y ${s} ${k}`)]);
  else if (name === "sigmoid") lines.push(["p = 1 / (1 + e^\u2212z) = 1 / (1 + e^", signed(-z(s, k), `-z ${s} ${k}`), ") = ", num(y(s, k), `y ${s} ${k}`)]);
  else if (name === "softmax") lines.push(["p = e^z / \u03a3 e^z = ", num(y(s, k), `y ${s} ${k}`)]);
  else lines.push(["y = z = ", num(y(s, k), `y ${s} ${k}`)]);
  return h("div", { class: "formula" }, lines.map((line) => h("p", {}, line)));
}

function termTable({ s }, terms, total) {
  const named = largest(terms, (term) => term.product, TERMS);
  const rest = total - sum(named, (term) => term.product);
  const part = (term) => ({ s, part: "w", at: term.at });
  return h("table", { class: "terms" },
    h("thead", {}, h("tr", {}, ["largest terms: from", "x", "w", "x\u00b7w"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, named.map((term) => h("tr", {},
      h("th", { scope: "row" }, unitLink(s - 1, term.from)),
      h("td", {}, num(term.x, `y ${s - 1} ${term.from}`)),
      h("td", {}, weightLink(part(term), num(term.w, `w ${s} ${flat(weightShape(s), term.at)}`))),
      h("td", {}, num(term.product, `product ${s} ${term.from} ${flat(weightShape(s), term.at)}`)))),
    terms.length > named.length ? h("tr", { class: "rest" }, h("th", { scope: "row", colspan: 3 }, `the other ${(terms.length - named.length).toLocaleString("en")}, together`), h("td", {}, num(rest, `rest ${s} ${stages[s].kind === "conv" ? flat(stages[s].shape, state.unit.at) : state.unit.at[0]} ${TERMS}`))) : null));
}

function whereNext({ s, at }, k) {
  const next = stages[s + 1];
  if (!next) return null;
  if (next.kind === "pool") return h("p", { class: "say" }, poolFate(s, at, k));
  if (next.kind === "flatten" || next.kind === "activation") return h("p", { class: "say" }, "Goes on to ", unitLink(s + 1, k), ".");
  return h("p", { class: "say" }, "Read by every unit of ", h("b", {}, next.name), next.kind === "conv" ? " whose window holds it." : ".");
}

function poolFate(s, at, k) {
  const windows = [];
  const win = stages[s + 1].window;
  for (let i = 0; i < win.oh; i++) {
    if (i * win.sh - win.top > at[0] || i * win.sh - win.top + win.kh <= at[0]) continue;
    for (let j = 0; j < win.ow; j++) {
      if (j * win.sw - win.left > at[1] || j * win.sw - win.left + win.kw <= at[1]) continue;
      windows.push(flat(stages[s + 1].shape, [i, j, at[2]]));
    }
  }
  if (!windows.length) return "No window of the pool covers it: it goes no further.";
  return windows.map((to) => {
    const from = winnerOf(s + 1, to);
    const equal = y(s, from) === y(s, k) ? tie(s + 1, to) : null;
    if (from === k) return equal ? ["In ", unitLink(s + 1, to), ": ", equal, " That is this one: it goes on. "] : ["It is the largest in ", unitLink(s + 1, to), " and goes on. "];
    return ["In ", unitLink(s + 1, to), equal ? [": ", equal, " That is "] : " it loses to ", unitLink(s, from), ". "];
  });
}

export function winnerOf(s, to) {
  const win = stages[s].window;
  const [i, j, c] = unflat(stages[s].shape, to);
  const tap = stored(s, "winner")[to];
  return flat(stages[s - 1].shape, [i * win.sh - win.top + Math.floor(tap / win.kw), j * win.sw - win.left + (tap % win.kw), c]);
}

const COUNT = ["None", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"];

// What is to be said of a pool's window where its largest number stands there more than once; else null.
export function tie(s, to) {
  const [i, j, c] = unflat(stages[s].shape, to);
  const values = taps(s, i, j).map((tap) => y(s - 1, flat(stages[s - 1].shape, [tap.i, tap.j, c])));
  const equal = values.filter((value) => value === y(s, to)).length;
  if (equal < 2) return null;
  const count = COUNT[equal] ?? String(equal);
  return [equal === values.length ? `All ${count.toLowerCase()} are ` : `${count} are `, num(y(s, to), `y ${s} ${to}`), "; the first of equals counts as winner."];
}

// The window, the filter and their products, for one channel at a time; and the filter's way over its map.
function windowAndKernel(unit, terms, word) {
  const { s, at } = unit;
  const win = stages[s].window;
  const channels = stages[s - 1].shape[2];
  const byChannel = Array.from({ length: channels }, () => 0);
  terms.forEach((term) => { byChannel[term.at[2]] += term.product; });
  const strongest = byChannel.indexOf(largest(byChannel, (value) => value, 1)[0]);
  const c = Math.min(state.channel ?? strongest, channels - 1);
  const inside = new Map(taps(s, at[0], at[1]).map((tap) => [tap.a * win.kw + tap.b, tap]));
  const before = stages[s - 1].shape;
  const shape = weightShape(s);
  const cells = Array.from({ length: win.kh * win.kw }, (_, k) => {
    const tap = inside.get(k);
    const from = tap ? flat(before, [tap.i, tap.j, c]) : null;
    const weightAt = [Math.floor(k / win.kw), k % win.kw, c, at[2]];
    const weight = flat(shape, weightAt);
    const x = tap ? y(s - 1, from) : 0;
    return { x, w: stored(s, "w")[weight], from, weight, weightAt };
  });
  const area = receptive(unit, 0);
  return h("div", { class: "pane" },
    title(unit),
    h("p", { class: "say" }, "One place of one ", word("feature map"), ": the ", word("filter"), " lies on the window below it, each number is multiplied by the one under it (\u2299: place by place), and all are added. Its ",
      word("receptive field"), " on the photo: ", ends(area.top, area.bottom, `rf ${s} ${flat(stages[s].shape, at)} rows`), " down, ", ends(area.left, area.right, `rf ${s} ${flat(stages[s].shape, at)} columns`), " across."),
    h("div", { class: "bench" },
      slidePicture(unit, c),
      h("div", { class: "grids" },
        grid(`x: ${stages[s - 1].name}, channel ${c}`, win, cells, (cell) => cell.x, (cell) => (cell.from === null ? "padding" : `y ${s - 1} ${cell.from}`), false),
        h("span", { class: "sign" }, "\u2299"),
        grid(`w: filter ${at[2]}`, win, cells, (cell) => cell.w, (cell) => `w ${s} ${cell.weight}`, true, (cell) => ({ s, part: "w", at: cell.weightAt })),
        h("span", { class: "sign" }, "="),
        grid("x \u2299 w, place by place", win, cells, (cell) => cell.x * cell.w, (cell) => (cell.from === null ? "padding" : `product ${s} ${cell.from} ${cell.weight}`), true))),
    channelStrip(s, c, byChannel, flat(stages[s].shape, at)),
    pastFilter(s, c, at[2]));
}

function grid(caption, win, cells, value, address, isSigned, weight = null) {
  const top = Math.max(...cells.map((cell) => Math.abs(value(cell))));
  const rows = Array.from({ length: win.kh }, (_, a) => cells.slice(a * win.kw, (a + 1) * win.kw));
  return h("table", { class: "grid" }, h("caption", {}, caption),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => {
      const number = num(value(cell), address(cell));
      return h("td", { style: colourCell(value(cell), top, isSigned) }, weight ? h("button", { type: "button", "data-key": `grid ${address(cell)}`, title: "Look at this weight", onclick: () => set({ weight: weight(cell), view: "weight" }) }, number) : number);
    })))));
}

function channelStrip(s, c, byChannel, k) {
  if (byChannel.length === 1) return null;
  const top = Math.max(...byChannel.map(Math.abs)) || 1;
  const width = Math.max(6, Math.min(18, Math.floor(520 / byChannel.length)));
  const slider = keep("channel", () => h("input", { type: "range", min: 0, step: 1, "aria-label": "channel of the input", oninput: (event) => set({ channel: Number(event.target.value) }) }));
  slider.max = byChannel.length - 1;
  slider.value = c;
  slider.style.width = `${Math.max(120, width * byChannel.length)}px`;
  const bars = svg("svg", { class: "bars", width: width * byChannel.length, height: 46, "aria-hidden": "true" }, byChannel.map((value, i) => {
    const height = (Math.abs(value) / top) * 22;
    return svg("g", { onclick: () => set({ channel: i }) },
      svg("rect", { class: i === c ? "slot current" : "slot", x: i * width, y: 0, width, height: 46 }),
      svg("rect", { class: value < 0 ? "below" : "above", x: i * width + 1, y: value < 0 ? 23 : 23 - height, width: width - 2, height: Math.max(height, 0.5) }));
  }));
  return h("div", { class: "strip" }, h("p", {}, `What each channel adds to the sum; channel ${c} adds `, num(byChannel[c], `channel ${s} ${k} ${c}`), "."), bars, slider);
}

// The filter of the epoch that the time line stands at, beside the finished one above.
function pastFilter(s, c, f) {
  const past = pastEpoch();
  if (past === null || !meta.epochs.stages[s]?.w) return null;
  const w = array(meta.epochs.stages[s].w);
  const shape = weightShape(s);
  if (!w) return null;
  const size = shape.reduce((a, b) => a * b, 1);
  const cells = Array.from({ length: shape[0] * shape[1] }, (_, k) => {
    const at = flat(shape, [Math.floor(k / shape[1]), k % shape[1], c, f]);
    return { at, value: w[past * size + at] };
  });
  return h("div", { class: "grids" }, grid(`w after epoch ${meta.epochs.numbers[past]} (three digits are kept)`, stages[s].window, cells, (cell) => cell.value, (cell) => `w.past ${s} ${past} ${cell.at}`, true));
}

// Two small pictures, the channel that is read and the map that is made, and the keys that slide the filter.
function slidePicture(unit, c) {
  const { s, at } = unit;
  const [rows, cols] = stages[s - 1].shape;
  const [oh, ow] = stages[s].shape;
  const scale = 76 / Math.max(rows, cols);
  const input = mapCanvas(rows, cols, scale, (i, j) => y(s - 1, flat(stages[s - 1].shape, [i, j, c])));
  const output = mapCanvas(oh, ow, scale, (i, j) => y(s, flat(stages[s].shape, [i, j, at[2]])), state.playing === "slide" ? at[0] * ow + at[1] : Infinity);
  const win = stages[s].window;
  const box = (top, left, height, width) => svg("rect", { x: left * scale, y: top * scale, width: width * scale, height: height * scale });
  const frame = (element, label, shape) => h("figure", { class: "small" }, h("div", { class: "stack" }, element, svg("svg", { width: element.style.width, height: element.style.height }, shape)), h("figcaption", {}, label));
  const top = at[0] * win.sh - win.top;
  const left = at[1] * win.sw - win.left;
  const reach = [(win.kh - 1) * win.dh + 1, (win.kw - 1) * win.dw + 1];
  return h("div", { class: "slide" },
    frame(input, `channel ${c}`, box(top, left, reach[0], reach[1])),
    frame(output, `map ${at[2]}`, box(at[0], at[1], 1, 1)),
    slideKeys());
}

function mapCanvas(rows, cols, scale, value, until = Infinity) {
  const [element, context] = canvas(cols * scale, rows * scale, { "aria-hidden": "true" });
  let top = 0;
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) top = Math.max(top, Math.abs(value(i, j)));
  const pixels = new ImageData(cols, rows);
  const words = new Uint32Array(pixels.data.buffer);
  const colours = table(false);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) {
    words[i * cols + j] = i * cols + j > until ? 0 : colours[Math.round(Math.min(Math.max(value(i, j) / (top || 1), 0), 1) * 255)];
  }
  const small = document.createElement("canvas");
  small.width = cols;
  small.height = rows;
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(small, 0, 0, cols * scale, rows * scale);
  return element;
}

function slideKeys() {
  const key = (name, label, text, action) => keep(`slide ${name}`, () => h("button", { type: "button", "data-key": `slide ${name}`, "aria-label": label, title: label, onclick: action }, text));
  const play = key("play", "Slide the filter", "\u25b6", () => set({ playing: state.playing === "slide" ? null : "slide" }));
  play.textContent = state.playing === "slide" ? "\u275a\u275a" : "\u25b6";
  play.setAttribute("aria-label", state.playing === "slide" ? "Pause" : "Slide the filter");
  return h("div", { class: "keys" }, key("back", "One step back", "\u2039", () => slideBy(-1)), play, key("on", "One step on", "\u203a", () => slideBy(1)));
}

// The unit so many places further, row by row, back to the first after the last.
export function slideBy(count) {
  const { s, at } = state.unit;
  if (!isMap(s)) return;
  const [rows, cols] = stages[s].shape;
  const k = (at[0] * cols + at[1] + count + rows * cols) % (rows * cols);
  set({ unit: { s, at: [Math.floor(k / cols), k % cols, at[2]] } });
}

function denseLeft(unit, terms, total, bias, word) {
  const { s, at } = unit;
  const output = s === last;
  const up = sum(terms.filter((term) => term.product > 0), (term) => term.product);
  const down = sum(terms.filter((term) => term.product < 0), (term) => term.product);
  return h("div", { class: "pane" }, title(unit),
    h("p", { class: "say" }, `Reads all ${terms.length.toLocaleString("en")} numbers of ${stages[s - 1].name}, each with a `, word("weight"), " of its own."),
    h("p", {}, "Terms above 0 add up to ", num(up, `positive ${s} ${at[0]}`), ", those below to ", num(down, `negative ${s} ${at[0]}`), "; ", `${terms.filter((term) => term.product === 0).length.toLocaleString("en")} are 0.`),
    cloud(terms),
    output ? outputPicture(s, at[0], word) : null);
}

// Every term as a line, in order: where in the row of numbers the sum comes from.
function cloud(terms) {
  const width = 560;
  const height = 90;
  const [element, context] = canvas(width, height, { class: "cloud", role: "img", "aria-label": "every term, in order" });
  const top = Math.max(...largest(terms, (term) => term.product, 1).map((term) => Math.abs(term.product))) || 1;
  const colours = [css(sign(-1, 1)), css(sign(1, 1))];
  terms.forEach((term, k) => {
    const size = (Math.abs(term.product) / top) * (height / 2 - 1);
    context.fillStyle = colours[term.product > 0 ? 1 : 0];
    context.fillRect((k / terms.length) * width, term.product > 0 ? height / 2 - size : height / 2, Math.max(1, width / terms.length - 1), size);
  });
  return element;
}

function outputPicture(s, k, word) {
  const p = array("p");
  const sigmoid = meta.output === "sigmoid";
  const trueOutput = sigmoid ? 0 : meta.true;
  const value = z(s, k);
  const given = sigmoid ? (meta.true === 1 ? p[0] : 1 - p[0]) : p[meta.true];
  const lossText = sigmoid
    ? ["loss = \u2212ln(", meta.true === 1 ? "p" : "1 \u2212 p", ") = ln(1 + e^", meta.true === 1 ? "\u2212z" : "z", ") = ", num(meta.loss, "loss")]
    : ["loss = \u2212ln p(", h("b", {}, meta.classes[meta.true]), ") = \u2212ln ", num(given, `p ${meta.true}`), " = ", num(meta.loss, "loss")];
  return h("div", { class: "outcome" },
    sigmoid ? curve(value, p[0]) : bars(p),
    h("div", { class: "formula" },
      sigmoid ? h("p", {}, "p is the probability of ", h("b", {}, meta.classes[1]), "; ", word("sigmoid"), " of z.") : h("p", {}, word("softmax"), ": e^z of each class over the sum of all."),
      sigmoid ? null : h("table", { class: "terms" }, h("tbody", {}, Array.from(p, (value_, c) => h("tr", {}, h("th", { scope: "row" }, meta.classes[c]), h("td", {}, "z ", num(z(s, c), `z ${s} ${c}`)), h("td", {}, "p ", num(value_, `p ${c}`)))))),
      h("p", {}, "The photo is ", h("b", {}, meta.classes[meta.true]), meta.labelled ? "." : " (so the model says; nobody told it)."),
      h("p", {}, word("loss", "Loss"), ", ", word("cross-entropy"), ": ", lossText)));
}

function curve(value, p) {
  const reach = Math.max(6, Math.ceil(Math.abs(value)) + 1);
  const x = (v) => 110 + (v / reach) * 100;
  const yy = (q) => 92 - q * 80;
  const points = Array.from({ length: 81 }, (_, i) => ((i - 40) / 40) * reach).map((v) => `${x(v).toFixed(1)},${yy(1 / (1 + Math.exp(-v))).toFixed(1)}`);
  return svg("svg", { class: "curve", width: 220, height: 112, role: "img", "aria-label": `sigmoid of ${written(value)} is ${written(p)}` },
    svg("line", { x1: 10, x2: 210, y1: yy(0), y2: yy(0) }), svg("line", { x1: 10, x2: 210, y1: yy(1), y2: yy(1) }), svg("line", { x1: x(0), x2: x(0), y1: yy(0), y2: yy(1) }),
    svg("polyline", { points: points.join(" ") }),
    svg("line", { class: "drop", x1: x(value), x2: x(value), y1: yy(0), y2: yy(p) }), svg("circle", { cx: x(value), cy: yy(p), r: 4 }),
    svg("text", { x: 10, y: 106 }, `\u2212${reach}`), svg("text", { x: 110, y: 106, "text-anchor": "middle" }, "0"), svg("text", { x: 210, y: 106, "text-anchor": "end" }, String(reach)));
}

function bars(p) {
  return h("div", { class: "class-bars" }, Array.from(p, (value, c) => h("div", { title: meta.classes[c] }, h("i", { style: { height: `${Math.max(1, value * 90)}px` } }))));
}

function pool(unit, word) {
  const { s, at } = unit;
  const k = flat(stages[s].shape, at);
  const win = stages[s].window;
  const winner = winnerOf(s, k);
  const inside = taps(s, at[0], at[1]);
  const values = inside.map((tap) => y(s - 1, flat(stages[s - 1].shape, [tap.i, tap.j, at[2]])));
  const top = Math.max(...values.map(Math.abs));
  const rows = Array.from({ length: win.kh }, (_, a) => inside.filter((tap) => tap.a === a));
  const area = receptive(unit, 0);
  const equal = tie(s, k);
  return [h("div", { class: "pane" }, title(unit),
    h("p", { class: "say" }, word("max-pooling", "Max-pooling"), ": of the numbers in its window the largest goes on, the others are let go."),
    h("div", { class: "bench" },
      poolPicture(unit),
      h("table", { class: "grid large" }, h("caption", {}, `${stages[s - 1].name}, channel ${at[2]}`), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((tap) => {
        const from = flat(stages[s - 1].shape, [tap.i, tap.j, at[2]]);
        return h("td", { class: from === winner ? "winner" : "", style: colourCell(y(s - 1, from), top, false) }, h("button", { type: "button", "data-key": `pool ${tap.a} ${tap.b}`, "aria-label": `${unitName({ s: s - 1, at: [tap.i, tap.j, at[2]] })}${from === winner ? ", the winner" : ""}`, onclick: () => set({ unit: { s: s - 1, at: [tap.i, tap.j, at[2]] } }) }, num(y(s - 1, from), `y ${s - 1} ${from}`)));
      })))))), slideOnly()),
  h("div", { class: "pane" }, h("h3", {}, equal ? "The first of equals" : "The largest"),
    h("div", { class: "formula" }, h("p", {}, "y = max(", values.map((value, i) => [i ? ", " : "", num(value, `y ${s - 1} ${flat(stages[s - 1].shape, [inside[i].i, inside[i].j, at[2]])}`)]), ") = ", num(y(s, k), `y ${s} ${k}`))),
    h("p", { class: "say" }, "The winner is ", unitLink(s - 1, winner), "; only it will get a gradient back.", equal ? [" ", equal] : null),
    h("p", { class: "say" }, "Its ", word("receptive field"), " on the photo: ", ends(area.top, area.bottom, `rf ${s} ${k} rows`), " down, ", ends(area.left, area.right, `rf ${s} ${k} columns`), " across."),
    whereNext(unit, k))];
}

function poolPicture({ s, at }) {
  const [rows, cols] = stages[s - 1].shape;
  const win = stages[s].window;
  const scale = 76 / Math.max(rows, cols);
  const element = mapCanvas(rows, cols, scale, (i, j) => y(s - 1, flat(stages[s - 1].shape, [i, j, at[2]])));
  return h("figure", { class: "small" }, h("div", { class: "stack" }, element, svg("svg", { width: element.style.width, height: element.style.height },
    svg("rect", { x: (at[1] * win.sw - win.left) * scale, y: (at[0] * win.sh - win.top) * scale, width: win.kw * scale, height: win.kh * scale }))), h("figcaption", {}, `map ${at[2]}`));
}

function slideOnly() {
  return h("div", { class: "slide" }, slideKeys());
}

function flattened({ s, at }, word) {
  const from = unitLink(s - 1, at[0]);
  return [h("div", { class: "pane" }, title({ s, at }),
    h("p", { class: "say" }, word("flatten", "Flattening"), " changes no number: number ", h("b", {}, String(at[0])), " of the row is ", from, "."),
    h("div", { class: "formula" }, h("p", {}, "y = ", num(y(s, at[0]), `y ${s} ${at[0]}`)), isMap(s - 1) ? h("p", {}, `${at[0]} = (${unflat(stages[s - 1].shape, at[0])[0]} \u00d7 ${stages[s - 1].shape[1]} + ${unflat(stages[s - 1].shape, at[0])[1]}) \u00d7 ${stages[s - 1].shape[2]} + ${unflat(stages[s - 1].shape, at[0])[2]}`) : null)),
  h("div", { class: "pane" }, h("p", { class: "say" }, "Row, column, channel: the channel runs fastest. Read by every unit of ", h("b", {}, stages[s + 1]?.name ?? "the loss"), "."))];
}

function activated(unit) {
  const { s } = unit;
  const k = flat(stages[s].shape, unit.at);
  return [h("div", { class: "pane" }, title(unit), h("div", { class: "formula" }, h("p", {}, `y = ${stages[s].activation}(`, num(y(s - 1, k), `y ${s - 1} ${k}`), ") = ", num(y(s, k), `y ${s} ${k}`)))), h("div", { class: "pane" }, h("p", {}, "From ", unitLink(s - 1, k), "."))];
}
