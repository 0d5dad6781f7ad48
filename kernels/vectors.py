"""Sixteen float32 numbers as one value, so that a compiled kernel can say what it keeps in a vector register.

Loops over small local arrays do not end up in registers: Numba's compiler leaves them in memory. These functions are
the few things that kernels ask of vectors. A processor with narrower registers uses two or four of them for each.

An intrinsic runs while its caller is compiled: its last line gives the types, result(arguments), and `generate`, which
writes LLVM's instructions. Its docstring says what these do when they run.
"""

import operator
from functools import lru_cache, partial

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from .compiling import helper

LANES = 16  # numbers in a vector
WIDEST = 6  # vectors of a block's line: with so many sums no register is left for a mask, so such a line is whole
# AVX-512 has registers for whole vectors, and masks that cost nothing; elsewhere a masked store takes many cycles.
WIDE = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]
# Of a tile: 9 rows by 2 vectors are 18 sums, of 32 registers; or 6 vectors in 12 halves, of 16 registers.
ROWS, VECTORS = (9, 2) if WIDE else (6, 1)
COLUMNS = VECTORS * LANES
STRIP = 8 * LANES  # columns that a single row meets at once
# From WHOLE columns on a tile has all its vectors; MASKED says whether the last of them may lack lanes.
WHOLE, MASKED = (LANES + 1, 1) if WIDE else (COLUMNS, 0)

_NUMBER, _INDEX, _INT32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR, _MASK = ir.VectorType(_NUMBER, LANES), ir.VectorType(ir.IntType(1), LANES)


class _Lanes(types.Type):
    """Sixteen numbers (float32), or sixteen truths, one per lane."""


vector, mask = _Lanes("vector"), _Lanes("mask")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR if kind is vector else _MASK)


def _lane_numbers():
    return ir.Constant(ir.VectorType(_INT32, LANES), list(range(LANES)))


def _spread(builder, value, kind):
    """The same value in all lanes."""
    unset = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
    everywhere = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(unset, value, ir.Constant(_INT32, 0)), unset, everywhere)


def _first(builder, count):
    """A mask of the first `count` lanes: none below 1, all above 15. What a mask leaves out touches no memory."""
    return builder.icmp_signed("<", _lane_numbers(), _spread(builder, builder.trunc(count, _INT32), _INT32))


def _address(context, builder, array, data, i, kind=_VECTOR):
    start = context.make_array(array)(context, builder, data).data
    return builder.bitcast(builder.gep(start, [i]), kind.as_pointer())


def _llvm(builder, name, result, parameters, values):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)
    return builder.call(function, values)


def _multiply_add(builder, a, b, c):
    return _llvm(builder, f"llvm.fma.v{LANES}f32", _VECTOR, [_VECTOR] * 3, [a, b, c])


def _load(builder, address, lanes, kind=_VECTOR):
    """The vector at an address; with zeros where the mask `lanes`, if there is one, is 0."""
    if lanes is None:
        return builder.load(address, align=1)
    zero = ir.Constant(kind, [0] * LANES)
    parameters = [address.type, _INT32, _MASK, kind]
    # Aligned to 1 byte, as rows begin anywhere; p0 is a pointer to ordinary memory.
    name = f"llvm.masked.load.v{LANES}{'f32' if kind.element == _NUMBER else 'i8'}.p0"
    return _llvm(builder, name, kind, parameters, [address, ir.Constant(_INT32, 1), lanes, zero])


def _store(builder, value, address, lanes):
    if lanes is None:
        builder.store(value, address, align=1)
        return
    name = f"llvm.masked.store.v{LANES}{'f32' if value.type.element == _NUMBER else 'i8'}.p0"
    parameters = [value.type, address.type, _INT32, _MASK]
    _llvm(builder, name, ir.VoidType(), parameters, [value, address, ir.Constant(_INT32, 1), lanes])


