// What is being looked at, in one place; it stands in the address of the page, so that a link shows the same.

import { meta } from "./data.js";
import { isMap, isWeighted, last, sizeOf, stages, stored, unflat, weightOf, weightShape, y } from "./network.js";

export const VIEWS = ["forward", "backward", "weight", "step", "photo"];

export const state = {
  unit: null, view: "forward", epoch: null, theme: null, weight: null, channel: null, look: null, hover: null, playing: null,
};
const listeners = [];
let waiting = null;

export function onChange(listener) {
  listeners.push(listener);
}

export function set(changes) {
  if (changes.unit && !sameUnit(changes.unit, state.unit)) {
    if (!("weight" in changes)) changes.weight = null;
    if (!("channel" in changes) && changes.unit.s !== state.unit?.s) changes.channel = null;
  }
  const changed = new Set(Object.keys(changes).filter((key) => state[key] !== changes[key]));
  if (!changed.size) return;
  Object.assign(state, changes);
  drawSoon(changed);
}

function drawSoon(changed) {
  if (!waiting) {
    waiting = new Set();
    requestAnimationFrame(draw);
  }
  for (const key of changed) waiting.add(key);
}

function draw() {
  const changed = waiting;
  waiting = null;
  for (const listener of listeners) listener(changed);
  if ([...changed].some((key) => key !== "hover" && key !== "playing")) writeHash();
}

// Numbers have arrived, or colours have changed.
export function redraw() {
  drawSoon(["data"]);
}

export const sameUnit = (a, b) => Boolean(a && b && a.s === b.s && a.at.join() === b.at.join());

// The weight in view: the one chosen, else the one that counts most for the unit.
export function currentWeight() {
  return state.weight ?? weightOf(state.unit);
}

export function lastEpoch() {
  return meta.epochs ? meta.epochs.numbers.length - 1 : 0;
}

// The place in the list of epochs that is shown, or null for the finished network.
export function pastEpoch() {
  return meta.epochs && state.epoch !== null && state.epoch < lastEpoch() ? state.epoch : null;
}

export function writeHash() {
  const parts = [`u=${[state.unit.s, ...state.unit.at].join(".")}`, `v=${state.view}`];
  if (state.weight) parts.push(`w=${[state.weight.s, state.weight.part, ...state.weight.at].join(".")}`);
  if (state.channel !== null) parts.push(`c=${state.channel}`);
  if (state.look !== null) parts.push(`k=${state.look}`);
  if (pastEpoch() !== null) parts.push(`e=${meta.epochs.numbers[state.epoch]}`);
  if (state.theme) parts.push(`t=${state.theme}`);
  const hash = `#${parts.join("&")}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

// What a hash says, as far as it makes sense for this network.
export function readHash() {
  const said = Object.fromEntries(location.hash.slice(1).split("&").map((part) => part.split("=")));
  const found = { view: VIEWS.includes(said.v) ? said.v : "forward", unit: asUnit(said.u) ?? firstUnit() };
  found.weight = asWeight(said.w);
  found.channel = isIndex(said.c, 1e6) ? Number(said.c) : null;
  found.look = isIndex(said.k, meta.classes.length) ? Number(said.k) : null;
  found.theme = ["light", "dark"].includes(said.t) ? said.t : null;
  const epoch = meta.epochs ? meta.epochs.numbers.indexOf(Number(said.e)) : -1;
  found.epoch = said.e && epoch >= 0 ? epoch : meta.epochs ? lastEpoch() : null;
  return found;
}

const isIndex = (text, end) => /^\d+$/.test(text ?? "") && Number(text) < end;

function indices(parts, shape) {
  return parts.length === shape.length && parts.every((part, axis) => isIndex(part, shape[axis])) ? parts.map(Number) : null;
}

function asUnit(text) {
  const [s, ...parts] = (text ?? "").split(".");
  if (!isIndex(s, stages.length)) return null;
  const at = indices(parts, stages[s].shape);
  return at && { s: Number(s), at };
}

function asWeight(text) {
  const [s, part, ...parts] = (text ?? "").split(".");
  if (!isIndex(s, stages.length) || !isWeighted(Number(s)) || !["w", "b"].includes(part)) return null;
  const shape = weightShape(Number(s));
  const at = indices(parts, part === "w" ? shape : shape.slice(-1));
  return at && { s: Number(s), part, at };
}

// Where to begin: the unit that answers most strongly in the last stage that has maps, or the last of all.
function firstUnit() {
  let s = last;
  while (s > 0 && !(stages[s].kind === "conv")) s--;
  if (s === 0) s = last;
  if (!isMap(s) || !stored(s, "z")) return { s, at: stages[s].shape.map(() => 0) };
  let best = 0;
  for (let k = 1; k < sizeOf(s); k++) if (y(s, k) > y(s, best)) best = k;
  return { s, at: unflat(stages[s].shape, best) };
}
