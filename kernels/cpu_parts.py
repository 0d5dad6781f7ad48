"""Sums in parts: what threads added up apart is added in order, so that results do not depend on who did which part.

Bias and ReLU may follow the sum; ReLU's gradient stands here because the gradients of every fused op begin with it.
"""

import numpy as np

from . import memory
from .compiling import compiled
from .threads import next_task, run, workers
from .vectors import LANES, above_zero, beats, load, spread, store, where

BLOCK = 16 * 1024  # numbers of a task
NO_BIAS = np.empty(0, np.float32)


def add_parts(parts, out, b=NO_BIAS, relu: bool = False) -> None:
    """out = the sum of parts[0], parts[1], ... in order, plus a bias, then ReLU if wanted: (PARTS, R, F) -> (R, F)."""
    rows = max(BLOCK // max(parts[:, :1].size, 1), 1)  # of a task
    tasks = -(-len(out) // rows)
    run(_add_parts, workers(8 * parts.size, tasks), parts, b, out, rows, relu)


@compiled
def _add_parts(worker, tasks, parts, b, out, rows, relu):
    number, height, width = parts.shape
    flat, y = parts.reshape(-1), out.reshape(-1)
    least = spread(np.float32(0 if relu else -np.inf))
    start = next_task(tasks) * rows
    while start < height:
        for row in range(start, min(start + rows, height)):
            for f in range(0, width, LANES):
                place, count = row * width + f, width - f
                total = load(flat, place, count) if number else spread(np.float32(0))
                for part in range(1, number):
                    total += load(flat, part * height * width + place, count)
                total += load(b, f, count if b.size else 0)
                store(y, place, where(beats(least, total), least, total), count)
        start = next_task(tasks) * rows


def relu_gradient(gy, y, relu: bool):
    """gy where y is above 0, else 0; or gy as it is where there was no ReLU. Contiguous."""
    gy = memory.ready(gy)
    if not relu:
        return gy
    g = memory.empty(gy.shape)
    run(_relu_gradient, workers(8 * g.size, -(-g.size // BLOCK)), gy.reshape(-1), y.reshape(-1), g.reshape(-1))
    return g


@compiled
def _relu_gradient(worker, tasks, gy, y, g):
    start = next_task(tasks) * BLOCK
    while start < g.size:
        for i in range(start, min(start + BLOCK, g.size), LANES):
            passed = above_zero(load(y, i, g.size - i))
            store(g, i, where(passed, load(gy, i, g.size - i), spread(np.float32(0))), g.size - i)
        start = next_task(tasks) * BLOCK
