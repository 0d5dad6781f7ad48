"""What threads may do to a number that others change meanwhile.

All threads see all of these in one order, and with each of them what was written to memory before it.
"""

import platform

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_ORDER = "seq_cst"
_PAUSES = platform.machine().lower() in ("x86_64", "amd64")
TURN = 20 if _PAUSES else 2  # nanoseconds, about, to look once and wait a moment


def _start(context, builder, signature, arguments):
    """The address of the first number of the first argument, an array."""
    return context.make_array(signature.args[0])(context, builder, arguments[0]).data


@intrinsic
def next_task(typingctx, tasks):
    """The number of the next task, which nobody else gets."""

    def generate(context, builder, signature, arguments):
        place = _start(context, builder, signature, arguments)
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), _ORDER)

    return types.int64(tasks), generate


@intrinsic
def add(typingctx, numbers, value):
    """Add to the first of the numbers."""

    def generate(context, builder, signature, arguments):
        builder.atomic_rmw("add", _start(context, builder, signature, arguments), arguments[1], _ORDER)
        return context.get_dummy_value()

    return types.void(numbers, types.int64), generate


@intrinsic
def read(typingctx, numbers):
    """The first of the numbers as it stands now."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_start(context, builder, signature, arguments), _ORDER, 8)

    return types.int64(numbers), generate


@intrinsic
def write(typingctx, numbers, value):
    """Set the first of the numbers."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _start(context, builder, signature, arguments), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(numbers, types.int64), generate


@intrinsic
def wait_a_moment(typingctx):
    """Before looking again: leave the core to its other thread, where it has two."""

    def generate(context, builder, signature, arguments):
        if _PAUSES:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate
