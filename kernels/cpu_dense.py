"""A dense layer with bias and ReLU in one kernel, and its gradients, compiled by Numba: three matrix products.

They have a kernel of their own because 32 samples are few rows for a library's, and because a library's idle threads
spin, which takes the cores from the kernels that follow. All arrays are float32.
"""

import numba
import numpy as np

from . import memory
from .compiling import compiled
from .threads import counter, next_task, workers
from .vectors import LANES, PAIR, ROWS, above_zero, load, multiply, spread, store, where


def dense(x, w, b, relu: bool):
    """x @ w + b, then ReLU if wanted: (N, INPUTS), (INPUTS, UNITS), (UNITS,) -> (N, UNITS)."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    n, inputs = x.shape
    y = memory.empty((n, w.shape[1]))
    blocks = -(-w.shape[1] // PAIR) * -(-n // ROWS)
    _dense(x, w, b, y, np.arange(n) * inputs, counter(), workers(x.size * w.shape[1], blocks), relu)
    return y


@compiled
def _dense(x, w, b, y, starts, tasks, team, relu):
    n, inputs = x.shape
    units = w.shape[1]
    x, w, y = x.reshape(-1), w.reshape(-1), y.reshape(-1)
    tall = (n + ROWS - 1) // ROWS
    for _ in numba.prange(team):
        task = next_task(tasks)
        while task < (units + PAIR - 1) // PAIR * tall:
            f, first = task // tall * PAIR, task % tall * ROWS
            last = min(first + ROWS, n)
            multiply(x, 0, starts[first:last], 0, 1, 1, inputs, w, f, units, y, first * units + f, False)
            for r in range(first, last):
                for k in range(f, min(f + PAIR, units), LANES):
                    value = load(y, r * units + k, units - k) + load(b, k, units - k)
                    value = where(above_zero(value), value, spread(np.float32(0))) if relu else value
                    store(y, r * units + k, value, units - k)
            task = next_task(tasks)


def dense_backward(gy, y, x, w, relu: bool, input_needed: bool, gw=None, gb=None):
    """The gradients of `dense`: of the input (None unless needed), weights and bias, in gw and gb where given."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    (n, inputs), units = x.shape, w.shape[1]
    g = memory.empty(gy.shape)
    np.multiply(gy, y > 0 if relu else 1, out=g)
    gw = memory.empty(w.shape) if gw is None else gw
    gb = np.sum(g, axis=0, out=gb)
    gx = memory.empty(x.shape) if input_needed else None
    team = workers(x.size * units, -(-inputs // ROWS))
    _weight_gradient(x, g, gw, np.arange(inputs), counter(), team)
    if gx is not None:
        transposed = np.ascontiguousarray(g.T)  # (UNITS, N)
        spaces = memory.empty((team, ROWS * n))
        _input_gradient(w, transposed, gx, spaces, np.arange(inputs) * units, counter())
    return gx, gw, gb


@compiled
def _weight_gradient(x, g, gw, starts, tasks, team):
    """gw = x.T @ g, nine rows at a time: the samples are added in order."""
    n, inputs = x.shape
    units = g.shape[1]
    x, g, gw = x.reshape(-1), g.reshape(-1), gw.reshape(-1)
    block = 8 * ROWS
    for _ in numba.prange(team):
        task = next_task(tasks)
        while task * block < inputs:
            first, last = task * block, min((task + 1) * block, inputs)
            for f in range(0, units, PAIR):
                multiply(x, 0, starts[first:last], 0, inputs, 1, n, g, f, units, gw, first * units + f, False)
            task = next_task(tasks)


@compiled
def _input_gradient(w, g, gx, spaces, starts, tasks):
    """gx = g.T @ w.T for g (UNITS, N): the weights of nine inputs at a time meet all samples, then turn around."""
    inputs, units = w.shape
    n = g.shape[1]
    w, g = w.reshape(-1), g.reshape(-1)
    for worker in numba.prange(len(spaces)):
        turned = spaces[worker]  # (ROWS, N)
        task = next_task(tasks)
        while task * ROWS < inputs:
            first, last = task * ROWS, min((task + 1) * ROWS, inputs)
            for sample in range(0, n, PAIR):
                multiply(w, 0, starts[first:last], 0, 1, 1, units, g, sample, n, turned, sample, False)
            for sample in range(n):
                for k in range(first, last):
                    gx[sample, k] = turned[(k - first) * n + sample]
            task = next_task(tasks)
