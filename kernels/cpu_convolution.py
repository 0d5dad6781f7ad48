"""Convolution with what follows it (bias, ReLU, max-pooling) in one kernel, and its gradients, compiled by Numba.

Here a tile of a matrix product reads the image in place of im2col's copy of it. cpu_winograd.py needs fewer products
for 3x3 windows, and cpu_routed.py sends gradients only where a pool found its maximum. All arrays are float32.
"""

from math import prod

import numpy as np

from . import memory
from .compiling import compiled, helper
from .cpu_parts import add_parts, copy_images, relu_gradient, sum_of_rows, turn
from .cpu_routed import CHUNK, blocks, input_gradient_routed, weight_gradients_routed, whole_vectors
from .cpu_winograd import winograd, winograd_fits
from .instructions import LANES
from .products import COLUMNS, multiply, starts_in_grid
from .recording import call
from .shapes import Windows, windows
from .threads import next_task, parts, run_by_image, workers
from .vectors import above_zero, beats, load, spread, store, where

APART = 16  # numbers of int64 between what two threads write all the time: a cache line has one writer at a time


def conv_relu_max_pool2d(x, w, b, win: Windows, pool: Windows):
    """max_pool2d(relu(conv2d(x, w) + b)): (N, H, W, C), (KH, KW, C, F), (F,) -> (N, PH, PW, F), and winners (int8).

    The winner is the tap of the pool's window that each value came from, -1 where ReLU let nothing through.
    For windows without dilation, and pools without padding and of at most 127 taps (winners are int8).
    """
    if winograd_fits(w, win) and (pool.kh, pool.kw, pool.sh, pool.sw) == (2, 2, 2, 2):
        return winograd(_padded(x, win), w, b, pooled=True, relu=True)
    return _run_direct(x, w, b, win, pool.oh, pool.ow, (pool.kh, pool.kw, pool.sh, pool.sw), True, True)


def conv2d(x, w, b, win: Windows, relu: bool):
    """conv2d(x, w) + b, then ReLU if wanted: (N, H, W, C), (KH, KW, C, F), (F,) -> (N, OH, OW, F)."""
    if winograd_fits(w, win):
        return winograd(_padded(x, win), w, b, pooled=False, relu=relu)[0]
    return _run_direct(x, w, b, win, win.oh, win.ow, (1, 1, 1, 1), relu, False)[0]


def conv2d_backward(gy, y, x, w, win: Windows, relu: bool, input_needed: bool, gw=None, gb=None):
    """The gradients of `conv2d`: of the input (None unless needed), weights and bias, each of its input's shape.

    gy and y are (N, OH, OW, F). gw and gb: C-contiguous float32 arrays to write into, in place of new ones.
    """
    n, _, _, c = x.shape
    filters, width, padded = w.shape[3], win.left + win.w + win.right, _padded(x, win)
    g = relu_gradient(gy, y, relu)
    gw, gb = _or_new(gw, w.shape), _or_new(gb, (filters,))
    gws, gbs = _parts(n, win.taps * c, filters), _parts(n, filters)
    team = workers(g.size * win.taps * c, len(gws))
    run_by_image(_weight_gradients, team, n, len(gws), _taps(win, width, c), g, padded, gws, gbs, win.sh, win.sw)
    add_parts(gws, gw.reshape(-1, filters))
    sum_of_rows(gbs, gb)
    return _input_gradient(g, w, win) if input_needed else None, gw, gb


