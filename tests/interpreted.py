"""The kernels of the fused ops as plain Python: every access to memory is checked, and planted faults run at once.

What the kernels ask of vectors (vectors.py, blocks.py and products.py in kernels/, where the machine's instructions are
chosen) is said here once more, in NumPy. All else is their own source.
"""

import ast
import sys
from collections.abc import Callable
from types import ModuleType
from unittest import mock

import numpy as np
from checks import ROOT
from tinycnn.kernels import blocks, instructions, memory, products, recording, reference, shapes, threads

LANES = instructions.LANES
FILES = (
    "cpu_parts",
    "cpu_winograd",
    "cpu_routed",
    "cpu_dense",
    "cpu_convolution",
)  # in the order that they import each other
EMULATED_FILES = "instructions", "vectors", "blocks", "products"
Edit = Callable[[str, str], str]


class Lanes:
    """Sixteen numbers, or sixteen truths; never changed in place, as a register's content is not."""

    def __init__(self, values) -> None:
        self.values = values

    def __add__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.values + other.values)

    def __sub__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.values - other.values)

    def __mul__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.values * other.values)


def _inside(array: np.ndarray, places) -> np.ndarray:
    """The places, all of them inside the array."""
    places = np.asarray(places)
    assert array.ndim == 1, "kernels address flat arrays"
    assert array.flags.c_contiguous, "strides are ignored"
    if places.size:
        assert places.min() >= 0, f"place {places.min()} of an array"
        assert places.max() < len(array), f"place {places.max()} of an array of {len(array)}"
    return places


def _count(count: int) -> int:
    return min(max(count, 0), LANES)


def spread(x):
    assert isinstance(x, np.float32)
    return Lanes(np.full(LANES, x))


def load(array, i, count):
    values = np.zeros(LANES, np.float32)
    values[: _count(count)] = array[_inside(array, i + np.arange(_count(count)))]
    return Lanes(values)


def store(array, i, x, count):
    array[_inside(array, i + np.arange(_count(count)))] = x.values[: _count(count)].astype(array.dtype)


def fetch(array, i, count):
    """Changes no number, and reads none: places beyond the array do no harm."""


def pick(array, i):
    return array[_inside(array, i)]


def block_shape(lines, vectors):
    return ((0,) * vectors,) * lines


def load_tile(shape, array, i, down, across, count):
    lines = range(len(shape))
    return [[load(array, i + line * down + k * across, count) for k in range(len(shape[0]))] for line in lines]


def store_tile(array, i, down, across, count, tile):
    for line, values in enumerate(tile):
        for k, value in enumerate(values):
            store(array, i + line * down + k * across, value, count)


def sandwich(matrix):
    def combination(factors, values):
        terms = [np.float32(factor) * value.values for factor, value in zip(factors, values, strict=True) if factor]
        return Lanes(sum(terms[1:], terms[0]))

    def transform(tile):
        columns = [[combination(row, column) for row in matrix] for column in zip(*tile, strict=True)]
        return [[combination(row, line) for row in matrix] for line in zip(*columns, strict=True)]

    return transform


class Block:
    """Lines of numbers (LINES, LANES) as one value; never changed in place."""

    def __init__(self, values) -> None:
        self.values = values


def _places_of(array, i, step, count, lines, lanes):
    """Where the numbers of a block lie, (LINES, COUNT), and how many they are."""
    assert lanes - LANES < count, "only the last vector of a line may lack lanes"
    assert lanes < blocks.WIDEST * LANES or count >= lanes, "a block so wide is whole"
    count = min(count, lanes)
    return _inside(array, i + np.arange(lines)[:, None] * step + np.arange(count)), count


def load_block(shape, array, i, step, count):
    values = np.zeros((len(shape), len(shape[0]) * LANES), np.float32)
    places, count = _places_of(array, i, step, count, *values.shape)
    values[:, :count] = array[places]
    return Block(values)


def add_block(sums, factor, array, i, step, count):
    places, count = _places_of(array, i, step, count, *sums.values.shape)
    values = sums.values.copy()
    values[:, :count] = (array[places].astype(np.float64) * factor + values[:, :count]).astype(np.float32)
    return Block(values)


def store_block(array, i, step, count, sums):
    places, count = _places_of(array, i, step, count, *sums.values.shape)
    array[places] = sums.values[:, :count]


