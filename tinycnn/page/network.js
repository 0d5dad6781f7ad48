// The network as the page knows it: stages, units, where their numbers lie, and what reaches what.
//
// A stage is the photo, a convolution or dense layer with its activation, a pool or a flattening. A unit is
// { s, at }: its stage, and [row, column, channel] or [index].

import { array, meta } from "./data.js";
import { f32 } from "./numbers.js";

export const stages = meta.stages;
export const last = stages.length - 1;

export const isMap = (s) => stages[s].shape.length === 3;
export const isWeighted = (s) => stages[s].kind === "conv" || stages[s].kind === "dense";

export function sizeOf(s) {
  return stages[s].shape.reduce((a, b) => a * b, 1);
}

export function flat(shape, at) {
  return at.reduce((sum, index, axis) => sum * shape[axis] + index, 0);
}

export function unflat(shape, k) {
  const at = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    at.unshift(k % shape[axis]);
    k = Math.floor(k / shape[axis]);
  }
  return at;
}

export function stored(s, name) {
  const id = stages[s].arrays[name];
  return id === undefined ? null : array(id);
}

// The shape of the weights of a stage: (kh, kw, c, f) or (in, out).
export const weightShape = (s) => meta.arrays[stages[s].arrays.w].shape;

export function unitName({ s, at }) {
  return `${stages[s].name}[${at.join(", ")}]`;
}

export function weightName({ s, part, at }) {
  return `${stages[s].name}.${part === "w" ? "kernel" : "bias"}[${at.join(", ")}]`;
}

// Values. y is what a stage hands on, z what it had before its activation.
export function z(s, k) {
  return stored(s, "z")[k];
}

export function y(s, k) {
  const stage = stages[s];
  if (stage.kind === "flatten") return y(s - 1, k);
  const own = stored(s, "y");
  if (own) return own[k];
  const before = stored(s, "z")[k];
  return stage.activation === "relu" ? Math.max(before, 0) : before;
}

// Gradients of the loss. gy is that of y, gz that of z; null where y reaches the loss together with its activation.
export function gy(s, k) {
  const stage = stages[s];
  if (stage.kind === "flatten") return gy(s - 1, k);
  const own = stored(s, "gy");
  return own ? own[k] : null;
}

export function gz(s, k) {
  const own = stored(s, "gz");
  if (own) return own[k];
  const g = gy(s, k);
  return stages[s].activation === "relu" && !(z(s, k) > 0) ? 0 : g;
}

export function filterAt(s, k) {
  return stored(s, "w")[k];
}

// The places of a window of stage s in the stage before, those in the padding left out.
export function taps(s, i, j) {
  const win = stages[s].window;
  const found = [];
  for (let a = 0; a < win.kh; a++) {
    for (let b = 0; b < win.kw; b++) {
      const row = i * win.sh - win.top + a * win.dh;
      const column = j * win.sw - win.left + b * win.dw;
      if (row >= 0 && row < win.h && column >= 0 && column < win.w) found.push({ a, b, i: row, j: column });
    }
  }
  return found;
}

// The terms of a weighted unit's sum: what it reads, times its weight.
export function termsOf({ s, at }) {
  const w = stored(s, "w");
  const shape = weightShape(s);
  const terms = [];
  if (stages[s].kind === "dense") {
    for (let k = 0; k < shape[0]; k++) {
      const x = y(s - 1, k);
      const weight = w[k * shape[1] + at[0]];
      terms.push({ x, w: weight, product: x * weight, from: k, at: [k, at[0]] });
    }
    return terms;
  }
  const before = stages[s - 1].shape;
  for (const tap of taps(s, at[0], at[1])) {
    for (let c = 0; c < before[2]; c++) {
      const from = flat(before, [tap.i, tap.j, c]);
      const weightAt = [tap.a, tap.b, c, at[2]];
      const x = y(s - 1, from);
      const weight = w[flat(shape, weightAt)];
      terms.push({ x, w: weight, product: x * weight, from, at: weightAt });
    }
  }
  return terms;
}

