"""A dense layer with bias and ReLU in one kernel, and its gradients, compiled by Numba: three matrix products.

They have a kernel of their own because 32 samples are few rows for a library's, and because a library's idle threads
spin, which takes the cores from the kernels that follow. All arrays are float32.
"""

from . import memory
from .compiling import compiled
from .cpu_parts import add_parts, relu_gradient, sum_of_rows, turn
from .products import COLUMNS, ROWS, STRIP, multiply, multiply_rows, starts_of
from .threads import next_task, run, workers
from .vectors import fetch

SAMPLES = 72  # that the weights of a part of the inputs serve while they are in the cache: whole tiles of rows
SUMS = 2**20  # numbers that lie in memory until the parts are added up
FETCHED = 2**16  # numbers: half of a core's second cache, or less
PART = 256  # inputs of a part, at least: its weights stay in a core's second cache
BLOCK = 16 * ROWS  # inputs of a task of a gradient: whole cache lines, which then have one writer each
AHEAD = 2 * ROWS  # inputs: from so far on weights are asked for, few at a time, as many at once are not all heard


def dense(x, w, b, relu: bool):
    """x @ w + b, then ReLU if wanted: (N, INPUTS), (INPUTS, UNITS), (UNITS,) -> (N, UNITS)."""
    x, w, b = memory.ready(x), memory.ready(w), memory.ready(b)
    (n, inputs), units = x.shape, w.shape[1]
    y, starts, number = memory.empty((n, units)), starts_of(n, inputs), max(inputs // PART, 1)
    blocks = max(-(-n // SAMPLES), 1)
    size = max(-(-n // (blocks * ROWS)), 1) * ROWS  # of a block: whole tiles
    at_once = max(SUMS // max(number * units * size, 1), 1) * size
    for first in range(0, n, at_once):
        some = starts[first : first + at_once]
        sums, work = memory.empty((number, len(some), units)), len(some) * inputs * units
        team = workers(4 * work if len(some) < ROWS else work, number * -(-len(some) // size))
        run(_dense_parts, team, x, w, sums, some, size)
        add_parts(sums, y[first : first + at_once], b, relu)
    return y


@compiled
def _dense_parts(worker, tasks, x, w, sums, starts, size):
    """sums[i] (N, UNITS) = the products of part i of the inputs, whose weights serve `size` samples from the cache.

    `starts` says where each of the N samples begins in x, which may have more of them.
    """
    inputs, (number, n, units) = x.shape[1], sums.shape
    x, w, blocks = x.reshape(-1), w.reshape(-1), (n + size - 1) // size
    task = next_task(tasks)
    while task < number * blocks:
        part, sample = task // blocks, task % blocks * size
        first, last, y = part * inputs // number, (part + 1) * inputs // number, sums[part].reshape(-1)
        weights, some = w[first * units : last * units], starts[sample : sample + size]
        if len(some) < ROWS:  # a tile of many rows would be mostly empty
            for f in range(0, units, STRIP):
                multiply_rows(x, first, some, last - first, weights, f, units, y, sample * units + f)
        else:
            fetch(weights, 0, min(weights.size, FETCHED))
            for f in range(0, units, COLUMNS):
                multiply(x[first:], 0, some, 0, 1, 1, last - first, weights, f, units, y, sample * units + f, False)
        task = next_task(tasks)


def dense_backward(gy, y, x, w, relu: bool, input_needed: bool, gw=None, gb=None):
    """The gradients of `dense`: of the input (None unless needed), weights and bias, each of its input's shape.

    gy and y are (N, UNITS). gw and gb: C-contiguous float32 arrays to write into, in place of new ones.
    """
    x, w = memory.ready(x), memory.ready(w)
    (n, inputs), units = x.shape, w.shape[1]
    g = relu_gradient(gy, y, relu)
    gw = memory.empty(w.shape) if gw is None else gw
    gb = memory.empty((units,)) if gb is None else gb
    sum_of_rows(g, gb)
    gx = memory.empty(x.shape) if input_needed else None
    team = workers(x.size * units, -(-inputs // BLOCK))
    spaces = memory.empty((team, BLOCK * n))
    run(_dense_weight_gradient, team, x, g, gw, spaces, starts_of(BLOCK, 1))
    if gx is not None:
        transposed = memory.empty((units, n))
        turn(g, transposed, 1, n, units, (0, units), (0, n))
        run(_dense_input_gradient, team, w, transposed, gx, spaces, starts_of(inputs, units))
    return gx, gw, gb


@compiled
def _dense_weight_gradient(worker, tasks, x, g, gw, spaces, starts):
    """gw = x.T @ g: the samples are added in order."""
    n, inputs = x.shape
    units = g.shape[1]
    x, g, gw = x.reshape(-1), g.reshape(-1), gw.reshape(-1)
    near = spaces[worker]  # (N, BLOCK): where samples lie pages apart, they drive each other out of the first cache
    task = next_task(tasks)
    while task * BLOCK < inputs:
        first, size = task * BLOCK, min(BLOCK, inputs - task * BLOCK)
        for sample in range(n):
            there, here = x[sample * inputs + first :], near[sample * BLOCK : sample * BLOCK + size]
            for k in range(size):
                here[k] = there[k]
        for f in range(0, units, COLUMNS):
            multiply(near, 0, starts[:size], 0, BLOCK, 1, n, g, f, units, gw, first * units + f, False)
        task = next_task(tasks)


@compiled
def _dense_input_gradient(worker, tasks, w, g, gx, spaces, starts):
    """gx = g.T @ w.T for g (UNITS, N): the weights of a block of inputs meet all samples, then the sums turn around."""
    inputs, units = w.shape
    n = g.shape[1]
    w, g = w.reshape(-1), g.reshape(-1)
    turned = spaces[worker]  # (BLOCK, N)
    task = next_task(tasks)
    while task * BLOCK < inputs:
        first, last = task * BLOCK, min((task + 1) * BLOCK, inputs)
        for sample in range(0, n, COLUMNS):
            for tile in range(first, last, ROWS):
                if sample == 0:
                    fetch(w, (tile + AHEAD) * units, min(ROWS * units, FETCHED))
                place = (tile - first) * n + sample
                multiply(w, 0, starts[tile : tile + ROWS], 0, 1, 1, units, g, sample, n, turned, place, False)
        for sample in range(n):
            for k in range(first, last):
                gx[sample, k] = turned[(k - first) * n + sample]
        task = next_task(tasks)
