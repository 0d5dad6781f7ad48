// One weight: its gradient as a sum, what a finite difference says of it, and Adam's step, line by line.

import { meta } from "./data.js";
import { h, keep } from "./elements.js";
import { unitLink } from "./forward.js";
import { adam, finiteDifference, flat, isWeighted, largest, stages, stored, sum, weightGradient, weightName, weightShape, weightTerms } from "./network.js";
import { num, signed } from "./numbers.js";
import { currentWeight, set } from "./state.js";

const TERMS = 8;

export function weightView(word) {
  const weight = currentWeight();
  const { s, part, at } = weight;
  const names = [`m${part}`, `v${part}`, part];
  if (names.some((name) => name in stages[s].arrays && !stored(s, name))) return [h("p", { class: "say" }, "\u2026")];
  const id = `${s} ${part} ${part === "w" ? flat(weightShape(s), at) : at[0]}`;
  const terms = weightTerms(weight).map((term) => ({ ...term, product: term.x * term.g }));
  return [
    h("div", { class: "pane" },
      h("h2", {}, weightName(weight)), chooser(weight),
      h("p", { class: "say" }, "A ", word("weight"), " of value ", num(stored(s, part)[part === "w" ? flat(weightShape(s), at) : at[0]], `${part} ${s} ${id.split(" ")[2]}`), ". Its ", word("gradient"), stages[s].kind === "conv" ? " adds up over every place of the map: " : ": ", part === "b" ? "the gradient at each place." : "what it read, times the gradient there."),
      gradientSum(weight, id, terms),
      checked(weight, id, word)),
    h("div", { class: "pane" }, h("h3", {}, word("Adam", "Adam's"), " step"), steps(weight, id)),
  ];
}

// Fields to choose any weight of the network by its place.
function chooser(weight) {
  const { s, part, at } = weight;
  const layers = keep("weight layer", () => h("select", { "aria-label": "layer", "data-key": "weight layer", onchange: (event) => change({ s: Number(event.target.value), part: "w", at: null }) }, stages.map((stage, t) => (isWeighted(t) ? h("option", { value: t }, stage.name) : null))));
  layers.value = s;
  const parts = keep("weight part", () => h("select", { "aria-label": "kernel or bias", "data-key": "weight part", onchange: (event) => change({ ...currentWeight(), part: event.target.value, at: null }) }, h("option", { value: "w" }, "kernel"), h("option", { value: "b" }, "bias")));
  parts.value = part;
  parts.querySelector("[value=b]").disabled = !("b" in stages[s].arrays);
  const shape = part === "w" ? weightShape(s) : weightShape(s).slice(-1);
  const labels = part === "b" ? ["unit"] : stages[s].kind === "conv" ? ["row", "column", "channel", "filter"] : ["input", "unit"];
  const fields = labels.map((label, axis) => {
    const field = keep(`weight ${label}`, () => h("input", { type: "number", min: 0, inputmode: "numeric", "data-key": `weight ${label}`, onchange: (event) => {
      const now = currentWeight();
      const sizes = now.part === "w" ? weightShape(now.s) : weightShape(now.s).slice(-1);
      const place = Number(event.target.dataset.axis);
      const value = Math.min(Math.max(Math.round(Number(event.target.value)) || 0, 0), sizes[place] - 1);
      change({ ...now, at: now.at.map((index, i) => (i === place ? value : index)) });
    } }));
    field.dataset.axis = axis;
    field.max = shape[axis] - 1;
    field.value = at[axis];
    return h("label", {}, label, field);
  });
  return h("div", { class: "chooser" }, layers, parts, fields);
}

function change({ s, part, at }) {
  const shape = part === "w" ? weightShape(s) : weightShape(s).slice(-1);
  set({ weight: { s, part, at: at ?? shape.map(() => 0) } });
}