// The terms of a unit's gradient: for each unit of the next stage that it reaches, that one's gradient times the weight
// between them. A pool hands its gradient to the winner alone: its weight is 1 or 0.
export function gradientTerms({ s, at }) {
  const next = s + 1;
  if (next > last) return [];
  const stage = stages[next];
  if (stage.kind === "flatten" || stage.kind === "activation") {
    return [{ g: gy(next, flat(stages[s].shape, at)), w: 1, to: flat(stages[s].shape, at), kind: "same" }];
  }
  const terms = [];
  if (stage.kind === "dense") {
    const [, units] = weightShape(next);
    const from = flat(stages[s].shape, at);
    const w = stored(next, "w");
    for (let u = 0; u < units; u++) terms.push({ g: gz(next, u), w: w[from * units + u], to: u, at: [from, u], kind: "dense" });
    return terms;
  }
  const win = stage.window;
  for (let a = 0; a < win.kh; a++) {
    for (let b = 0; b < win.kw; b++) {
      const down = at[0] + win.top - a * win.dh;
      const right = at[1] + win.left - b * win.dw;
      if (down % win.sh || right % win.sw) continue;
      const i = down / win.sh;
      const j = right / win.sw;
      if (i < 0 || j < 0 || i >= win.oh || j >= win.ow) continue;
      if (stage.kind === "pool") {
        const to = flat(stage.shape, [i, j, at[2]]);
        const won = stored(next, "winner")[to] === a * win.kw + b;
        terms.push({ g: gy(next, to), w: won ? 1 : 0, to, won, kind: "pool" });
      } else {
        const shape = weightShape(next);
        for (let f = 0; f < shape[3]; f++) {
          const to = flat(stage.shape, [i, j, f]);
          const weightAt = [a, b, at[2], f];
          terms.push({ g: gz(next, to), w: stored(next, "w")[flat(shape, weightAt)], to, at: weightAt, kind: "conv" });
        }
      }
    }
  }
  return terms;
}

// The terms of a weight's gradient: over all places that use it, what it reads times the gradient there.
export function weightTerms({ s, part, at }) {
  const terms = [];
  if (stages[s].kind === "dense") {
    const unit = at.at(-1);
    const x = part === "b" ? 1 : y(s - 1, at[0]);
    return [{ x, g: gz(s, unit), from: part === "b" ? null : at[0], to: unit }];
  }
  const [oh, ow, filters] = stages[s].shape;
  const win = stages[s].window;
  const before = stages[s - 1].shape;
  const f = at.at(-1);
  for (let i = 0; i < oh; i++) {
    for (let j = 0; j < ow; j++) {
      const to = (i * ow + j) * filters + f;
      const g = gz(s, to);
      if (part === "b") {
        terms.push({ x: 1, g, from: null, to });
        continue;
      }
      const row = i * win.sh - win.top + at[0] * win.dh;
      const column = j * win.sw - win.left + at[1] * win.dw;
      if (row < 0 || column < 0 || row >= win.h || column >= win.w) continue;
      const from = flat(before, [row, column, at[2]]);
      terms.push({ x: y(s - 1, from), g, from, to });
    }
  }
  return terms;
}

// The part of an earlier stage that a unit can see: { top, bottom, left, right, channel }, both ends inside; channel is
// null where every channel counts, and all is null for a stage without rows and columns.
export function receptive({ s, at }, target) {
  let area = isMap(s)
    ? { top: at[0], bottom: at[0], left: at[1], right: at[1], channel: at[2] }
    : { index: at[0] };
  for (let t = s; t > target; t--) {
    const stage = stages[t];
    const before = stages[t - 1].shape;
    if (stage.kind === "dense") area = wholeOf(before);
    else if (stage.kind === "flatten") area = "index" in area ? areaOf(before, area.index) : wholeOf(before);
    else if (stage.window) area = through(stage, area, before);
  }
  return area;
}