def _by_count(builder, count, act):
    """act(mask of the first `count` lanes), or where masks are slow act(None) if that is all lanes."""
    if WIDE:
        act(_first(builder, count))
        return
    whole = builder.icmp_signed(">=", count, ir.Constant(_INDEX, LANES))
    with builder.if_else(whole, likely=True) as (without_mask, with_mask):
        with without_mask:
            act(None)
        with with_mask:
            act(_first(builder, count))


@intrinsic
def spread(typingctx, x):
    """x in all lanes."""

    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0], _NUMBER)

    return vector(types.float32), generate


@intrinsic
def load(typingctx, array, i, count):
    """array[i : i + count] of a flat float32 or int8 array, with zeros in the lanes after; count may be above 16."""

    def generate(context, builder, signature, arguments):
        data, i, count = arguments
        small = signature.args[0].dtype == types.int8
        kind = ir.VectorType(ir.IntType(8), LANES) if small else _VECTOR
        address = _address(context, builder, signature.args[0], data, i, kind)
        if not small:
            return _load(builder, address, _first(builder, count))
        place = cgutils.alloca_once(builder, kind)
        _by_count(builder, count, lambda lanes: builder.store(_load(builder, address, lanes, kind), place))
        return builder.sitofp(builder.load(place), _VECTOR)

    return vector(array, types.intp, types.intp), generate


@intrinsic
def store(typingctx, array, i, x, count):
    """array[i : i + count] = x, for a flat float32 array, or an int8 one, for which x is rounded towards 0."""

    def generate(context, builder, signature, arguments):
        data, i, x, count = arguments
        small = signature.args[0].dtype == types.int8
        kind = ir.VectorType(ir.IntType(8), LANES) if small else _VECTOR
        address = _address(context, builder, signature.args[0], data, i, kind)
        value = builder.fptosi(x, kind) if small else x
        _by_count(builder, count, lambda lanes: _store(builder, value, address, lanes))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, types.intp), generate


@intrinsic
def multiply_add(typingctx, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, arguments):
        return _multiply_add(builder, *arguments)

    return vector(vector, vector, vector), generate


@intrinsic
def beats(typingctx, value, best):
    """Where value is larger than best, or is NaN while best is not: the first NaN stays."""

    def generate(context, builder, signature, arguments):
        value, best = arguments
        return builder.and_(builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best))

    return mask(vector, vector), generate


@intrinsic
def equal(typingctx, a, b):
    """Where a equals b."""

    def generate(context, builder, signature, arguments):
        return builder.fcmp_ordered("==", *arguments)

    return mask(vector, vector), generate


@intrinsic
def above_zero(typingctx, x):
    """Where x is above 0, or NaN."""

    def generate(context, builder, signature, arguments):
        return builder.fcmp_unordered(">", arguments[0], ir.Constant(_VECTOR, [0.0] * LANES))

    return mask(vector), generate


@intrinsic
def where(typingctx, condition, a, b):
    """a where the mask holds, else b, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return vector(mask, vector, vector), generate


@intrinsic
def mask_bits(typingctx, condition, count):
    """The mask's first `count` lanes, or all 16 if it is above that, as the low bits of a whole number."""

    def generate(context, builder, signature, arguments):
        condition, count = arguments
        bits = builder.bitcast(builder.and_(condition, _first(builder, count)), ir.IntType(LANES))
        return builder.zext(bits, _INDEX)

    return types.int64(mask, types.intp), generate


@intrinsic
def lowest_bit(typingctx, bits):
    """The position of the lowest 1 of a whole number that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def without_lowest_bit(typingctx, bits):
    """A whole number that is not 0 without its lowest 1; the highest bit is one like the others."""

    def generate(context, builder, signature, arguments):
        return builder.and_(arguments[0], builder.sub(arguments[0], ir.Constant(_INDEX, 1)))

    return types.int64(types.int64), generate


@intrinsic
def pick(typingctx, array, i):
    """array[i] of a flat array, without asking whether i is below 0."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(array)(context, builder, arguments[0]).data
        return builder.load(builder.gep(start, [arguments[1]]))

    return array.dtype(array, types.intp), generate


