"""Matrix products by tiles whose sums stay in registers: what convolutions and dense layers spend their time on."""

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import instructions
from .compiling import helper
from .instructions import INDEX, LANES, NUMBER, VECTOR, WIDE

# Of a tile: 9 rows by 2 vectors are 18 sums, of 32 registers; or 6 vectors in 12 halves, of 16 registers.
ROWS, VECTORS = (9, 2) if WIDE else (6, 1)
COLUMNS = VECTORS * LANES
STRIP = 8 * LANES  # columns that a single row meets at once
# From WHOLE columns on a tile has all its vectors; MASKED says whether the last of them may lack lanes.
WHOLE, MASKED = (LANES + 1, 1) if WIDE else (COLUMNS, 0)


@intrinsic(prefer_literal=True)
def _multiply_tile(
    typingctx, rows, vectors, masked, x, at, starts, row, line, step, lines, run, w, column, filters, count, out, place,
    add,
):  # fmt: skip
    """The body of `multiply` for numbers of rows and vectors known when compiling; `masked` if columns may lack."""

    def generate(context, builder, signature, arguments):
        _, _, _, _, at, _, row, line, step, lines, run, _, column, filters, count, _, place, add = arguments
        height, width = (signature.args[i].literal_value for i in (0, 1))
        x, starts, w, out = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (3, 5, 11, 15)
        )

        def number(value):
            return ir.Constant(INDEX, value)

        def vector_at(start, i):
            return builder.bitcast(builder.gep(start, [i]), VECTOR.as_pointer())

        masked = signature.args[2].literal_value
        lanes = [None] * width
        if masked:
            lanes = [instructions.first_lanes(builder, builder.sub(count, number(k * LANES))) for k in range(width)]
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        # One slot per sum: what only this function sees, LLVM keeps in registers.
        sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(width)] for _ in range(height)]
        for total in (total for pair in sums for total in pair):
            builder.store(zero, total)
        pixels = []
        for r in range(height):
            start = builder.load(builder.gep(starts, [builder.add(row, number(r))]))
            pixels.append(builder.gep(x, [builder.add(at, start)]))
        with cgutils.for_range(builder, lines) as a:
            corner, first_tap = builder.mul(a.index, line), builder.mul(a.index, run)
            with cgutils.for_range(builder, run) as q:
                # Each weight is loaded once for all rows, each number of x once for all vectors.
                tap = builder.add(builder.mul(builder.add(first_tap, q.index), filters), column)
                weights = [
                    instructions.load(builder, vector_at(w, builder.add(tap, number(k * LANES))), lanes[k])
                    for k in range(width)
                ]
                position = builder.add(corner, builder.mul(q.index, step))
                for r in range(height):
                    value = instructions.spread(builder, builder.load(builder.gep(pixels[r], [position])), NUMBER)
                    for k in range(width):
                        builder.store(
                            instructions.multiply_add(builder, value, weights[k], builder.load(sums[r][k])), sums[r][k]
                        )
        targets = [
            [vector_at(out, builder.add(place, builder.add(builder.mul(filters, number(r)), number(k * LANES))))
             for k in range(width)] for r in range(height)
        ]  # fmt: skip
        with builder.if_then(add):
            for r in range(height):
                for k in range(width):
                    old = instructions.load(builder, targets[r][k], lanes[k])
                    builder.store(builder.fadd(old, builder.load(sums[r][k])), sums[r][k])
        for r in range(height):
            for k in range(width):
                instructions.store(builder, builder.load(sums[r][k]), targets[r][k], lanes[k])
        return context.get_dummy_value()

    size = types.intp
    return types.void(
        rows, vectors, masked, x, size, starts, *[size] * 5, w, *[size] * 3, out, size, types.boolean
    ), generate


@lru_cache
def starts_of(rows: int, step: int) -> np.ndarray:
    """Where rows begin that lie `step` numbers apart, for `multiply`."""
    return np.arange(rows) * step


@lru_cache
def starts_in_grid(lines: int, columns: int, down: int, across: int) -> np.ndarray:
    """Where things begin that lie in lines: `down` numbers from line to line, `across` from one to the next in it."""
    return np.add.outer(np.arange(lines) * down, np.arange(columns) * across).reshape(-1)


@helper
def multiply(x, origin, starts, line_step, step, lines, length, w, column, filters, out, out_at, add):
    """Rows of a matrix product, tile by tile: for r < len(starts) and f < filters - column, but below COLUMNS,

    out[out_at + r * filters + f] = sum over a < lines, q < length of
        x[origin + starts[r] + a * line_step + q * step] * w[(a * length + q) * filters + column + f]

    in that order, each product added with one rounding; `add` adds that to what `out` holds. All arrays are flat;
    `starts` says where each row's numbers begin, `filters` how many columns w and out have.
    Convolution: a row is a window, KH lines of KW*C neighbours (step 1). Dense layer: a row is a sample, one line.
    Gradient of a convolution's weights: a row is one tap, its numbers what the tap met at all OH lines of OW windows.
    """
    rows, count = len(starts), filters - column
    moved_back = rows > ROWS and not add  # the last tile may end with the rows and do some twice
    tiles = (rows + ROWS - 1) // ROWS if moved_back else rows // ROWS
    for tile in range(tiles):
        r = min(tile * ROWS, rows - ROWS)
        to = out_at + r * filters
        if count >= WHOLE:
            _multiply_tile(
                ROWS, VECTORS, MASKED, x, origin, starts, r, line_step, step, lines, length, w, column, filters, count,
                out, to, add,
            )  # fmt: skip
        else:
            _multiply_tile(
                ROWS, 1, 1, x, origin, starts, r, line_step, step, lines, length, w, column, filters, count,
                out, to, add,
            )  # fmt: skip
    for r in range(tiles * ROWS, rows):
        to = out_at + r * filters
        _multiply_tile(
            1, VECTORS, 1, x, origin, starts, r, line_step, step, lines, length, w, column, filters, count, out, to, add
        )


@helper
def multiply_rows(x, origin, starts, length, w, column, filters, out, out_at):
    """The same for few rows of one line each, and up to 128 columns: every number of x meets all of them at once."""
    count = filters - column
    for r in range(len(starts)):
        to = out_at + r * filters
        if WIDE or count < STRIP:
            _multiply_tile(1, 8, 1, x, origin, starts, r, 0, 1, 1, length, w, column, filters, count, out, to, False)
        else:
            _multiply_tile(1, 8, 0, x, origin, starts, r, 0, 1, 1, length, w, column, filters, count, out, to, False)
