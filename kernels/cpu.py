"""The reference kernels as loops compiled by Numba; threads share the images, or their rows.

Each public function allocates; the compiled loop behind it only fills what it is given. The kernels of fused ops stand
in files of their own, and are offered here beside the others.
"""

import numpy as np

from . import memory, reference
from .ahead import compile_ahead
from .compiling import compiled, helper
from .cpu_convolution import conv2d, conv2d_backward, conv_relu_max_pool2d, conv_relu_max_pool2d_backward
from .cpu_dense import dense, dense_backward
from .cpu_graph import Graph
from .instructions import LANES
from .shapes import Windows
from .threads import next_task, one_thread, run, set_threads, usable_threads, workers
from .vectors import load, spread, store

BLOCK = 16 * 1024  # numbers of a task: small beside a core's cache, large beside the cost of taking it

__all__ = [
    "Graph", "adam_update", "col2im", "compile_ahead", "conv2d", "conv2d_backward", "conv_relu_max_pool2d",
    "conv_relu_max_pool2d_backward", "dense", "dense_backward", "im2col", "logistic", "max_pool2d",
    "max_pool2d_backward", "one_thread", "set_threads", "sgd_update", "sigmoid_binary_cross_entropy",
    "sigmoid_binary_cross_entropy_backward", "softmax_categorical_cross_entropy",
    "softmax_categorical_cross_entropy_backward", "usable_threads", "warp",
]  # fmt: skip


def im2col(x, win: Windows):
    n, _, _, c = x.shape
    cols = memory.empty((n, win.oh, win.ow, win.taps * c), x.dtype)
    geometry = win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left
    run(_im2col, workers(cols.size, n * win.oh), memory.ready(x), cols, *geometry)
    return cols


@compiled
def _im2col(worker, tasks, x, cols, kh, kw, sh, sw, dh, dw, top, left):
    n, h, w, c = x.shape
    _, oh, ow, _ = cols.shape
    row = next_task(tasks)
    while row < n * oh:
        image, i = row // oh, row % oh
        for j in range(ow):
            for a in range(kh):
                y = i * sh - top + a * dh
                for b in range(kw):
                    column = j * sw - left + b * dw
                    start = (a * kw + b) * c
                    if 0 <= y < h and 0 <= column < w:
                        for channel in range(c):
                            cols[image, i, j, start + channel] = x[image, y, column, channel]
                    else:
                        for channel in range(c):
                            cols[image, i, j, start + channel] = 0
        row = next_task(tasks)


