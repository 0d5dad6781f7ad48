"""Writes LLVM's instructions for sixteen numbers at once: what vectors.py, blocks.py and products.py are made of.

These functions run while a kernel is compiled, in the `generate` of an intrinsic.
"""

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from .memory import CACHE_LINE

LANES = 16  # numbers in a vector
# AVX-512 has registers for whole vectors, and masks that cost nothing; elsewhere a masked store takes many cycles.
WIDE = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]

NUMBER, INDEX, INT32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
VECTOR, MASK = ir.VectorType(NUMBER, LANES), ir.VectorType(ir.IntType(1), LANES)


def _lane_numbers():
    return ir.Constant(ir.VectorType(INT32, LANES), list(range(LANES)))


def spread(builder, value, kind):
    """The same value in all lanes."""
    unset = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
    everywhere = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(unset, value, ir.Constant(INT32, 0)), unset, everywhere)


def first_lanes(builder, count):
    """A mask of the first `count` lanes: none below 1, all above 15. What a mask leaves out touches no memory."""
    return builder.icmp_signed("<", _lane_numbers(), spread(builder, builder.trunc(count, INT32), INT32))


def address(context, builder, array, data, i, kind=VECTOR):
    """Where the vector lies that begins at place i of an array."""
    start = context.make_array(array)(context, builder, data).data
    return builder.bitcast(builder.gep(start, [i]), kind.as_pointer())


def _llvm(builder, name, result, parameters, values):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)
    return builder.call(function, values)


def multiply_add(builder, a, b, c):
    """a * b + c, rounded once."""
    return _llvm(builder, f"llvm.fma.v{LANES}f32", VECTOR, [VECTOR] * 3, [a, b, c])


def load(builder, place, lanes, kind=VECTOR):
    """The vector at a place; with zeros where the mask `lanes`, if there is one, is 0."""
    if lanes is None:
        return builder.load(place, align=1)
    zero = ir.Constant(kind, [0] * LANES)
    parameters = [place.type, INT32, MASK, kind]
    # Aligned to 1 byte, as rows begin anywhere; p0 is a pointer to ordinary memory.
    name = f"llvm.masked.load.v{LANES}{'f32' if kind.element == NUMBER else 'i8'}.p0"
    return _llvm(builder, name, kind, parameters, [place, ir.Constant(INT32, 1), lanes, zero])


def store(builder, value, place, lanes):
    """Put a vector there, all of it or the lanes of the mask."""
    if lanes is None:
        builder.store(value, place, align=1)
        return
    name = f"llvm.masked.store.v{LANES}{'f32' if value.type.element == NUMBER else 'i8'}.p0"
    parameters = [value.type, place.type, INT32, MASK]
    _llvm(builder, name, ir.VoidType(), parameters, [value, place, ir.Constant(INT32, 1), lanes])


def fetch(builder, place, size):
    """Have so many bytes from a place on brought into the second cache."""
    byte = ir.IntType(8).as_pointer()
    start, how = builder.bitcast(place, byte), [ir.Constant(INT32, value) for value in (0, 2, 1)]  # read; second; data
    with cgutils.for_range_slice(builder, ir.Constant(INDEX, 0), size, ir.Constant(INDEX, CACHE_LINE)) as (offset, _):
        line = builder.gep(start, [offset])
        _llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, INT32, INT32, INT32], [line, *how])


def by_count(builder, count, act):
    """act(mask of the first `count` lanes), or where masks are slow act(None) if that is all lanes."""
    if WIDE:
        act(first_lanes(builder, count))
        return
    whole = builder.icmp_signed(">=", count, ir.Constant(INDEX, LANES))
    with builder.if_else(whole, likely=True) as (without_mask, with_mask):
        with without_mask:
            act(None)
        with with_mask:
            act(first_lanes(builder, count))