def conv_relu_max_pool2d_backward(gy, winner, x, w, win: Windows, pool: Windows, input_needed: bool, gw=None, gb=None):
    """The gradients of `conv_relu_max_pool2d`, as `conv2d_backward` gives those of `conv2d`.

    Each pooled value came from one position, so one window of the input took part in it, and only that one gets a
    gradient, or gives one to the weights: a quarter of the work of a dense convolution for 2x2 pools, less for ReLU.
    """
    n, _, _, c = x.shape
    filters, size, width = w.shape[3], win.taps * c, win.left + win.w + win.right
    gy, padded = memory.ready(gy), _padded(x, win)
    gw, gb = _or_new(gw, w.shape), _or_new(gb, (filters,))
    work = n * pool.oh * pool.ow * filters * size
    *tables, remaining = blocks(win.kh, win.kw * c, width * c)
    at_tap = starts_in_grid(pool.kh, pool.kw, win.sh * width * c, win.sw * c)
    length, line = win.kw * c, whole_vectors(win.kw * c)
    compact, spaced = (length * filters, filters), (line, win.kh * line)  # from a row of the window, of a matrix, on
    steps = win.sh * pool.sh, win.sw * pool.sw, line
    gws, gbs, sums = _parts(n, filters, win.kh * line), _parts(n, filters), memory.empty((filters, win.kh * line))
    team = workers(work, len(gbs))
    corners, alive = np.empty((team, CHUNK + APART), np.int64), np.empty((team, filters + 2 * APART), np.int32)
    ends = memory.empty((team, prod(padded.shape[1:]) + LANES))
    reach = int(at_tap[-1]) + (win.kh - 1) * width * c + line
    run_by_image(
        weight_gradients_routed, team, n, len(gws), *tables, at_tap, gy, winner, padded, ends, gws, gbs, corners, alive,
        reach, *steps,
    )  # fmt: skip
    add_parts(gws, sums)
    turn(sums, gw, win.kh, filters, length, spaced, compact)
    sum_of_rows(gbs, gb)
    if not input_needed:
        return None, gw, gb
    kernel = memory.empty((filters, win.kh * line))
    kernel.fill(0)  # not noted to be repeated: nobody writes between the lines
    turn(memory.ready(w), kernel, win.kh, length, filters, compact, spaced)
    gpadded, team = memory.empty(padded.shape), workers(work, n)
    winners = np.empty((team, pool.taps + APART, -(-filters // 64)), np.int64)
    run_by_image(
        input_gradient_routed, team, n, n, *tables, remaining, at_tap, gy, winner, kernel, gpadded, winners, *steps
    )
    return _cropped(gpadded, win), gw, gb


def _parts(n, *shape):
    """Room for the sums over the parts of a batch."""
    return memory.empty((parts(n), *shape))


def _or_new(array, shape):
    return memory.empty(shape) if array is None else array


def _padded(x, win: Windows):
    """x with its padding as zeros, contiguous."""
    x = memory.ready(x)
    if not (win.top or win.bottom or win.left or win.right):
        return x
    n, h, w, c = x.shape
    padded = memory.empty((n, win.top + h + win.bottom, win.left + w + win.right, c))
    sides = padded[:, : win.top], padded[:, win.top + h :], padded[:, :, : win.left], padded[:, :, win.left + w :]
    for side in sides:
        side[...] = 0  # not noted to be repeated: nobody else writes there
    copy_images(x, (0, 0), padded, (win.top, win.left), h, w)
    return padded


def _cropped(padded, win: Windows):
    """What `_padded` was given, of an array like the one that it gave."""
    if not (win.top or win.bottom or win.left or win.right):
        return padded
    x = memory.empty((len(padded), win.h, win.w, padded.shape[3]))
    copy_images(padded, (win.top, win.left), x, (0, 0), win.h, win.w)
    return x


def _taps(win: Windows, width: int, c: int):
    """Where each of the KH*KW*C numbers of a window lies in the flat image, counted from the window's corner."""
    return starts_in_grid(win.kh, win.kw * c, width * c, 1)


def _run_direct(x, w, b, win: Windows, oh, ow, pool, relu: bool, winners: bool):
    ph, pw, psh, psw = pool
    padded, filters = _padded(x, win), w.shape[3]
    n, _, _, c = padded.shape
    columns = (ow - 1) * psw + pw  # of the convolution, that pooling needs
    y = memory.empty((n, oh, ow, filters))
    winner = memory.empty(y.shape if winners else (0, 0, 0, 0), np.int8)
    team = workers(n * oh * ph * columns * filters * win.taps * c, n * oh)
    rows = memory.empty((team, ph * columns * filters))
    starts = starts_in_grid(ph, columns, win.sh * padded.shape[2] * c, win.sw * c)
    at_tap = starts_in_grid(ph, pw, columns * filters, filters)
    run_by_image(
        _direct, team, n, n * oh, padded, memory.ready(w).reshape(-1), memory.ready(b), y, winner, rows, starts, at_tap,
        relu, win.kh, win.kw * c, win.sh * psh, psw,
    )  # fmt: skip
    return y, winner


@compiled
def _direct(worker, tasks, x, w, b, y, winner, rows, starts, at_tap, relu, kh, length, row_step, psw):
    """y (N, OH, OW, F) and its winners from x (N, H, W, C), a row of the pool at a time; w is flat.

    `starts`: where the windows of a row of the pool begin, counted from its first; `at_tap`: where a pool's taps lie
    among their outputs. `length` numbers are a window's line, `row_step` pixels lie between two rows of the pool.
    """
    n, h, width, c = x.shape
    _, oh, ow, filters = y.shape
    one = spread(np.float32(1))
    x, y, winner = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    row = rows[worker]  # (PH, columns, F): what one row of the pool needs of the convolution stays in the cache
    task = next_task(tasks)
    while task < n * oh:
        corner = (task // oh * h + task % oh * row_step) * width * c
        for f in range(0, filters, COLUMNS):
            multiply(x, corner, starts, width * c, 1, kh, length, w, f, filters, row, f, False)
        for f in range(0, filters, LANES):
            count, bias = filters - f, load(b, f, filters - f)
            for j in range(ow):
                start = j * psw * filters + f
                best, winning, tap = load(row, start, count), spread(np.float32(0)), one
                for t in range(1, len(at_tap)):  # the tap is counted in float32: vectors hold nothing else
                    value = load(row, start + at_tap[t], count)
                    better = beats(value, best)
                    best, winning, tap = where(better, value, best), where(better, tap, winning), tap + one
                # Bias and ReLU keep the order of values, so they can wait until the largest is known.
                _finish(best + bias, winning, relu, y, winner, (task * ow + j) * filters + f, count)
        task = next_task(tasks)


@helper
def _finish(value, tap, relu, y, winner, place, count):
    """Write a value, stopped by ReLU or not, and the tap that it came from."""
    if relu:
        alive = above_zero(value)
        value, tap = where(alive, value, spread(np.float32(0))), where(alive, tap, spread(np.float32(-1)))
    store(y, place, value, count)
    if winner.size:
        store(winner, place, tap, count)


@compiled
def _weight_gradients(worker, tasks, taps, g, x, gws, gbs, sh, sw):
    """gws (PARTS, KH*KW*C, F) and gbs (PARTS, F) from the gradient of the convolution, (N, OH, OW, F)."""
    n, oh, ow, filters = g.shape
    _, h, width, c = x.shape
    parts, x, flat = len(gws), x.reshape(-1), g.reshape(-1)
    part = next_task(tasks)
    while part < parts:
        first, last = part * n // parts, (part + 1) * n // parts
        gw, gb = gws[part].reshape(-1), gbs[part]
        for image in range(first, last):
            at, pixels = image * h * width * c, flat[image * oh * ow * filters : (image + 1) * oh * ow * filters]
            for f in range(0, filters, COLUMNS):
                multiply(x, at, taps, sh * width * c, sw * c, oh, ow, pixels, f, filters, gw, f, image > first)
            for f in range(0, filters, LANES):
                count, total = filters - f, spread(np.float32(0))
                for place in range(f, oh * ow * filters, filters):
                    total += load(pixels, place, count)
                store(gb, f, total if image == first else total + load(gb, f, count), count)
        part = next_task(tasks)


def _input_gradient(g, w, win: Windows):
    """The gradient of the convolution's input: a convolution of g, spread out by the strides, with turned weights."""
    n, oh, ow, filters = g.shape
    h, width = win.top + win.h + win.bottom - win.kh + 1, win.left + win.w + win.right - win.kw + 1
    if (h, width) != (oh, ow):
        apart = memory.zeros((n, h, width, filters))
        call(np.copyto, apart[:, :: win.sh, :: win.sw], g)
        g = apart
    turned = memory.ready(w[::-1, ::-1].transpose(0, 1, 3, 2))  # (KH, KW, F, C)
    pads = (win.kh - 1 - win.top, win.kh - 1 - win.bottom), (win.kw - 1 - win.left, win.kw - 1 - win.right)
    back = windows((h, width), (win.kh, win.kw), padding=pads)
    return conv2d(g, turned, np.zeros(w.shape[2], np.float32), back, relu=False)
