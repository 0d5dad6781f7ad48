// The photo itself: as it is, as the network sees it, where a class was seen in it, and changed as in training.


import { array, meta } from "./data.js";
import { canvas, h, keep } from "./elements.js";
import { stages } from "./network.js";
import { fraction, num, written } from "./numbers.js";
import { set, state } from "./state.js";

export function photoView(word) {
  const { picture } = meta;
  const [rows, cols] = stages[0].shape;
  const { settings } = picture;
  const image = keep("photograph", () => h("img", { src: `data:image/jpeg;base64,${picture.jpeg}`, alt: "the photo as it is" }));
  return [
    h("div", { class: "pane" }, h("h2", {}, "The photo"),
      h("div", { class: "photos" },
        h("figure", {}, image, h("figcaption", {}, `as it is: ${picture.size[1]}\u00d7${picture.size[0]}`)),
        h("figure", {}, pixels("pixels", 0, rows, cols, 150), h("figcaption", {}, `as the network sees it: ${cols}\u00d7${rows}, ${settings.interpolation}${settings.rescale ? `, times ${fraction(settings.rescale)}${written(settings.rescale)}` : ""}`)),
        meta.class_maps ? classMap(rows, cols, word) : null)),
    h("div", { class: "pane" }, h("h3", {}, word("augmentation", "Augmentation"), ": twelve draws"),
      h("p", { class: "say" }, picture.augmented === false ? "This run was trained without; so the photo would have been changed:" : "In training each epoch showed every photo changed like this, at random:"),
      h("div", { class: "draws" }, picture.draws.map((drawn, i) => h("figure", {}, pixels("changed", i, rows, cols, 84), h("figcaption", {},
        "shear ", num(drawn.shear, `draw ${i} shear`, 3), "\u00b0", h("br"), "zoom ", num(drawn.zx, `draw ${i} zx`, 3), " \u00d7 ", num(drawn.zy, `draw ${i} zy`, 3), h("br"), drawn.flip_horizontal ? "mirrored" : "not mirrored")))),
      h("p", { class: "say" }, `Shear lies within \u00b1${picture.ranges.shear_range} degrees, which at this size moves no pixel by more than ${written((rows * Math.PI * picture.ranges.shear_range) / 180, 2)}; zoom is drawn for width and height apart, from ${written(1 - picture.ranges.zoom_range)} (nearer) to ${written(1 + picture.ranges.zoom_range)}.`)),
  ];
}

function pixels(name, number, rows, cols, width) {
  const channels = stages[0].shape[2];
  const raw = array(name);
  const start = number * rows * cols * channels;
  const scale = width / cols;
  const [element, context] = canvas(width, rows * scale, { "aria-hidden": "true" });
  const data = new ImageData(cols, rows);
  for (let k = 0; k < rows * cols; k++) {
    for (let c = 0; c < 3; c++) data.data[k * 4 + c] = raw[start + k * channels + (channels < 3 ? 0 : c)];
    data.data[k * 4 + 3] = 255;
  }
  stamp(context, data, width, rows * scale, false);
  return element;
}

function stamp(context, data, width, height, smooth) {
  const small = document.createElement("canvas");
  small.width = data.width;
  small.height = data.height;
  small.getContext("2d").putImageData(data, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.drawImage(small, 0, 0, width, height);
}

function classMap(rows, cols, word) {
  const { maps, stage } = meta.class_maps;
  const [count, h0, w0] = meta.arrays[maps].shape;
  const chosen = Math.min(state.look ?? meta.predicted, count - 1);
  const values = array(maps).subarray(chosen * h0 * w0, (chosen + 1) * h0 * w0);
  const top = values.reduce((a, b) => Math.max(a, b), 0);
  const element = pixels("pixels", 0, rows, cols, 150);
  const context = element.getContext("2d");
  const data = new ImageData(w0, h0);
  const colour = [255, 140, 0];
  values.forEach((value, k) => {
    data.data.set([...colour, Math.round(top > 0 ? (value / top) * 190 : 0)], k * 4);
  });
  stamp(context, data, 150, (rows / cols) * 150, true);
  const choice = keep("class map", () => h("select", { "aria-label": "class of the map", "data-key": "class map", onchange: (event) => set({ look: Number(event.target.value) }) }, meta.classes.slice(0, count).map((name, k) => h("option", { value: k }, name))));
  choice.value = chosen;
  return h("figure", {}, element, h("figcaption", {}, word("Grad-CAM"), " for ", choice, h("br"), top > 0 ? [`what in ${stages[stage].name} speaks for it; strongest `, num(top, `cam ${chosen}`), ". ReLU is applied to the sum: what speaks against it is left out."] : `nothing in ${stages[stage].name} speaks for it`));
}
