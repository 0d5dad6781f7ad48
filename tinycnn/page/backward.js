// Backward: where a unit's gradient comes from, term by term, what stops it, and where it goes.

import { meta } from "./data.js";
import { h } from "./elements.js";
import { tie, unitLink, weightLink, winnerOf } from "./forward.js";
import { flat, gradientTerms, gy, gz, isWeighted, largest, last, stages, stored, sum, termsOf, unitName, weightShape, y, z } from "./network.js";
import { num, signed } from "./numbers.js";
import { state } from "./state.js";

const TERMS = 10;

export function backwardView(word) {
  const { unit } = state;
  const { s } = unit;
  const k = flat(stages[s].shape, unit.at);
  if (isWeighted(s) && !stored(s, "w")) return [h("p", { class: "say" }, "\u2026")];
  const next = stages[s + 1]?.kind === "flatten" ? s + 2 : s + 1;
  if (next <= last && isWeighted(next) && !stored(next, "w")) return [h("p", { class: "say" }, "\u2026")];
  return [
    h("div", { class: "pane" },
      h("h2", {}, unitName(unit), " backwards"),
      h("p", { class: "say" }, "The ", word("gradient"), " here says how fast the ", word("loss"), " grows with this number: ", s === last ? null : "it is the sum of what comes back from every unit that reads it."),
      s === last ? fromLoss(s, k) : comesFrom(unit, k)),
    h("div", { class: "pane" }, isWeighted(s) ? gate(s, k) : null, goesTo(unit, k)),
  ];
}

function fromLoss(s, k) {
  const sigmoid = meta.output === "sigmoid";
  const label = sigmoid ? meta.true : Number(k === meta.true);
  return h("div", { class: "formula" },
    h("p", {}, `\u2202loss/\u2202z = p \u2212 ${sigmoid ? "label" : "1 for the true class, 0 for others"}`),
    h("p", {}, "= ", num(sigmoid ? stored(s, "y")[0] : stored(s, "y")[k], `p ${k}`), ` \u2212 ${label} = `, num(gz(s, k), `gz ${s} ${k}`)),
    h("p", { class: "say" }, "The slopes of the logarithm and of the ", sigmoid ? "sigmoid" : "softmax", " cancel: what remains is how far the probability is off."));
}

