// The time line: how loss and accuracy went, and a cursor that takes the whole landscape back to an epoch.

import { meta } from "./data.js";
import { h, keep, replace, svg } from "./elements.js";
import { num, written } from "./numbers.js";
import { lastEpoch, pastEpoch, set, state } from "./state.js";

const WIDTH = 300;
const HEIGHT = 44;

export function drawTimeline() {
  const place = document.getElementById("timeline");
  if (!meta.epochs) {
    replace(place, h("p", { class: "say" }, "No past epochs: the run kept no snapshots, or only its model file was named."));
    return;
  }
  const { numbers } = meta.epochs;
  const shown = state.epoch ?? lastEpoch();
  const slider = keep("epoch", () => h("input", { type: "range", min: 0, max: lastEpoch(), step: 1, "aria-label": "epoch", oninput: (event) => set({ epoch: Number(event.target.value), playing: null }) }));
  slider.value = shown;
  slider.setAttribute("aria-valuetext", `epoch ${numbers[shown]} of ${numbers[lastEpoch()]}`);
  const play = keep("play epochs", () => h("button", { type: "button", onclick: playEpochs }, ""));
  play.textContent = state.playing === "epochs" ? "\u275a\u275a" : "\u25b6";
  play.setAttribute("aria-label", state.playing === "epochs" ? "Pause" : "Play the epochs");
  replace(place,
    h("div", { class: "scrub" }, play, slider, h("p", {}, "epoch ", h("b", {}, String(numbers[shown])), ` of ${numbers[lastEpoch()]}`, outcome(shown))),
    curve("loss", shown, false), curve("accuracy", shown, true),
    keep("explained", () => h("details", { class: "explained" }, h("summary", {}, "What the curves show"), trainedOn(), "Test: the test photos as they are, with the weights at the epoch's end.")));
}

function outcome(shown) {
  const past = pastEpoch();
  const p = meta.epochs.p[shown];
  const best = meta.output === "sigmoid" ? (p[0] > meta.threshold ? 1 : 0) : p.indexOf(Math.max(...p));
  const value = meta.output === "sigmoid" ? (best ? p[0] : 1 - p[0]) : p[best];
  if (past === null) return ": the finished network";
  return [": it said ", h("span", { class: "class" }, meta.classes[best]), " ", num(value, `said.past ${past}`, 3), ", loss ", num(meta.epochs.loss[past], `loss.past ${past}`, 3)];
}

export function playEpochs() {
  if (state.playing === "epochs") return set({ playing: null });
  set({ playing: "epochs", epoch: state.epoch === null || state.epoch >= lastEpoch() ? 0 : state.epoch });
}

function trainedOn() {
  const photos = meta.picture.augmented === false ? "the photos as they are" : meta.picture.augmented ? "augmented photos" : "the training photos";
  return `Training: the running mean over ${photos} during the epoch, while the weights change. `;
}

// Training and test curve of one number over the epochs, with the cursor on both.
function curve(name, shown, upTo1) {
  const training = meta.history[name] ?? [];
  const test = meta.history[`val_${name}`] ?? [];
  const all = [...training, ...test].filter((value) => value !== null);
  if (!all.length) return null;
  const high = upTo1 ? 1 : Math.max(...all);
  const low = upTo1 ? Math.min(...all, 0.9) : 0;
  const end = Math.max(meta.epochs.numbers.at(-1), training.length, 1);
  const x = (epoch) => 4 + (epoch / end) * (WIDTH - 8);
  const yy = (value) => 4 + ((high - value) / (high - low || 1)) * (HEIGHT - 8);
  const line = (values, kind) => svg("polyline", { class: kind, points: values.map((value, i) => (value === null ? "" : `${x(i + 1).toFixed(1)},${yy(value).toFixed(1)}`)).join(" ") });
  const epoch = meta.epochs.numbers[shown];
  const at = (values, kind) => (epoch >= 1 && values[epoch - 1] !== undefined ? num(values[epoch - 1], `history ${kind}${name} ${epoch - 1}`, 3) : "\u2013");
  return h("figure", { class: "history" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name} over the epochs, from ${written(training[0] ?? null, 3)} to ${written(training.at(-1) ?? null, 3)}` },
      line(training, "training"), line(test, "test"), svg("line", { class: "cursor", x1: x(epoch), x2: x(epoch), y1: 0, y2: HEIGHT })),
    h("figcaption", {}, `${name}: training `, at(training, ""), h("i", { class: "dash" }), ", test ", at(test, "val_"), h("i", { class: "dash test" })));
}
