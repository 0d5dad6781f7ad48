// From numbers to colours: one hue for how strongly a unit answers, blue - paper - orange for numbers with a sign.

const SCALES = {
  light: { strength: [[247, 246, 242], [108, 170, 178], [8, 62, 82]], below: [37, 99, 176], paper: [250, 249, 246], above: [206, 98, 14] },
  dark: { strength: [[24, 27, 31], [40, 112, 125], [190, 240, 235]], below: [96, 165, 250], paper: [32, 35, 40], above: [251, 146, 60] },
};

export function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

const scale = () => SCALES[isDark() ? "dark" : "light"];

function mix(a, b, share) {
  return [0, 1, 2].map((i) => Math.round(a[i] + (b[i] - a[i]) * share));
}

function ramp(colours, share) {
  const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const low = Math.min(Math.floor(place), colours.length - 2);
  return mix(colours[low], colours[low + 1], place - low);
}

// Small values would not be seen beside large ones: colours grow with a root of the value.
const ROOT = 0.7;

export function strength(value, top) {
  return ramp(scale().strength, top > 0 ? Math.max(value / top, 0) ** ROOT : 0);
}

export function sign(value, top) {
  const { below, paper, above } = scale();
  const share = top > 0 ? Math.min(Math.abs(value) / top, 1) ** ROOT : 0;
  return mix(paper, value < 0 ? below : above, share);
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// Black or white, whichever reads better on a colour.
export function ink([r, g, b]) {
  const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * x + 0.7152 * y + 0.0722 * z;
  return (light + 0.05) / 0.05 > 1.05 / (light + 0.05) ? "#000" : "#fff";
}

// A table of 256 colours for pictures with many pixels: for values from 0 to top, or from -top to top.
export function table(signedValues) {
  const colours = new Uint32Array(256);
  const bytes = new Uint8Array(colours.buffer);
  for (let i = 0; i < 256; i++) {
    const [r, g, b] = signedValues ? sign((i - 127.5) / 127.5, 1) : strength(i, 255);
    bytes.set([r, g, b, 255], i * 4);
  }
  return colours;
}
