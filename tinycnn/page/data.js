// The block of data that the page was written with: what it says, and its arrays, unpacked when somebody asks.

export const meta = JSON.parse(document.getElementById("meta").textContent);

const TYPES = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int32: Int32Array, float16: Uint16Array,
};
const ready = new Map();
const coming = new Map();

// The numbers of an array, or null while they are unpacked.
export function array(name) {
  return ready.get(name) ?? null;
}

export function load(name) {
  if (!coming.has(name)) coming.set(name, unpack(name));
  return coming.get(name);
}

export function packedSize(name) {
  return document.getElementById(`array:${name}`).textContent.length;
}

export async function loadAll(names) {
  await Promise.all(names.map(load));
}

async function unpack(name) {
  const { type, shape } = meta.arrays[name];
  const Type = TYPES[type];
  const element = document.getElementById(`array:${name}`);
  const packed = bytesOf(element.textContent);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = Type.BYTES_PER_ELEMENT;
  const count = shape.reduce((a, b) => a * b, 1);
  const bytes = new Uint8Array(count * size); // the first bytes of all numbers, then the second, ...
  for (let k = 0; k < size; k++) for (let i = 0, from = k * count; i < count; i++) bytes[i * size + k] = planes[from + i];
  const numbers = new Type(bytes.buffer);
  ready.set(name, type === "float16" ? Float32Array.from(numbers, half) : numbers);
  return ready.get(name);
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
