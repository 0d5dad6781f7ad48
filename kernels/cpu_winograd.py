"""Winograd's convolution for 3x3 windows: four neighbouring outputs from 16 products per channel in place of 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1, F(2x2, 3x3): a 4x4 tile d of
the image and a window g are taken to 16 components each, multiplied component by component, and taken back:
Y = A^T [(G g G^T) * (B^T d B)] A. Summed over channels, each component is a matrix product of its own.
"""

import numba
import numpy as np

from . import memory
from .compiling import compiled
from .shapes import Windows
from .threads import next_task, run, workers
from .vectors import COLUMNS, LANES, ROWS, above_zero, beats, load, multiply, spread, starts_of, store, where

COMPONENTS = 16
WEIGHTS = 256  # windows of a task
WORKSPACE = 32 * 1024  # numbers of a block in Winograd's form, so that it stays in a core's second cache


def winograd_fits(w, win: Windows) -> bool:
    """Whether the windows are 3x3 side by side, with channels enough for transforms to be little beside products."""
    _, _, c, filters = w.shape
    return (
        (win.kh, win.kw, win.sh, win.sw) == (3, 3, 1, 1) and c >= LANES and filters >= LANES and min(win.oh, win.ow) > 1
    )


def winograd(x, w, b, pooled: bool, relu: bool):
    """Convolution, bias, then ReLU and 2x2 pooling where wanted: x (N, H, W, C) with its padding in place.

    Returns y (N, H - 2, W - 2, F), or half as high and wide and the winners (int8) if pooled, else no winners.
    """
    n, h, width, c = x.shape
    filters = w.shape[3]
    conv_h, conv_w = h - 2, width - 2
    down, across = (conv_h // 2, conv_w // 2) if pooled else (-(-conv_h // 2), -(-conv_w // 2))  # tiles
    y = memory.empty((n, down, across, filters) if pooled else (n, conv_h, conv_w, filters))
    winner = memory.empty(y.shape if pooled else (0, 0, 0, 0), np.int8)
    kernel = memory.empty((COMPONENTS * c * filters,))
    team = workers(COMPONENTS * kernel.size, -(-c * filters // WEIGHTS))
    known = memory.empty((w.size,), np.int32), np.zeros(-(-c * filters // WEIGHTS), np.bool_)
    run(_transform_weights, team, memory.ready(w), *known, kernel)
    most = max(WORKSPACE // (COMPONENTS * max(c, filters)) // ROWS, 1) * ROWS  # tiles of a block
    blocks = -(-down * across // most)
    block = max(down * across // (blocks * ROWS), 1) * ROWS  # whole tiles of rows; what remains is a block of its own
    blocks = -(-down * across // block)
    team = workers(n * down * across * COMPONENTS * c * filters, n * blocks)
    spaces = memory.empty((team, COMPONENTS * block * (c + filters)))
    run(_winograd, team, x, kernel, memory.ready(b), y, winner, spaces, starts_of(block, c), down, across, pooled, relu)
    return y, winner


@numba.njit(inline="always")
def _mix_image(a, b, c, d):
    return a - c, b + c, c - b, b - d  # B^T d, for one column of d


@numba.njit(inline="always")
def _mix_weights(a, b, c, half):
    return a, (a + b + c) * half, (a - b + c) * half, c  # G g, for one column of g


@numba.njit(inline="always")
def _mix_back(a, b, c, d):
    return a + b + c, b - c - d  # A^T m, for one column of the products


@numba.njit(inline="always")
def _store_four(array, at, step, values, count):
    store(array, at, values[0], count)
    store(array, at + step, values[1], count)
    store(array, at + 2 * step, values[2], count)
    store(array, at + 3 * step, values[3], count)


@compiled
def _transform_weights(worker, tasks, w, bits, done, kernel):
    """(3, 3, C, F) -> sixteen components of (C, F); in a replay only those that are not as `bits` says they were."""
    size = w.shape[2] * w.shape[3]
    w, half, task = w.reshape(-1), spread(np.float32(0.5)), next_task(tasks)
    now = w.view(np.int32)
    while task < len(done):
        first, last = task * WEIGHTS, min((task + 1) * WEIGHTS, size)
        difference = np.int32(0)
        for row in range(0, 9 * size, size):
            these, those = now[row + first : row + last], bits[row + first : row + last]
            for i in range(these.size):
                difference |= these[i] ^ those[i]
        if difference != 0 or not done[task]:
            for row in range(0, 9 * size, size):
                bits[row + first : row + last] = now[row + first : row + last]
            for at in range(first, last, LANES):
                _transform_window(w, at, size, half, kernel)
            done[task] = True
        task = next_task(tasks)


@numba.njit
def _transform_window(w, at, size, half, kernel):
    """16 of the windows at w[at], of which there are `size`."""
    count = size - at
    a = _mix_weights(load(w, at, count), load(w, at + 3 * size, count), load(w, at + 6 * size, count), half)
    b = _mix_weights(load(w, at + size, count), load(w, at + 4 * size, count), load(w, at + 7 * size, count), half)
    c = _mix_weights(load(w, at + 2 * size, count), load(w, at + 5 * size, count), load(w, at + 8 * size, count), half)
    _store_four(kernel, at, size, _mix_weights(a[0], b[0], c[0], half), count)
    _store_four(kernel, at + 4 * size, size, _mix_weights(a[1], b[1], c[1], half), count)
    _store_four(kernel, at + 8 * size, size, _mix_weights(a[2], b[2], c[2], half), count)
    _store_four(kernel, at + 12 * size, size, _mix_weights(a[3], b[3], c[3], half), count)


@numba.njit
def _transform_tile(x, at, line, c, count, out, place, step):
    """16 channels of the 4x4 tile at x[at]: component k goes to out[place + k * step]."""
    line2, line3 = 2 * line, 3 * line
    p, q, r, s = at, at + c, at + 2 * c, at + 3 * c  # the tile's columns
    # Each column is mixed down its rows; then each of the four results across: component 4 * row + column.
    a = _mix_image(load(x, p, count), load(x, p + line, count), load(x, p + line2, count), load(x, p + line3, count))
    b = _mix_image(load(x, q, count), load(x, q + line, count), load(x, q + line2, count), load(x, q + line3, count))
    d = _mix_image(load(x, r, count), load(x, r + line, count), load(x, r + line2, count), load(x, r + line3, count))
    e = _mix_image(load(x, s, count), load(x, s + line, count), load(x, s + line2, count), load(x, s + line3, count))
    _store_four(out, place, step, _mix_image(a[0], b[0], d[0], e[0]), count)
    _store_four(out, place + 4 * step, step, _mix_image(a[1], b[1], d[1], e[1]), count)
    _store_four(out, place + 8 * step, step, _mix_image(a[2], b[2], d[2], e[2]), count)
    _store_four(out, place + 12 * step, step, _mix_image(a[3], b[3], d[3], e[3]), count)


@numba.njit(inline="always")
def _column_back(products, at, step, count):
    return _mix_back(
        load(products, at, count),
        load(products, at + 4 * step, count),
        load(products, at + 8 * step, count),
        load(products, at + 12 * step, count),
    )


@numba.njit(inline="always")
def _transform_back(products, at, step, count):
    """The 2x2 outputs of 16 filters of one tile, row by row; component k is at products[at + k * step]."""
    a, b = _column_back(products, at, step, count), _column_back(products, at + step, step, count)
    c, d = _column_back(products, at + 2 * step, step, count), _column_back(products, at + 3 * step, step, count)
    upper, lower = _mix_back(a[0], b[0], c[0], d[0]), _mix_back(a[1], b[1], c[1], d[1])
    return upper[0], upper[1], lower[0], lower[1]


@numba.njit(inline="always")
def _challenge(best, tap, value, number):
    better = beats(value, best)
    return where(better, value, best), where(better, spread(np.float32(number)), tap)


@numba.njit(inline="always")
def _rectified(value, relu):
    return where(above_zero(value), value, spread(np.float32(0))) if relu else value


@compiled
def _winograd(worker, tasks, x, kernel, b, y, winner, spaces, starts, down, across, pooled, relu):
    n, h, width, c = x.shape
    filters, tiles, block = b.size, down * across, len(starts)
    blocks = (tiles + block - 1) // block
    x, y, winner = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    image_form = spaces[worker, : COMPONENTS * block * c]  # (16, block, C)
    products = spaces[worker, COMPONENTS * block * c :]  # (16, block, F)
    task = next_task(tasks)
    while task < n * blocks:
        image, first = task // blocks, task % blocks * block
        size = min(block, tiles - first)
        for t in range(size):
            i = min((first + t) // across * 2, h - 4)  # the last tile is moved back to end with the image
            j = min((first + t) % across * 2, width - 4)
            for k in range(0, c, LANES):
                at = ((image * h + i) * width + j) * c + k
                _transform_tile(x, at, width * c, c, c - k, image_form, t * c + k, block * c)
        # Some rows beyond `size`, too: whole tiles are faster, and nobody reads what is too much.
        whole = starts[: (size + ROWS - 1) // ROWS * ROWS]
        for k in range(COMPONENTS):
            rows, weights = image_form[k * block * c :], kernel[k * c * filters :]
            for f in range(0, filters, COLUMNS):
                place = k * block * filters + f
                multiply(rows, 0, whole, 0, 1, 1, c, weights, f, filters, products, place, False)
        for f in range(0, filters, LANES):
            count, bias = filters - f, load(b, f, filters - f)
            for t in range(size):
                values = _transform_back(products, t * filters + f, block * filters, count)
                if pooled:
                    best, tap = _challenge(values[0], spread(np.float32(0)), values[1], 1)
                    best, tap = _challenge(best, tap, values[2], 2)
                    best, tap = _challenge(best, tap, values[3], 3)
                    best += bias
                    place = (image * tiles + first + t) * filters + f
                    store(y, place, _rectified(best, relu), count)
                    tap = where(above_zero(best), tap, spread(np.float32(-1))) if relu else tap
                    store(winner, place, tap, count)
                else:
                    row, column = (first + t) // across * 2, (first + t) % across * 2
                    i, j = min(row, h - 4), min(column, width - 4)  # as above
                    place, line = ((image * (h - 2) + i) * (width - 2) + j) * filters + f, (width - 2) * filters
                    # What a tile moved back shares with its neighbour is left to that one: each output has one writer.
                    upper, left = count if i == row else 0, count if j == column else 0
                    store(y, place, _rectified(values[0] + bias, relu), min(upper, left))
                    store(y, place + filters, _rectified(values[1] + bias, relu), upper)
                    store(y, place + line, _rectified(values[2] + bias, relu), left)
                    store(y, place + line + filters, _rectified(values[3] + bias, relu), count)
        task = next_task(tasks)
