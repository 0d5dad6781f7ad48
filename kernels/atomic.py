"""What threads may do to a number that others change meanwhile.

All threads see all of these in one order, and with each of them what was written to memory before it.
"""

import os
import platform

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .compiling import helper

ALL = 2**40  # more tasks than any kernel has: products with sizes of blocks still fit in 64 bits
_ORDER = "seq_cst"
_PAUSES, _YIELDS = platform.machine().lower() in ("x86_64", "amd64"), hasattr(os, "sched_yield")
_MOMENT = 20 if _PAUSES else 2  # nanoseconds, about, that a look takes with the moment after it
_YIELD = 500 if _YIELDS else _MOMENT  # the same where the core is offered to others
_MOMENTS = 10_000 // _MOMENT  # looks: whoever has waited for 10 microseconds may be waited for by the one it waits for


def _start(context, builder, signature, arguments):
    """The address of the first number of the first argument, an array."""
    return context.make_array(signature.args[0])(context, builder, arguments[0]).data


def all_tasks() -> np.ndarray:
    """What `next_task` counts with: the number of the next task, and where those end that it may give, here nowhere."""
    return np.array([0, ALL], np.int64)


@intrinsic
def next_task(typingctx, tasks):
    """The number of the next task, which nobody else gets; beyond the end of those that may be taken, ALL."""

    def generate(context, builder, signature, arguments):
        place, word = _start(context, builder, signature, arguments), ir.IntType(64)
        number = builder.atomic_rmw("add", place, ir.Constant(word, 1), _ORDER)
        end = builder.load(builder.gep(place, [ir.Constant(word, 1)]))
        return builder.select(builder.icmp_signed("<", number, end), number, ir.Constant(word, ALL))

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


def looks(nanoseconds: int) -> int:
    """How many looks at what another thread does take about so long, where nobody else wants the core."""
    moments = min(_MOMENTS, nanoseconds // _MOMENT)
    return moments + (nanoseconds - moments * _MOMENT) // _YIELD


@helper
def wait(look):
    """Before looking again, with the number of the look: at first a moment, then as long as another needs the core.

    That may be the very thread that is waited for: the system gives both the same core where another program has one.
    """
    if _YIELDS and look >= _MOMENTS:
        _give_way()
    else:
        _wait_a_moment()


@intrinsic
def _wait_a_moment(typingctx):
    """Leave the core to its other thread, where it has two."""

    def generate(context, builder, signature, arguments):
        if _PAUSES:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _give_way(typingctx):
    """Let who waits for this core have it, if anybody does."""

    def generate(context, builder, signature, arguments):
        if _YIELDS:  # else not even the name may be asked for
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate
