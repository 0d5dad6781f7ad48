"""Winograd's convolution for 3x3 windows: four neighbouring outputs from 16 products per channel in place of 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1, F(2x2, 3x3): a 4x4 tile d of
the image and a window g are taken to 16 components each, multiplied component by component, and taken back:
Y = A^T [(G g G^T) * (B^T d B)] A. Summed over channels, each component is a matrix product of its own.
"""

import numpy as np

from . import memory
from .blocks import block_shape, load_tile, sandwich, store_tile
from .compiling import compiled, helper
from .instructions import LANES
from .products import COLUMNS, ROWS, multiply, starts_of
from .shapes import Windows
from .threads import next_task, run, run_by_image, workers
from .vectors import above_zero, beats, load, spread, store, where

B_T = (1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)
G = (1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)
A_T = (1, 1, 1, 0), (0, 1, -1, -1)
to_image_form, to_weights_form, back = sandwich(B_T), sandwich(G), sandwich(A_T)
TILE, WINDOW = block_shape(4, 4), block_shape(3, 3)
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
    w = memory.ready(w)
    bits = w.view(np.int32).reshape(-1)  # here, as a view made in a kernel takes a quarter of a second to compile
    known = memory.empty((w.size,), np.int32), np.zeros(-(-c * filters // WEIGHTS), np.bool_)
    run(_transform_weights, team, w, bits, *known, kernel)
    most = max(WORKSPACE // (COMPONENTS * max(c, filters)) // ROWS, 1) * ROWS  # tiles of a block
    blocks = -(-down * across // most)
    block = max(down * across // (blocks * ROWS), 1) * ROWS  # whole tiles of rows; what remains is a block of its own
    blocks = -(-down * across // block)
    team = workers(n * down * across * COMPONENTS * c * filters, n * blocks)
    spaces = memory.empty((team, COMPONENTS * block * (c + filters)))
    run_by_image(
        _winograd, team, n, n * blocks, x, kernel, memory.ready(b), y, winner, spaces, starts_of(block, c), down,
        across, pooled, relu,
    )  # fmt: skip
    return y, winner


@compiled
def _transform_weights(worker, tasks, w, bits, bits_before, done, kernel):
    """(3, 3, C, F) -> sixteen components of (C, F).

    `bits` are those of the weights, `bits_before` of what they were in the last run, `done` whether there was one: in
    a replay, parts that have not changed are skipped.
    """
    size = w.shape[2] * w.shape[3]
    w, task = w.reshape(-1), next_task(tasks)
    while task < len(done):
        first, last = task * WEIGHTS, min((task + 1) * WEIGHTS, size)
        difference = np.int32(0)
        for row in range(0, 9 * size, size):
            these, those = bits[row + first : row + last], bits_before[row + first : row + last]
            for i in range(these.size):
                difference |= these[i] ^ those[i]
        if difference != 0 or not done[task]:
            for row in range(0, 9 * size, size):
                for i in range(row + first, row + last):  # not as a slice: see weight_gradients_routed
                    bits_before[i] = bits[i]
            for at in range(first, last, LANES):
                window = load_tile(WINDOW, w, at, 3 * size, size, size - at)
                store_tile(kernel, at, 4 * size, size, size - at, to_weights_form(window))
            done[task] = True
        task = next_task(tasks)


@helper
def _challenge(best, tap, value, number):
    better = beats(value, best)
    return where(better, value, best), where(better, spread(np.float32(number)), tap)


@helper
def _rectified(value, relu):
    return where(above_zero(value), value, spread(np.float32(0))) if relu else value


@compiled
def _winograd(worker, tasks, x, kernel, b, y, winner, spaces, starts, down, across, pooled, relu):
    """y and winners as `winograd` returns them, from x (N, H, W, C) and weights of sixteen components (16*C*F,).

    An image has `down` times `across` tiles; a task is as many of them as there are `starts`.
    """
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
                tile = load_tile(TILE, x, ((image * h + i) * width + j) * c + k, width * c, c, c - k)
                store_tile(image_form, t * c + k, 4 * block * c, block * c, c - k, to_image_form(tile))
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
                step = block * filters  # from component to component
                above, below = back(load_tile(TILE, products, t * filters + f, 4 * step, step, count))
                if pooled:
                    best, tap = _challenge(above[0], spread(np.float32(0)), above[1], 1)
                    best, tap = _challenge(best, tap, below[0], 2)
                    best, tap = _challenge(best, tap, below[1], 3)
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
                    store(y, place, _rectified(above[0] + bias, relu), min(upper, left))
                    store(y, place + filters, _rectified(above[1] + bias, relu), upper)
                    store(y, place + line, _rectified(below[0] + bias, relu), left)
                    store(y, place + line + filters, _rectified(below[1] + bias, relu), count)
        task = next_task(tasks)
