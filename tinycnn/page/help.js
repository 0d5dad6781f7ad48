// Help: the keys, and every word that the page uses.

import { h, replace } from "./elements.js";
import { GLOSSARY } from "./words.js";

const KEYS = [
  ["\u2190 \u2191 \u2192 \u2193", "move to the neighbouring unit (when the network has the focus)"],
  ["Page Up, Page Down", "the map before, the next map"],
  ["[ and ]", "the stage before, the next stage"],
  ["f b w s a", "forward, backward, weight, step, photo and augmentation"],
  ["Space", "play or pause: the filter slides over its map"],
  [", and .", "one place back, one on"],
  ["e", "play the epochs; the time line's slider moves by arrow keys"],
  ["t", "light or dark"],
  ["Tab", "from part to part"],
  ["?", "this help"],
];

export function showHelp(term = null) {
  const dialog = document.getElementById("help");
  const close = h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close");
  replace(dialog,
    h("div", { class: "help-top" }, h("h2", { id: "help-title" }, "Keys and words"), close),
    h("p", { class: "say" }, "One photo on its way through a network, left to right. Point at anything to see what it can see; click to look closer. Every number is the engine's own; colours grow with a root of it, so that small ones are seen."),
    h("dl", { class: "key-list" }, KEYS.map(([keys, what]) => [h("dt", {}, keys), h("dd", {}, what)])),
    h("h3", {}, "Words"),
    h("dl", {}, Object.entries(GLOSSARY).map(([word, meaning]) => [h("dt", { id: `word-${word}`, class: word === term ? "current" : "" }, word), h("dd", {}, meaning)])));
  if (!dialog.open) dialog.showModal();
  const chosen = term && document.getElementById(`word-${term}`);
  if (chosen) chosen.scrollIntoView({ block: "center" });
  else dialog.scrollTop = 0;
}

// A word of the glossary inside a sentence.
export function word(term, text = term) {
  return h("button", { type: "button", class: "word", title: GLOSSARY[term], "data-key": `word ${term}`, onclick: () => showHelp(term) }, text);
}