function gradientSum(weight, id, terms) {
  const { s } = weight;
  const active = terms.filter((term) => term.product !== 0);
  const named = largest(active, (term) => term.product, TERMS);
  const rest = sum(terms, (term) => term.product) - sum(named, (term) => term.product);
  const total = weightGradient(weight);
  return [
    h("div", { class: "formula" }, h("p", {}, terms.length > 1 ? "g = \u03a3 x\u00b7\u2202loss/\u2202z = " : "g = x\u00b7\u2202loss/\u2202z = ", num(total, `g ${id}`))),
    active.length ? null : h("p", { class: "zero" }, "Zero: wherever it was used it read 0, or no gradient came back."),
    active.length ? h("table", { class: "terms" },
      h("thead", {}, h("tr", {}, ["at", "read: x", "gradient there", "x\u00b7g"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, named.map((term) => h("tr", {},
        h("th", { scope: "row" }, unitLink(s, term.to)),
        h("td", {}, term.from === null ? "1" : num(term.x, `y ${s - 1} ${term.from}`)),
        h("td", {}, num(term.g, `gz ${s} ${term.to}`)),
        h("td", {}, num(term.product, term.from === null ? `gz ${s} ${term.to}` : `learn ${s} ${term.to} ${term.from}`)))),
      active.length > named.length ? h("tr", { class: "rest" }, h("th", { scope: "row", colspan: 3 }, `${(active.length - named.length).toLocaleString("en")} more, together`), h("td", {}, num(rest, `grest ${id} ${TERMS}`))) : null)) : null,
  ];
}

function checked(weight, id, word) {
  const difference = finiteDifference(weight);
  const g = weightGradient(weight);
  if (difference === null) return h("p", { class: "say" }, "No ", word("finite difference"), " was worked out for this weight: for a network of this size only every so many weights of a filter have one.");
  const off = g === difference ? 0 : Math.abs(g - difference) / Math.max(Math.abs(g), Math.abs(difference));
  const dense = stages[weight.s].kind === "dense" || weight.part === "b";
  return h("div", { class: "check" },
    h("p", {}, word("finite difference", "Finite difference"), ": (loss(w + h) \u2212 loss(w \u2212 h)) / 2h = ", num(difference, `fd ${id}`)),
    h("p", {}, "The gradient above and this differ by ", num(off, `off ${id}`, 2), " of the larger of the two (the relative error); the engine works out the gradient in float32, the difference in float64."),
    h("p", { class: "say" }, dense && weight.part === "w" ? [`Moving this weight moves the sum of its unit alone; h is chosen so that the sum moves by ${meta.h}.`] : [`h = ${meta.h}; the engine ran the network on from this layer twice.`]));
}

function steps(weight, id) {
  const it = adam(weight);
  const { learning_rate: rate, beta_1: b1, beta_2: b2, iteration, epsilon_hat: eps } = meta.step;
  const line = (name, ...formula) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, formula));
  const n = (name, digits) => num(it[name], `${name} ${id}`, digits);
  return [
    h("table", { class: "adam" }, h("tbody", {},
      line("g", "the gradient", h("br"), "= ", n("g")),
      line("m", `${b1}\u00b7m\u2080 + ${round(1 - b1)}\u00b7g`, h("br"), `= ${b1}\u00b7`, signed(it.m0, `m0 ${id}`), ` + ${round(1 - b1)}\u00b7`, signed(it.g, `g ${id}`), " = ", n("m")),
      line("v", `${b2}\u00b7v\u2080 + ${round(1 - b2)}\u00b7g\u00b2`, h("br"), `= ${b2}\u00b7`, num(it.v0, `v0 ${id}`), ` + ${round(1 - b2)}\u00b7`, signed(it.g, `g ${id}`), "\u00b2 = ", n("v")),
      line("m\u0302", `m / (1 \u2212 ${b1}^t), t = ${iteration}`, h("br"), "= ", n("m_hat")),
      line("v\u0302", `v / (1 \u2212 ${b2}^t)`, h("br"), "= ", n("v_hat")),
      line("step", `${rate}\u00b7m\u0302 / (\u221av\u0302 + \u03b5\u0302)`, h("br"), `= ${rate}\u00b7`, signed(it.m_hat, `m_hat ${id}`), " / (\u221a", n("v_hat"), " + ", num(eps, "epsilon_hat"), ") = ", n("step")),
      line("new w", "w \u2212 step", h("br"), "= ", n("w", 6), " \u2212 ", signed(it.step, `step ${id}`), " = ", n("after", 6)))),
    why(it, id),
    h("p", { class: "say" }, iteration > 1 ? `The run had made ${(iteration - 1).toLocaleString("en")} steps: m\u2080 and v\u2080 are what Adam remembered of them.` : "Adam is new here: no checkpoint of the run was found, so m\u2080 and v\u2080 are 0.", ` Keras adds its \u03b5 = ${meta.step.epsilon} to \u221av; beside \u221av\u0302 that is \u03b5\u0302 = \u03b5 / \u221a(1 \u2212 ${b2}^t).`),
  ];
}

// In words: why the weight moves this way, and by how much.
function why(it, id) {
  const { learning_rate: rate, beta_1: b1, iteration } = meta.step;
  const photo = (1 - b1) * it.g;
  const memory = b1 * it.m0;
  const way = (share) => h("b", {}, share > 0 ? "down" : "up"); // a weight moves against m
  const asks = photo === 0 ? ["This photo's gradient is 0: it asks for nothing. "]
    : [`This photo's gradient is ${photo > 0 ? "above" : "below"} 0, so it asks the weight to go `, way(photo), ", by its share of m, ", num(photo, `share_g ${id}`), ". "];
  const remembers = memory === 0 ? ["There is no memory of earlier steps to join in. "]
    : ["The memory of earlier steps asks for ", way(memory), ", by its share, ", num(memory, `share_m ${id}`), ". "];
  const both = photo !== 0 && memory !== 0;
  const stronger = Math.abs(memory) > Math.abs(photo) ? "memory" : "photo";
  const ratio = Math.max(Math.abs(memory), Math.abs(photo)) / Math.min(Math.abs(memory), Math.abs(photo));
  const together = !both ? null : ["The ", stronger, " is ", num(ratio, `stronger ${id}`, 3), " times as strong as the ", stronger === "photo" ? "memory" : "photo", photo * memory > 0 ? ", and both agree: " : " and prevails: "];
  const pace = Math.abs(it.step) / rate;
  const size = pace > 1 ? "so large beside" : "smaller than";
  const moves = it.step === 0 ? ["So the weight stays where it is."]
    : [both ? "the weight goes " : "So the weight goes ", way(it.step), ". The step is ", num(pace, `pace ${id}`, 3), ` times the learning rate (${rate}), because m\u0302 is ${size} \u221av\u0302 + \u03b5\u0302: their quotient is the step in learning rates.`];
  return h("div", { class: "why" },
    h("p", {}, asks, remembers, together, moves),
    h("p", { class: "say" }, `The page takes this one step itself: with this one photo, as a batch of one, from ${iteration > 1 ? "the weights and the memory that the run ended with" : "the weights of the model file"}. The run's own steps were taken with batches of photos.`));
}

const round = (value) => String(Number(value.toPrecision(6)));