function wholeOf(shape) {
  if (shape.length !== 3) return {};
  return { top: 0, bottom: shape[0] - 1, left: 0, right: shape[1] - 1, channel: null };
}

function areaOf(shape, k) {
  if (shape.length !== 3) return { index: k };
  const [i, j, c] = unflat(shape, k);
  return { top: i, bottom: i, left: j, right: j, channel: c };
}

function through({ kind, window: win }, area, before) {
  const clip = (value, size) => Math.min(Math.max(value, 0), size - 1);
  return {
    top: clip(area.top * win.sh - win.top, before[0]),
    bottom: clip(area.bottom * win.sh - win.top + (win.kh - 1) * win.dh, before[0]),
    left: clip(area.left * win.sw - win.left, before[1]),
    right: clip(area.right * win.sw - win.left + (win.kw - 1) * win.dw, before[1]),
    channel: kind === "pool" ? area.channel : null,
  };
}

// What the engine has as a weight's gradient: for a dense weight one product, as float32 rounds it.
export function weightGradient({ s, part, at }) {
  if (part === "b") return stored(s, "gb")[at[0]];
  if (stages[s].kind === "conv") return stored(s, "gw")[flat(weightShape(s), at)];
  return f32(y(s - 1, at[0]) * gz(s, at[1]));
}

// The engine's central difference for a weight, in float64; null where it was not worked out.
export function finiteDifference({ s, part, at }) {
  if (part === "b") return stored(s, "fdb")?.[at[0]] ?? null;
  if (stages[s].kind === "conv") {
    const value = stored(s, "fd")?.[flat(weightShape(s), at)];
    return value === undefined || Number.isNaN(value) ? null : value;
  }
  const slope = stored(s, "slope");
  return slope ? y(s - 1, at[0]) * slope[at[1]] : null;
}

// Adam's step for a weight, in the engine's order of operations and its number type.
export function adam(weight) {
  const { s, part, at } = weight;
  const k = part === "w" ? flat(weightShape(s), at) : at[0];
  const { beta_1, beta_2, epsilon, rate, iteration } = meta.step;
  const g = weightGradient(weight);
  const w = stored(s, part)[k];
  const m0 = stored(s, `m${part}`)?.[k] ?? 0;
  const v0 = stored(s, `v${part}`)?.[k] ?? 0;
  const m = f32(m0 + f32(f32(g - m0) * f32(1 - beta_1)));
  const v = f32(v0 + f32(f32(f32(g * g) - v0) * f32(1 - beta_2)));
  const step = f32(f32(m * f32(rate)) / f32(f32(Math.sqrt(v)) + f32(epsilon)));
  return {
    g, w, m0, v0, m, v, step,
    m_hat: f32(m / f32(1 - beta_1 ** iteration)),
    v_hat: f32(v / f32(1 - beta_2 ** iteration)),
    after: f32(w - step),
  };
}

// A weight of a unit worth looking at first: that of the largest term of its sum.
export function weightOf(unit) {
  let { s, at } = unit;
  if (!isWeighted(s)) {
    s = stages.findIndex((stage, t) => t > s && isWeighted(t));
    at = stages[s].kind === "dense" ? [0] : [Math.floor(stages[s].shape[0] / 2), Math.floor(stages[s].shape[1] / 2), 0];
  }
  const best = largest(termsOf({ s, at }), (term) => term.product, 1)[0];
  return { s, part: "w", at: best ? best.at : weightShape(s).map(() => 0) };
}

// The `count` items of largest size, largest first.
export function largest(items, value, count) {
  return [...items].sort((a, b) => Math.abs(value(b)) - Math.abs(value(a))).slice(0, count);
}

export function sum(items, value) {
  return items.reduce((total, item) => total + value(item), 0);
}
