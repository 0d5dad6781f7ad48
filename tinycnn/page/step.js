// The whole step: what learning from this one photo did to its prediction, to every stage, and to the weights.

import { array, meta } from "./data.js";
import { h } from "./elements.js";
import { weightLink } from "./forward.js";
import { flat, stages, weightShape } from "./network.js";
import { num } from "./numbers.js";

export function stepView(word) {
  const { step } = meta;
  const before = array("p");
  const after = array("p.after");
  const sigmoid = meta.output === "sigmoid";
  const names = sigmoid ? [meta.classes[1]] : meta.classes;
  const change = step.loss - meta.loss;
  const far = Math.abs(step.movers[0]?.step ?? 0);
  return [
    h("div", { class: "pane" }, h("h2", {}, "One step of learning from this photo"),
      h("p", { class: "say" }, "The ", word("gradient"), " of every weight at once, and ", word("Adam"), "'s step for each; then the photo was shown again."),
      h("table", { class: "before-after" }, h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col" }, "before"), h("th", { scope: "col" }, "after"))),
        h("tbody", {}, names.map((name, k) => h("tr", {}, h("th", { scope: "row" }, "p(", h("span", { class: "class" }, name), ")"), h("td", {}, bar(before[k]), num(before[k], `p ${k}`)), h("td", {}, bar(after[k]), num(after[k], `p.after ${k}`)))),
          h("tr", {}, h("th", { scope: "row" }, word("loss")), h("td", {}, num(meta.loss, "loss")), h("td", {}, num(step.loss, "loss.after"))))),
      h("p", {}, "The loss changed by ", num(change, "loss.change"), ". Straight on along the slope it would have been \u2212\u03a3 g\u00b7step = ", num(step.expected, "loss.expected"), ": the difference is curvature, and units that switch on or off or win other pools."),
      h("h3", {}, "Stage by stage"),
      h("table", { class: "terms" }, h("thead", {}, h("tr", {}, ["", "mean |y|", "mean change", "largest change"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, step.stages.map((row) => h("tr", {}, h("th", { scope: "row" }, stages[row.stage].name), h("td", {}, num(row.mean, `mean ${row.stage}`)), h("td", {}, num(row.change, `change ${row.stage}`)), h("td", {}, num(row.most, `most ${row.stage}`))))))),
    h("div", { class: "pane" }, h("h3", {}, "The weights that moved most"),
      h("table", { class: "terms" }, h("thead", {}, h("tr", {}, ["weight", "before", "change", "after"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, step.movers.slice(0, 14).map((mover, i) => {
          const weight = { s: mover.stage, part: mover.part, at: mover.at };
          const id = `${mover.stage} ${mover.part} ${mover.part === "w" ? flat(weightShape(mover.stage), mover.at) : mover.at[0]}`;
          return h("tr", {}, h("th", { scope: "row" }, weightLink(weight)), h("td", {}, num(mover.before, `w ${id}`)), h("td", {}, num(-mover.step, `moved ${id}`)), h("td", {}, num(mover.after, `after ${id}`)));
        }))),
      h("p", { class: "say" }, "Change is after minus before: the step, with its sign turned. ", step.iteration > 1 ? ["Adam goes on in the direction of the steps before this one: a weight may move although this photo gives it no gradient.",
        far > step.learning_rate * 1.01 ? [" Moves larger than the learning rate, ", String(step.learning_rate), ", up to ", num(far, "far"), ` here, come of momentum: of the last ${memory(step.beta_1)} or so gradients, which m remembers, that pull the same way and are large beside the last ${memory(step.beta_2)} or so, which v remembers. This photo's is one of them.`] : null] : "In its first step Adam moves every weight that has a gradient by about the learning rate, whatever the gradient's size.")),
  ];
}

const memory = (beta) => Math.round(1 / (1 - beta)).toLocaleString("en");
const bar = (p) => h("span", { class: "p-bar", "aria-hidden": "true" }, h("i", { style: { width: `${p * 100}%` } }));