def col2im(cols, win: Windows):
    n = cols.shape[0]
    x = memory.zeros((n, win.h, win.w, cols.shape[3] // win.taps), cols.dtype)
    geometry = win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left
    run(_col2im, workers(cols.size, n), memory.ready(cols), x, *geometry)
    return x


@compiled
def _col2im(worker, tasks, cols, x, kh, kw, sh, sw, dh, dw, top, left):
    n, h, w, c = x.shape
    _, oh, ow, _ = cols.shape
    image = next_task(tasks)  # an image belongs to one thread: its sums have one order
    while image < n:
        for a in range(kh):  # the reference's order of additions, for the same bits
            for b in range(kw):
                start = (a * kw + b) * c
                for i in range(oh):
                    y = i * sh - top + a * dh
                    if 0 <= y < h:
                        for j in range(ow):
                            column = j * sw - left + b * dw
                            if 0 <= column < w:
                                for channel in range(c):
                                    x[image, y, column, channel] += cols[image, i, j, start + channel]
        image = next_task(tasks)


def max_pool2d(x, win: Windows):
    n, _, _, c = x.shape
    y = memory.empty((n, win.oh, win.ow, c), x.dtype)
    winner = memory.empty(y.shape, np.int32)
    geometry = win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left
    run(_max_pool2d, workers(y.size * win.taps, n * win.oh), memory.ready(x), y, winner, *geometry)
    return y, winner


@compiled
def _max_pool2d(worker, tasks, x, y, winner, kh, kw, sh, sw, dh, dw, top, left):
    n, h, w, c = x.shape
    _, oh, ow, _ = y.shape
    row = next_task(tasks)
    while row < n * oh:
        image, i = row // oh, row % oh
        for j in range(ow):
            for channel in range(c):
                y[image, i, j, channel] = -np.inf
                winner[image, i, j, channel] = 0
            for a in range(kh):
                line = i * sh - top + a * dh
                for b in range(kw):
                    column = j * sw - left + b * dw
                    if 0 <= line < h and 0 <= column < w:
                        for channel in range(c):
                            value = x[image, line, column, channel]
                            best = y[image, i, j, channel]
                            if value > best or (value != value and best == best):
                                y[image, i, j, channel] = value
                                winner[image, i, j, channel] = a * kw + b
        row = next_task(tasks)


def max_pool2d_backward(gy, winner, win: Windows):
    n, _, _, c = gy.shape
    gx = memory.zeros((n, win.h, win.w, c), gy.dtype)
    geometry = win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left
    run(_max_pool2d_backward, workers(gy.size, n), memory.ready(gy), winner, gx, *geometry)
    return gx


@compiled
def _max_pool2d_backward(worker, tasks, gy, winner, gx, kw, sh, sw, dh, dw, top, left):
    n, oh, ow, c = gy.shape
    _, h, w, _ = gx.shape
    image = next_task(tasks)  # windows may overlap: an image belongs to one thread
    while image < n:
        for i in range(oh):
            for j in range(ow):
                for channel in range(c):
                    tap = winner[image, i, j, channel]
                    y = i * sh - top + (tap // kw) * dh
                    column = j * sw - left + (tap % kw) * dw
                    if 0 <= y < h and 0 <= column < w:
                        gx[image, y, column, channel] += gy[image, i, j, channel]
        image = next_task(tasks)


def logistic(x):
    x = memory.ready(x)
    y = memory.empty(x.shape, x.dtype)
    run(_logistic, workers(32 * x.size, -(-x.size // BLOCK)), x.reshape(-1), y.reshape(-1))
    return y


@compiled
def _logistic(worker, tasks, x, y):
    start = next_task(tasks) * BLOCK
    while start < x.size:
        for i in range(start, min(start + BLOCK, x.size)):
            y[i] = _sigmoid(x[i])
        start = next_task(tasks) * BLOCK


@helper
def _sigmoid(x):
    small = np.exp(-abs(x))  # at most 1
    return (1 if x >= 0 else small) / (1 + small)


def sigmoid_binary_cross_entropy(z, y):
    loss = memory.empty((), z.dtype)
    run(_sigmoid_binary_cross_entropy, 1, *(memory.ready(array).reshape(-1) for array in (z, y)), loss.reshape(-1))
    return loss


@compiled
def _sigmoid_binary_cross_entropy(worker, tasks, z, y, loss):
    if next_task(tasks) == 0:
        total = 0.0
        for i in range(z.size):
            total += max(z[i], 0) - z[i] * y[i] + np.log1p(np.exp(-abs(z[i])))
        loss[0] = total / z.size


def sigmoid_binary_cross_entropy_backward(gy, z, y):
    gz = memory.empty(z.shape, z.dtype)
    flat = (memory.ready(array).reshape(-1) for array in (np.asarray(gy, z.dtype), z, y, gz))
    run(_sigmoid_binary_cross_entropy_backward, workers(32 * z.size, -(-z.size // BLOCK)), *flat)
    return gz


@compiled
def _sigmoid_binary_cross_entropy_backward(worker, tasks, gy, z, y, gz):
    share = gy[0] / z.size
    start = next_task(tasks) * BLOCK
    while start < z.size:
        for i in range(start, min(start + BLOCK, z.size)):
            gz[i] = (_sigmoid(z[i]) - y[i]) * share
        start = next_task(tasks) * BLOCK


def softmax_categorical_cross_entropy(z, y):
    if not z.size:
        return reference.softmax_categorical_cross_entropy(z, y)
    z, y = memory.ready(z), memory.ready(y)
    loss, log_p = memory.empty((), z.dtype), memory.empty(z.shape, z.dtype)
    run(_softmax_categorical_cross_entropy, 1, z, y, loss.reshape(-1), log_p)
    return loss, log_p


@compiled
def _softmax_categorical_cross_entropy(worker, tasks, z, y, loss, log_p):
    n, classes = z.shape
    if next_task(tasks) == 0:
        total = 0.0
        for row in range(n):
            top, exponentials = z[row, 0], 0.0
            for k in range(classes):
                top = max(top, z[row, k])
            for k in range(classes):
                exponentials += np.exp(z[row, k] - top)
            for k in range(classes):
                log_p[row, k] = z[row, k] - top - np.log(exponentials)
                total -= y[row, k] * log_p[row, k]
        loss[0] = total / n


def softmax_categorical_cross_entropy_backward(gy, log_p, y):
    gz = memory.empty(log_p.shape, log_p.dtype)
    gy = memory.ready(np.asarray(gy, log_p.dtype)).reshape(-1)
    run(_softmax_categorical_cross_entropy_backward, 1, gy, log_p, memory.ready(y), gz)
    return gz


@compiled
def _softmax_categorical_cross_entropy_backward(worker, tasks, gy, log_p, y, gz):
    n, classes = y.shape
    if next_task(tasks) == 0:
        for row in range(n):
            labels = 0.0
            for k in range(classes):
                labels += y[row, k]
            for k in range(classes):
                gz[row, k] = gy[0] * (np.exp(log_p[row, k]) * labels - y[row, k]) / n


def _least(w):
    """The size below which `_or_zero` takes a moving average for 0: 1e-32 in float32, which moves no weight.

    Where a gradient has stopped, averages fade until no normal number is small enough. A processor may take a hundred
    times as long for one that is not, and rounding keeps the last of them from ever becoming 0.
    """
    return w.dtype.type(1e6 * np.finfo(w.dtype).tiny)  # products with rates and shares are normal numbers, too


@helper
def _or_zero(x, least):
    return least - least if abs(x) < least else x


def adam_update(w, g, m, v, rate, beta_1: float, beta_2: float, epsilon: float) -> None:
    if not all(a.flags.c_contiguous for a in (w, m, v)):  # a flat view of them would be a copy
        return reference.adam_update(w, g, m, v, rate, beta_1, beta_2, epsilon)
    least_square = min(_least(w), (1e-3 * epsilon) ** 2)  # its root is little beside epsilon, or never met
    factors = (w.dtype.type(factor) for factor in (1 - beta_1, 1 - beta_2, epsilon, _least(w), least_square))
    flat = (array.reshape(-1) for array in (w, g, m, v, np.asarray(rate, w.dtype)))
    run(_adam_update, workers(32 * w.size, -(-w.size // BLOCK)), *flat, *factors)  # a root and a division take long


@compiled
def _adam_update(
    worker, tasks, weights, gradients, means, squares, rates, share_1, share_2, epsilon, least, least_square
):
    rate = rates[0]  # in an array, for each step has another
    start = next_task(tasks) * BLOCK
    while start < weights.size:
        part = slice(start, min(start + BLOCK, weights.size))
        w, g, m, v = weights[part], gradients[part], means[part], squares[part]
        for i in range(w.size):
            m[i] = _or_zero(m[i] + (g[i] - m[i]) * share_1, least)
            v[i] = _or_zero(v[i] + (g[i] * g[i] - v[i]) * share_2, least_square)
            w[i] -= m[i] * rate / (np.sqrt(v[i]) + epsilon)
        start = next_task(tasks) * BLOCK


def sgd_update(w, g, velocity, rate, momentum: float, nesterov: bool) -> None:
    if not all(a.flags.c_contiguous for a in (w, velocity)):
        return reference.sgd_update(w, g, velocity, rate, momentum, nesterov)
    flat = (array.reshape(-1) for array in (w, g, velocity, np.asarray(rate, w.dtype)))
    run(_sgd_update, workers(4 * w.size, -(-w.size // BLOCK)), *flat, w.dtype.type(momentum), nesterov, _least(w))


@compiled
def _sgd_update(worker, tasks, weights, gradients, velocities, rates, momentum, nesterov, least):
    rate = -rates[0]
    start = next_task(tasks) * BLOCK
    while start < weights.size:
        part = slice(start, min(start + BLOCK, weights.size))
        w, g, velocity = weights[part], gradients[part], velocities[part]
        for i in range(w.size):
            step = g[i] * rate
            velocity[i] = _or_zero(velocity[i] * momentum + step, least)
            w[i] += momentum * velocity[i] + step if nesterov else velocity[i]
        start = next_task(tasks) * BLOCK


def warp(images, matrices, fill_mode: str, cval: float, scale: float):
    y = memory.empty(images.shape, np.float32)
    mode = ("nearest", "constant", "reflect", "wrap").index(fill_mode)
    images, matrices = memory.ready(images), memory.ready(np.asarray(matrices, np.float64))
    if len(matrices) != len(images):
        raise ValueError(f"{len(images)} images need as many matrices, not {len(matrices)}")
    team = workers(16 * images.size, len(images))
    spaces = memory.empty((team, images[0].size if len(images) else 0))
    run(_warp, team, images, matrices, y, spaces, mode, np.float32(cval), np.float32(scale))
    return y


@compiled
def _warp(worker, tasks, images, matrices, y, spaces, mode, cval, scale):
    n, h, w, c = images.shape
    pixels = spaces[worker]  # the image as float32, (H, W, C): a pixel's channels are then one load
    image = next_task(tasks)
    while image < n:
        flat, out, m = images[image].reshape(-1), y[image].reshape(-1), matrices[image]
        for k in range(pixels.size):
            pixels[k] = flat[k]
        for i in range(h):
            for j in range(w):
                row = m[0, 0] * i + m[0, 1] * j + m[0, 2]
                column = m[1, 0] * i + m[1, 1] * j + m[1, 2]
                place = (i * w + j) * c
                if mode == 1 and not (_inside(row, h) and _inside(column, w)):
                    for channel in range(c):
                        out[place + channel] = cval * scale
                    continue
                row, column = _fold(row, h, mode), _fold(column, w, mode)
                i0, j0 = int(row), int(column)
                down, right = spread(np.float32(row - i0)), spread(np.float32(column - j0))
                at = (i0 * w + j0) * c
                beside, below = c if j0 < w - 1 else 0, w * c if i0 < h - 1 else 0
                for k in range(0, c, LANES):
                    upper = _between(load(pixels, at + k, c - k), load(pixels, at + beside + k, c - k), right)
                    lower = load(pixels, at + below + k, c - k)
                    lower = _between(lower, load(pixels, at + below + beside + k, c - k), right)
                    store(out, place + k, _between(upper, lower, down) * spread(scale), c - k)
        image = next_task(tasks)


@helper
def _between(a, b, share):
    return a + (b - a) * share


@helper
def _fold(x, size, mode):
    last = size - 1.0
    if mode == 2:
        x -= 2 * size * np.floor(x / (2 * size))
        if x > size - 0.5:
            x = 2 * size - 1 - x
    elif mode == 3 and last > 0:
        if x < 0:
            x += last * (np.floor(-x / last) + 1)
        if x > last:
            x -= last * np.floor(x / last)
    x = x if x > 0 else 0.0
    return x if x < last else last


@helper
def _inside(x, size):
    return -1e-9 <= x <= size - 1 + 1e-9