def block_shape(lines: int, vectors: int) -> tuple[tuple[int, ...], ...]:
    """The shape of a block, lines of vectors, as what follows takes it: only its type counts.

    `load_tile` finds a block's vectors anywhere, `load_block` side by side.
    """
    return ((0,) * vectors,) * lines


def _made(context, builder, kind, lines):
    return context.make_tuple(builder, kind, [context.make_tuple(builder, kind.dtype, line) for line in lines])


def _unmade(builder, value):
    return [cgutils.unpack_tuple(builder, line) for line in cgutils.unpack_tuple(builder, value)]


def _kind_of(lines, vectors):
    return types.UniTuple(types.UniTuple(vector, vectors), lines)


def _addresses(context, builder, array, arguments, kind):
    """For each line of a block the addresses of its vectors."""
    data, i, down, across = arguments
    lines = []
    for line in range(kind.count):
        start = builder.add(i, builder.mul(down, ir.Constant(_INDEX, line)))
        places = [builder.add(start, builder.mul(across, ir.Constant(_INDEX, k))) for k in range(kind.dtype.count)]
        lines.append([_address(context, builder, array, data, place) for place in places])
    return lines


def _places(context, builder, array, arguments, kind):
    """The same for vectors side by side, each with a mask, or None where all lanes are there."""
    *place, count = arguments
    last = ir.Constant(_INDEX, (kind.dtype.count - 1) * LANES)
    masks = [None] * kind.dtype.count
    masks[-1] = None if kind.dtype.count == WIDEST else _first(builder, builder.sub(count, last))
    lines = _addresses(context, builder, array, (*place, ir.Constant(_INDEX, LANES)), kind)
    return [list(zip(line, masks, strict=True)) for line in lines]


@intrinsic
def load_block(typingctx, shape, array, i, step, count):
    """Lines of `count` numbers, from array[i], array[i + step] and so on, as a block of this shape.

    A line may go on beyond the block. Only the last vector of a line may lack lanes, and none may in a block that is
    WIDEST vectors wide.
    """
    result = _kind_of(shape.count, shape.dtype.count)

    def generate(context, builder, signature, arguments):
        lines = _places(context, builder, array, arguments[1:], shape)
        return _made(context, builder, result, [[_load(builder, *part) for part in line] for line in lines])

    return result(shape, array, types.intp, types.intp, types.intp), generate


@intrinsic
def add_block(typingctx, sums, factor, array, i, step, count):
    """sums + factor * the block that `load_block` would find, each product added with one rounding."""

    def generate(context, builder, signature, arguments):
        factor, lines = _spread(builder, arguments[1], _NUMBER), _places(context, builder, array, arguments[2:], sums)
        added = [
            [_multiply_add(builder, factor, _load(builder, *part), total) for part, total in zip(*both, strict=True)]
            for both in zip(lines, _unmade(builder, arguments[0]), strict=True)
        ]
        return _made(context, builder, sums, added)

    return sums(sums, types.float32, array, types.intp, types.intp, types.intp), generate


@intrinsic
def store_block(typingctx, array, i, step, count, sums):
    """Put a block where `load_block` would find it."""

    def generate(context, builder, signature, arguments):
        rest = builder.sub(arguments[3], ir.Constant(_INDEX, (sums.dtype.count - 1) * LANES))
        lines = _places(context, builder, array, arguments[:4], sums)
        for line, values in zip(lines, _unmade(builder, arguments[4]), strict=True):
            for (place, cut), value in zip(line, values, strict=True):
                put = partial(_store, builder, value, place)
                _by_count(builder, rest, put) if cut else put(None)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, sums), generate