def beats(value, best):
    return Lanes(~(value.values <= best.values) & ~np.isnan(best.values))


def equal(a, b):
    return Lanes(a.values == b.values)


def above_zero(x):
    return Lanes(~(x.values <= 0))


def where(condition, a, b):
    return Lanes(np.where(condition.values, a.values, b.values))


def mask_bits(condition, count):
    return np.int64(sum(1 << k for k in range(_count(count)) if condition.values[k]))


def lowest_bit(bits):
    assert bits != 0
    return (int(bits) & -int(bits)).bit_length() - 1


def without_lowest_bit(bits):
    assert bits != 0
    unsigned = int(bits) % 2**64
    return np.uint64(unsigned & (unsigned - 1)).astype(np.int64)


def next_task(tasks):
    tasks[0] += 1
    return int(tasks[0]) - 1


def _multiply_tile(
    rows, vectors, masked, x, at, starts, row, line, step, lines, run, w, column, filters, count, out, place, add
):
    width = min(count, vectors * LANES)
    assert masked or width == vectors * LANES, "lanes beyond the last column"
    taps = (np.arange(lines)[:, None] * line + np.arange(run) * step).ravel()  # (LINES*RUN,)
    pixels = x[_inside(x, at + starts[row : row + rows, None] + taps)]  # (ROWS, LINES*RUN)
    weights = w[_inside(w, np.arange(lines * run)[:, None] * filters + column + np.arange(width))]
    target = _inside(out, place + np.arange(rows)[:, None] * filters + np.arange(width))  # (ROWS, WIDTH)
    sums = pixels.astype(np.float64) @ weights
    out[target] = sums + out[target] if add else sums


def kernels(edit: Edit = lambda file, text: text) -> ModuleType:
    """A module like kernels/cpu.py, with the public functions of the fused ops; `edit` may change a file's text."""
    package = "tinycnn.interpreted"
    own = {name: module(package, name) for name in (*EMULATED_FILES, "threads", "compiling", *FILES)}
    for file in EMULATED_FILES:
        own[file].__dict__.update(EMULATED, **constants())
    own["products"].__dict__.update(
        {name: alone(edit("products", source("products")), name, EMULATED) for name in ("multiply", "multiply_rows")}
    )
    own["threads"].__dict__.update(vars(threads), next_task=next_task)
    for name in ("compiled", "helper", "inlined"):
        setattr(own["compiling"], name, lambda function: function)
    shared = {"memory": memory, "recording": recording, "shapes": shapes, "reference": reference}
    known = {"": ModuleType(package), **shared, **own}
    with mock.patch.dict(sys.modules, {f"{package}.{name}".strip("."): known[name] for name in known}):
        for file in FILES:
            exec(compile(edit(file, source(file)), f"<{file}>", "exec"), own[file].__dict__)
            for name, value in list(vars(own[file]).items()):
                setattr(own[file], name, getattr(value, "py_func", value))  # not compiled
    public = module(package, "cpu")
    for name in ("conv2d", "conv_relu_max_pool2d", "dense"):
        home = own["cpu_dense" if name == "dense" else "cpu_convolution"]
        public.__dict__.update({name: getattr(home, name), f"{name}_backward": getattr(home, f"{name}_backward")})
    return public


def module(package: str, name: str) -> ModuleType:
    made = ModuleType(f"{package}.{name}")
    made.__package__ = package
    return made


def source(file: str) -> str:
    return (ROOT / "kernels" / f"{file}.py").read_text()


def constants() -> dict:
    """What these files offer that is no compiled function."""
    every = {**vars(instructions), **vars(blocks), **vars(products)}
    plain = {name: value for name, value in every.items() if isinstance(value, int)}
    return {**plain, "starts_of": products.starts_of, "starts_in_grid": products.starts_in_grid}


def alone(text: str, name: str, names: dict) -> Callable:
    """One function of a file, without its decorators."""
    (tree,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)
    tree.decorator_list.clear()
    space = {**names, **constants()}
    exec(compile(ast.Module([tree], []), f"<{name}>", "exec"), space)
    return space[name]


EMULATED = {
    f.__name__: f
    for f in (
        spread, load, store, pick, block_shape, load_tile, store_tile, sandwich, load_block, add_block, store_block,
        beats, equal, above_zero, where, mask_bits, lowest_bit, without_lowest_bit, fetch, _multiply_tile,
    )
}  # fmt: skip