function comesFrom(unit, k) {
  const { s } = unit;
  const terms = gradientTerms(unit).map((term) => ({ ...term, product: term.g * term.w }));
  const total = gy(s, k);
  if (!terms.length) return h("p", { class: "zero" }, "The gradient is ", num(total, `gy ${s} ${k}`), ": no window of the next stage reads this place.");
  const behind = s + 2;
  if (terms[0].kind === "same" && stages[s + 1].kind === "flatten" && behind <= last && stages[behind].kind === "dense") {
    return [h("p", { class: "say" }, "Flattening changes nothing: as ", unitLink(s + 1, k), " it is read by every unit of ", h("b", {}, stages[behind].name), "."), ...comesFrom({ s: s + 1, at: [k] }, k)];
  }
  if (terms[0].kind === "same") return h("p", {}, "From ", unitLink(s + 1, terms[0].to), ", unchanged: ", num(total, `gy ${s} ${k}`), ".");
  if (terms[0].kind === "pool") return fromPool(s, k, terms, total);
  const named = largest(terms, (term) => term.product, TERMS);
  const rest = sum(terms, (term) => term.product) - sum(named, (term) => term.product);
  const shape = weightShape(s + 1);
  return [
    h("div", { class: "formula" }, h("p", {}, "\u2202loss/\u2202y = \u03a3 g\u00b7w = ", num(total, `gy ${s} ${k}`))),
    total === 0 ? h("p", { class: "zero" }, "Zero: every unit that reads it is off, or sends nothing back.") : null,
    h("table", { class: "terms" },
      h("thead", {}, h("tr", {}, ["largest terms: from", "its gradient g", "w", "g\u00b7w"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, named.map((term) => h("tr", {},
        h("th", { scope: "row" }, unitLink(s + 1, term.to)),
        h("td", {}, num(term.g, `gz ${s + 1} ${term.to}`)),
        h("td", {}, weightLink({ s: s + 1, part: "w", at: term.at }, num(term.w, `w ${s + 1} ${flat(shape, term.at)}`))),
        h("td", {}, num(term.product, `back ${s + 1} ${term.to} ${flat(shape, term.at)}`)))),
      terms.length > named.length ? h("tr", { class: "rest" }, h("th", { scope: "row", colspan: 3 }, `the other ${(terms.length - named.length).toLocaleString("en")}, together`), h("td", {}, num(rest, `backrest ${s} ${k} ${TERMS}`))) : null)),
  ];
}

function fromPool(s, k, terms, total) {
  return [
    h("div", { class: "formula" }, h("p", {}, "\u2202loss/\u2202y = ", num(total, `gy ${s} ${k}`))),
    h("ul", { class: "fates" }, terms.map((term) => term.won
      ? h("li", {}, tie(s + 1, term.to) ? ["In ", unitLink(s + 1, term.to), ": ", tie(s + 1, term.to), " That is this one: the gradient "] : ["It was the largest in ", unitLink(s + 1, term.to), ", whose gradient "], num(term.g, `gy ${s + 1} ${term.to}`), " comes back to it whole.", term.g === 0 ? " That one is zero: nothing behind it listened." : "")
      : h("li", { class: "zero" }, "It lost the pool ", unitLink(s + 1, term.to), " to ", unitLink(s, winnerOf(s + 1, term.to)), ": ", y(s, k) === y(s + 1, term.to) ? [tie(s + 1, term.to), " "] : null, "That one gets the gradient, this one nothing."))),
  ];
}

function gate(s, k) {
  const stage = stages[s];
  const before = z(s, k);
  const g = gz(s, k);
  if (stage.activation === "relu") {
    return [h("h3", {}, "Through the ReLU"), h("div", { class: "formula" }, h("p", {}, "\u2202loss/\u2202z = \u2202loss/\u2202y \u00d7 ", before > 0 ? "1" : "0", " = ", num(g, `gz ${s} ${k}`))),
      before > 0 ? h("p", { class: "say" }, "z = ", num(before, `z ${s} ${k}`), " is above 0: ReLU lets the gradient through.") : h("p", { class: "zero" }, "ReLU is off here: z = ", num(before, `z ${s} ${k}`), " is not above 0, so no small change of it changes anything, and the gradient ends.")];
  }
  if (s === last) return null;
  return [h("h3", {}, `Through ${stage.activation}`), h("div", { class: "formula" }, h("p", {}, "\u2202loss/\u2202z = ", num(g, `gz ${s} ${k}`)))];
}

function goesTo(unit, k) {
  const { s, at } = unit;
  if (s === 0) return [h("h3", {}, "The photo"), h("p", { class: "say" }, "Here the way back ends. A photo is not learned; but this says how its pixel would have to change to lessen the loss: against its gradient.")];
  const stage = stages[s];
  if (stage.kind === "pool") {
    const winner = winnerOf(s, k);
    return [h("h3", {}, "Where it goes"), h("p", {}, "All of it to the winner, ", unitLink(s - 1, winner), ": ", num(gy(s, k), `gy ${s} ${k}`), "."), h("p", { class: "say" }, "The others in its window get nothing.", tie(s, k) ? [" ", tie(s, k)] : null)];
  }
  if (!isWeighted(s)) return [h("h3", {}, "Where it goes"), h("p", {}, "To ", unitLink(s - 1, k), ": ", num(gy(s, k), `gy ${s} ${k}`), ".")];
  const g = gz(s, k);
  if (g === 0) return h("p", { class: "zero" }, "Nothing goes further back from here, and none of its weights learns from this place.");
  const shape = weightShape(s);
  const named = largest(termsOf(unit), (term) => term.w, 5);
  const learned = largest(termsOf(unit), (term) => term.x, 5);
  const table = (head, terms, value, address) => h("table", { class: "terms" }, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, terms.map((term) => h("tr", {}, value(term), h("td", {}, num(address(term).value, address(term).name))))));
  return [h("h3", {}, "Where it goes"),
    table(["to what it read: g\u00b7w", "", ""], named, (term) => [h("th", { scope: "row" }, unitLink(s - 1, term.from)), h("td", {}, num(g, `gz ${s} ${k}`), " \u00d7 ", signed(term.w, `w ${s} ${flat(shape, term.at)}`))], (term) => ({ value: g * term.w, name: `back ${s} ${k} ${flat(shape, term.at)}` })),
    table([`to its weights: g\u00b7x${stage.kind === "conv" ? ", one place of many" : ""}`, "", ""], learned, (term) => [h("th", { scope: "row" }, weightLink({ s, part: "w", at: term.at })), h("td", {}, num(g, `gz ${s} ${k}`), " \u00d7 ", signed(term.x, `y ${s - 1} ${term.from}`))], (term) => ({ value: g * term.x, name: `learn ${s} ${k} ${term.from}` }))];
}