@intrinsic
def load_tile(typingctx, shape, array, i, down, across, count):
    """The vectors at array[i + line * down + k * across], of `count` lanes each, as a block of this shape."""
    result = _kind_of(shape.count, shape.dtype.count)

    def generate(context, builder, signature, arguments):
        lanes = _first(builder, arguments[5])
        lines = _addresses(context, builder, array, arguments[1:5], shape)
        return _made(context, builder, result, [[_load(builder, place, lanes) for place in line] for line in lines])

    return result(shape, array, *[types.intp] * 4), generate


@intrinsic
def store_tile(typingctx, array, i, down, across, count, tile):
    """Put a block where `load_tile` would find it."""

    def generate(context, builder, signature, arguments):
        lines = _addresses(context, builder, array, arguments[:4], tile)

        def put(lanes):
            for line, values in zip(lines, _unmade(builder, arguments[5]), strict=True):
                for place, value in zip(line, values, strict=True):
                    _store(builder, value, place, lanes)

        _by_count(builder, arguments[4], put)
        return context.get_dummy_value()

    return types.void(array, *[types.intp] * 4, tile), generate


def sandwich(matrix):
    """A function that takes a block d to M d M^T.

    The numbers of a row of M are 0 or of one size, and at least one of them is positive.
    """

    @intrinsic
    def transform(typingctx, tile):
        result = _kind_of(len(matrix), len(matrix))

        def generate(context, builder, signature, arguments):
            columns = zip(*_unmade(builder, arguments[0]), strict=True)
            mixed = [[_combination(builder, row, column) for row in matrix] for column in columns]
            lines = zip(*mixed, strict=True)
            return _made(
                context, builder, result, [[_combination(builder, row, line) for row in matrix] for line in lines]
            )

        return result(tile), generate

    return transform


def _combination(builder, factors, values):
    """The sum of values times factors, the positive ones first."""
    terms = [(factor, value) for factor, value in zip(factors, values, strict=True) if factor]
    (factor, total), *others = sorted(terms, key=lambda term: term[0] < 0)
    for other, value in others:
        total = builder.fadd(total, value) if other > 0 else builder.fsub(total, value)
    return total if factor == 1 else builder.fmul(total, ir.Constant(_VECTOR, [factor] * LANES))


def _define(operation, instruction):
    @type_callable(operation)
    def type_of(context):
        return lambda a, b: vector if a is vector and b is vector else None

    @lower_builtin(operation, vector, vector)
    def generate(context, builder, signature, arguments):
        return getattr(builder, instruction)(*arguments)


_define(operator.add, "fadd")
_define(operator.iadd, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


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
            return ir.Constant(_INDEX, value)

        def vector_at(start, i):
            return builder.bitcast(builder.gep(start, [i]), _VECTOR.as_pointer())

        masked = signature.args[2].literal_value
        lanes = [_first(builder, builder.sub(count, number(k * LANES))) if masked else None for k in range(width)]
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        # One slot per sum: what only this function sees, LLVM keeps in registers.
        sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(width)] for _ in range(height)]
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
                    _load(builder, vector_at(w, builder.add(tap, number(k * LANES))), lanes[k]) for k in range(width)
                ]
                position = builder.add(corner, builder.mul(q.index, step))
                for r in range(height):
                    value = _spread(builder, builder.load(builder.gep(pixels[r], [position])), _NUMBER)
                    for k in range(width):
                        builder.store(_multiply_add(builder, value, weights[k], builder.load(sums[r][k])), sums[r][k])
        targets = [
            [vector_at(out, builder.add(place, builder.add(builder.mul(filters, number(r)), number(k * LANES))))
             for k in range(width)] for r in range(height)
        ]  # fmt: skip
        with builder.if_then(add):
            for r in range(height):
                for k in range(width):
                    old = _load(builder, targets[r][k], lanes[k])
                    builder.store(builder.fadd(old, builder.load(sums[r][k])), sums[r][k])
        for r in range(height):
            for k in range(width):
                _store(builder, builder.load(sums[r][k]), targets[r][k], lanes[k])
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
