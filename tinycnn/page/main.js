// The page: what is drawn when, the keys that work everywhere, and the one loop that runs while something plays.

import { backwardView } from "./backward.js";
import { array, loadAll, meta, packedSize } from "./data.js";
import { h, replace } from "./elements.js";
import { forwardView, slideBy } from "./forward.js";
import { showHelp, word } from "./help.js";
import { buildLandscape, chooseStage, drawLandscape, drawOverlay, showChosen } from "./landscape.js";
import { num } from "./numbers.js";
import { isMap, stages } from "./network.js";
import { photoView } from "./photo.js";
import { lastEpoch, onChange, pastEpoch, readHash, redraw, set, state, VIEWS } from "./state.js";
import { stepView } from "./step.js";
import { drawTimeline, playEpochs } from "./timeline.js";
import { weightView } from "./weight.js";

const DRAW = { forward: forwardView, backward: backwardView, weight: weightView, step: stepView, photo: photoView };
const NAMES = { forward: "Forward", backward: "Backward", weight: "Weight & Adam", step: "Whole step", photo: "Photo" };
const KEY_OF_VIEW = { f: "forward", b: "backward", w: "weight", s: "step", a: "photo" };
const SLIDE_MS = 140; // from place to place
const EPOCH_MS = 600;
const SMALL = 6e5; // characters: what is larger is unpacked after the first view

let played = 0;

function drawViews() {
  const place = document.getElementById("views");
  replace(place, VIEWS.map((view) => h("button", {
    type: "button", role: "tab", id: `tab-${view}`, "data-key": `tab ${view}`, "aria-controls": "view", "aria-selected": String(view === state.view), tabindex: view === state.view ? 0 : -1,
    onclick: () => set({ view }), onkeydown: (event) => moveTab(event, view),
  }, NAMES[view])));
}

function moveTab(event, view) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  event.stopPropagation();
  const next = VIEWS[(VIEWS.indexOf(view) + by + VIEWS.length) % VIEWS.length];
  set({ view: next });
  requestAnimationFrame(() => document.getElementById(`tab-${next}`).focus());
}

function drawInspector() {
  const place = document.getElementById("view");
  place.setAttribute("aria-labelledby", `tab-${state.view}`);
  const past = pastEpoch();
  const note = past === null || state.view === "photo" ? null : h("p", { class: "note" }, `The pictures above show epoch ${meta.epochs.numbers[past]}; the numbers below belong to the finished network.`);
  place.className = `view-${state.view}`;
  replace(place, note, DRAW[state.view](word));
}

function drawVerdict() {
  const past = pastEpoch();
  const numbers = past === null ? null : meta.epochs.p[past];
  const own = numbers ?? Array.from(array("p"));
  const sigmoid = meta.output === "sigmoid";
  const best = sigmoid ? Number(own[0] > meta.threshold) : own.indexOf(Math.max(...own));
  const value = sigmoid ? (best ? own[0] : 1 - own[0]) : own[best];
  const loss = past === null ? meta.loss : meta.epochs.loss[past];
  replace(document.getElementById("verdict"),
    h("span", { class: "file" }, meta.photo), h("span", {}, "the network says ", h("span", { class: "class said" }, meta.classes[best])), h("span", {}, "with probability ", num(value, past === null ? "said" : `said.past ${past}`, 3)),
    h("span", { class: meta.labelled ? (best === meta.true ? "right" : "wrong") : "" }, meta.labelled ? (best === meta.true ? "answer: right" : ["answer: wrong, it is ", h("span", { class: "class" }, meta.classes[meta.true])]) : "as the model says"),
    h("span", { class: "loss" }, "loss ", num(loss, past === null ? "loss" : `loss.past ${past}`)));
}


function applyTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset.theme = state.theme ?? system;
  document.getElementById("theme-button").textContent = document.documentElement.dataset.theme === "dark" ? "Light" : "Dark";
}

function otherTheme() {
  set({ theme: document.documentElement.dataset.theme === "dark" ? "light" : "dark" });
}

function changed(what) {
  const any = (...keys) => keys.some((key) => what.has(key));
  if (any("theme")) applyTheme();
  if (any("theme", "view", "epoch", "data")) drawLandscape();
  if (any("epoch", "data")) drawVerdict();
  if (any("unit", "view", "epoch", "weight", "channel", "look", "theme", "playing", "data")) drawInspector();
  if (any("view", "data")) drawViews();
  if (any("epoch", "playing", "data")) drawTimeline();
  if (any("unit", "data")) showChosen();
  if (any("unit", "hover", "view", "epoch", "data", "theme")) drawOverlay();
  if (any("playing") && state.playing) requestAnimationFrame(play);
}

function play(now) {
  if (!state.playing) return;
  const pause = state.playing === "slide" ? SLIDE_MS : EPOCH_MS;
  if (now - played >= pause) {
    played = now;
    if (state.playing === "slide") slideBy(1);
    else if (state.epoch >= lastEpoch()) set({ playing: null });
    else set({ epoch: state.epoch + 1 });
  }
  requestAnimationFrame(play);
}

function pressed(event) {
  const typing = event.target.closest("input:not([type=range]), select, dialog");
  if (event.altKey || event.ctrlKey || event.metaKey || typing) return;
  const onButton = event.target.closest("button");
  const actions = {
    "?": () => showHelp(), t: otherTheme, e: () => meta.epochs && playEpochs(),
    "[": () => chooseStage(state.unit.s - 1), "]": () => chooseStage(state.unit.s + 1),
    ",": () => slideBy(-1), ".": () => slideBy(1),
    " ": onButton ? null : () => isMap(state.unit.s) && stages[state.unit.s].window && set({ playing: state.playing === "slide" ? null : "slide" }),
  };
  const action = KEY_OF_VIEW[event.key] ? () => set({ view: KEY_OF_VIEW[event.key] }) : actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

async function copyLink() {
  const button = document.getElementById("link-button");
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "It is in the address line";
  }
  setTimeout(() => { button.textContent = "Link"; }, 2000);
}

async function begin() {
  document.title = `tinycnn: ${meta.photo}`;
  const names = Object.keys(meta.arrays).filter((name) => !name.startsWith("past."));
  const small = names.filter((name) => packedSize(name) <= SMALL);
  await loadAll(small);
  Object.assign(state, readHash());
  applyTheme();
  buildLandscape(word);
  document.getElementById("help-button").addEventListener("click", () => showHelp());
  document.getElementById("theme-button").addEventListener("click", otherTheme);
  document.getElementById("link-button").addEventListener("click", copyLink);
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", () => set(readHash()));
  window.addEventListener("resize", redraw);
  document.getElementById("columns").addEventListener("scroll", () => drawOverlay());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { applyTheme(); redraw(); });
  onChange(changed);
  changed(new Set(["data"]));
  document.documentElement.dataset.ready = "first";
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  for (const name of Object.keys(meta.arrays)) await loadAll([name]);
  redraw();
  document.documentElement.dataset.ready = "all";
}

begin();
