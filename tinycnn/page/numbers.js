// How numbers are written: four significant digits, always with the address of what they are.

import { h } from "./elements.js";

export const f32 = Math.fround; // to the engine's number type

const MINUS = "\u2212";

export function written(value, digits = 4) {
  if (value === null || value === undefined) return "\u2013";
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "\u221e" : MINUS + "\u221e";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size < 1e-3 || size >= 1e6) text = value.toExponential(digits - 1).replace("e+", "e");
  else if (size >= 10 ** (digits - 1)) text = String(Math.round(value));
  else text = value.toPrecision(digits);
  if (text.includes("e") && size >= 1e-3 && size < 1e6) text = String(Number(text));
  return text.replaceAll("-", MINUS);
}

// "1/255 = " in front of a number that is one over a whole one; else nothing.
export function fraction(value) {
  const whole = Math.round(1 / value);
  return whole > 1 && Math.abs(value * whole - 1) < 1e-6 ? `1/${whole} = ` : "";
}

// A number on the page; `address` says what it is in words that the tests know, such as "y 1 5 6 0".
export function num(value, address, digits = 4) {
  const exact = value === null || value === undefined ? "" : String(value);
  return h("span", { class: "n", title: exact, "data-n": Array.isArray(address) ? address.join(" ") : address },
    written(value, digits));
}

export function signed(value, address, digits = 4) {
  const element = num(value, address, digits);
  return value < 0 ? h("span", {}, "(", element, ")") : element;
}
