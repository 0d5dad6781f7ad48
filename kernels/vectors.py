"""Sixteen float32 numbers as one value, so that a compiled kernel can say what it keeps in a vector register.

Loops over small local arrays do not end up in registers: Numba's compiler leaves them in memory. These functions are
the few things that kernels ask of vectors. A processor with narrower registers uses two or four of them for each.

An intrinsic runs while its caller is compiled: its last line gives the types, result(arguments), and `generate`, which
writes LLVM's instructions. Its docstring says what these do when they run.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from . import instructions
from .instructions import INDEX, LANES, MASK, NUMBER, VECTOR


class _Lanes(types.Type):
    """Sixteen numbers (float32), or sixteen truths, one per lane."""


vector, mask = _Lanes("vector"), _Lanes("mask")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, VECTOR if kind is vector else MASK)


@intrinsic
def spread(typingctx, x):
    """x in all lanes."""

    def generate(context, builder, signature, arguments):
        return instructions.spread(builder, arguments[0], NUMBER)

    return vector(types.float32), generate


@intrinsic
def load(typingctx, array, i, count):
    """array[i : i + count] of a flat float32 or int8 array, with zeros in the lanes after; count may be above 16."""

    def generate(context, builder, signature, arguments):
        data, i, count = arguments
        small = signature.args[0].dtype == types.int8
        kind = ir.VectorType(ir.IntType(8), LANES) if small else VECTOR
        address = instructions.address(context, builder, signature.args[0], data, i, kind)
        if not small:
            return instructions.load(builder, address, instructions.first_lanes(builder, count))
        place = cgutils.alloca_once(builder, kind)
        instructions.by_count(
            builder, count, lambda lanes: builder.store(instructions.load(builder, address, lanes, kind), place)
        )
        return builder.sitofp(builder.load(place), VECTOR)

    return vector(array, types.intp, types.intp), generate


@intrinsic
def store(typingctx, array, i, x, count):
    """array[i : i + count] = x, for a flat float32 array, or an int8 one, for which x is rounded towards 0."""

    def generate(context, builder, signature, arguments):
        data, i, x, count = arguments
        small = signature.args[0].dtype == types.int8
        kind = ir.VectorType(ir.IntType(8), LANES) if small else VECTOR
        address = instructions.address(context, builder, signature.args[0], data, i, kind)
        value = builder.fptosi(x, kind) if small else x
        instructions.by_count(builder, count, lambda lanes: instructions.store(builder, value, address, lanes))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, types.intp), generate


@intrinsic
def multiply_add(typingctx, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, arguments):
        return instructions.multiply_add(builder, *arguments)

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
        return builder.fcmp_unordered(">", arguments[0], ir.Constant(VECTOR, [0.0] * LANES))

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
        bits = builder.bitcast(builder.and_(condition, instructions.first_lanes(builder, count)), ir.IntType(LANES))
        return builder.zext(bits, INDEX)

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
        return builder.and_(arguments[0], builder.sub(arguments[0], ir.Constant(INDEX, 1)))

    return types.int64(types.int64), generate


@intrinsic
def pick(typingctx, array, i):
    """array[i] of a flat array, without asking whether i is below 0."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(array)(context, builder, arguments[0]).data
        return builder.load(builder.gep(start, [arguments[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def fetch(typingctx, array, i, count):
    """Ask for array[i : i + count] of a flat array to be brought into the second cache; nobody waits for it.

    What lies beyond the array does no harm.
    For what will be read here and there: the processor itself foresees only what is read in order.
    """

    def generate(context, builder, signature, arguments):
        data, i, count = arguments
        size = builder.mul(count, ir.Constant(INDEX, signature.args[0].dtype.bitwidth // 8))
        instructions.fetch(builder, instructions.address(context, builder, signature.args[0], data, i, INDEX), size)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


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
