"""Several vectors as one value: lines of sums that a kernel keeps in registers, and tiles that it transforms."""

from functools import partial

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import instructions
from .instructions import INDEX, LANES, NUMBER, VECTOR
from .vectors import vector

WIDEST = 6  # vectors of a block's line: with so many sums no register is left for a mask, so such a line is whole


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
        start = builder.add(i, builder.mul(down, ir.Constant(INDEX, line)))
        places = [builder.add(start, builder.mul(across, ir.Constant(INDEX, k))) for k in range(kind.dtype.count)]
        lines.append([instructions.address(context, builder, array, data, place) for place in places])
    return lines


def _places(context, builder, array, arguments, kind):
    """The same for vectors side by side, each with a mask, or None where all lanes are there."""
    *place, count = arguments
    last = ir.Constant(INDEX, (kind.dtype.count - 1) * LANES)
    masks = [None] * kind.dtype.count
    masks[-1] = None if kind.dtype.count == WIDEST else instructions.first_lanes(builder, builder.sub(count, last))
    lines = _addresses(context, builder, array, (*place, ir.Constant(INDEX, LANES)), kind)
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
        return _made(context, builder, result, [[instructions.load(builder, *part) for part in line] for line in lines])

    return result(shape, array, types.intp, types.intp, types.intp), generate


@intrinsic
def add_block(typingctx, sums, factor, array, i, step, count):
    """sums + factor * the block that `load_block` would find, each product added with one rounding."""

    def generate(context, builder, signature, arguments):
        factor = instructions.spread(builder, arguments[1], NUMBER)
        lines = _places(context, builder, array, arguments[2:], sums)
        added = [
            [
                instructions.multiply_add(builder, factor, instructions.load(builder, *part), total)
                for part, total in zip(*both, strict=True)
            ]
            for both in zip(lines, _unmade(builder, arguments[0]), strict=True)
        ]
        return _made(context, builder, sums, added)

    return sums(sums, types.float32, array, types.intp, types.intp, types.intp), generate


@intrinsic
def store_block(typingctx, array, i, step, count, sums):
    """Put a block where `load_block` would find it."""

    def generate(context, builder, signature, arguments):
        rest = builder.sub(arguments[3], ir.Constant(INDEX, (sums.dtype.count - 1) * LANES))
        lines = _places(context, builder, array, arguments[:4], sums)
        for line, values in zip(lines, _unmade(builder, arguments[4]), strict=True):
            for (place, cut), value in zip(line, values, strict=True):
                put = partial(instructions.store, builder, value, place)
                instructions.by_count(builder, rest, put) if cut else put(None)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, sums), generate


@intrinsic
def load_tile(typingctx, shape, array, i, down, across, count):
    """The vectors at array[i + line * down + k * across], of `count` lanes each, as a block of this shape."""
    result = _kind_of(shape.count, shape.dtype.count)

    def generate(context, builder, signature, arguments):
        lanes = instructions.first_lanes(builder, arguments[5])
        lines = _addresses(context, builder, array, arguments[1:5], shape)
        return _made(
            context, builder, result, [[instructions.load(builder, place, lanes) for place in line] for line in lines]
        )

    return result(shape, array, *[types.intp] * 4), generate


@intrinsic
def store_tile(typingctx, array, i, down, across, count, tile):
    """Put a block where `load_tile` would find it."""

    def generate(context, builder, signature, arguments):
        lines = _addresses(context, builder, array, arguments[:4], tile)

        def put(lanes):
            for line, values in zip(lines, _unmade(builder, arguments[5]), strict=True):
                for place, value in zip(line, values, strict=True):
                    instructions.store(builder, value, place, lanes)

        instructions.by_count(builder, arguments[4], put)
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
    return total if factor == 1 else builder.fmul(total, ir.Constant(VECTOR, [factor] * LANES))
