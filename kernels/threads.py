"""How compiled kernels share the processor: tasks taken one by one, by as many threads as the work is worth.

A task is always the same piece of work, whoever takes it, so results do not depend on the number of threads; and a
thread that has lost its core to another program takes fewer.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before the first parallel call: idle threads must not spin

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

GRAIN = 1_000_000  # multiply-adds, about 20 microseconds: waking another thread for less brings nothing


def workers(work: int, tasks: int) -> int:
    """How many threads to use for so many multiply-adds in so many tasks."""
    return max(1, min(numba.get_num_threads(), tasks, work // GRAIN))


def counter() -> np.ndarray:
    """The number of the task that is next, for `next_task`."""
    return np.zeros(1, np.int64)


@intrinsic
def next_task(typingctx, counter):
    """The number of the next task, which nobody else gets."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", start, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate
