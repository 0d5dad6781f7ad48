"""The reference kernels as compiled loops (Numba), parallel over images or rows, and float32 kernels of fused ops.

Each public function allocates; the compiled loop behind it only fills what it is given. All compiled code stands in
this one file, because Numba's disk cache notices a change only in the file that holds the function.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before the first parallel call: idle threads must not spin

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import reference
from .shapes import Windows

TILE_ROWS, LANES = 8, 16  # a tile of the convolution: 8 pixels by 2 vectors of 16 filters, all in registers
TILE_FILTERS = 2 * LANES


def _compile(function):
    """Compile on first use and keep the result on disk; without a place to keep it, compile in each process."""
    try:
        return numba.njit(parallel=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(parallel=True)(function)


def im2col(x, win: Windows):
    n, _, _, c = x.shape
    cols = np.empty((n, win.oh, win.ow, win.taps * c), x.dtype)
    _im2col(np.ascontiguousarray(x), cols, win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left)
    return cols


@_compile
def _im2col(x, cols, kh, kw, sh, sw, dh, dw, top, left):
    n, h, w, c = x.shape
    _, oh, ow, _ = cols.shape
    for row in numba.prange(n * oh):
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


def col2im(cols, win: Windows):
    n = cols.shape[0]
    x = np.zeros((n, win.h, win.w, cols.shape[3] // win.taps), cols.dtype)
    _col2im(np.ascontiguousarray(cols), x, win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left)
    return x


@_compile
def _col2im(cols, x, kh, kw, sh, sw, dh, dw, top, left):
    n, h, w, c = x.shape
    _, oh, ow, _ = cols.shape
    for image in numba.prange(n):  # an image belongs to one thread: its sums have one order
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


def max_pool2d(x, win: Windows):
    n, _, _, c = x.shape
    y = np.empty((n, win.oh, win.ow, c), x.dtype)
    winner = np.empty(y.shape, np.int32)
    x = np.ascontiguousarray(x)
    _max_pool2d(x, y, winner, win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left)
    return y, winner


@_compile
def _max_pool2d(x, y, winner, kh, kw, sh, sw, dh, dw, top, left):
    n, h, w, c = x.shape
    _, oh, ow, _ = y.shape
    for row in numba.prange(n * oh):
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


def max_pool2d_backward(gy, winner, win: Windows):
    n, _, _, c = gy.shape
    gx = np.zeros((n, win.h, win.w, c), gy.dtype)
    gy = np.ascontiguousarray(gy)
    _max_pool2d_backward(gy, winner, gx, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left)
    return gx


@_compile
def _max_pool2d_backward(gy, winner, gx, kw, sh, sw, dh, dw, top, left):
    n, oh, ow, c = gy.shape
    _, h, w, _ = gx.shape
    for image in numba.prange(n):  # windows may overlap: an image belongs to one thread
        for i in range(oh):
            for j in range(ow):
                for channel in range(c):
                    tap = winner[image, i, j, channel]
                    y = i * sh - top + (tap // kw) * dh
                    column = j * sw - left + (tap % kw) * dw
                    if 0 <= y < h and 0 <= column < w:
                        gx[image, y, column, channel] += gy[image, i, j, channel]


def adam_update(w, g, m, v, rate: float, beta_1: float, beta_2: float, epsilon: float) -> None:
    if not all(a.flags.c_contiguous for a in (w, m, v)):  # a flat view of them would be a copy
        return reference.adam_update(w, g, m, v, rate, beta_1, beta_2, epsilon)
    number = w.dtype.type
    _adam_update(
        w.reshape(-1), g.reshape(-1), m.reshape(-1), v.reshape(-1),
        number(rate), number(1 - beta_1), number(1 - beta_2), number(epsilon),
    )  # fmt: skip


@_compile
def _adam_update(w, g, m, v, rate, share_1, share_2, epsilon):
    for i in numba.prange(w.size):
        m[i] += (g[i] - m[i]) * share_1
        v[i] += (g[i] * g[i] - v[i]) * share_2
        w[i] -= m[i] * rate / (np.sqrt(v[i]) + epsilon)


def warp(images, matrices, fill_mode: str, cval: float, scale: float):
    y = np.empty(images.shape, np.float32)
    mode = ("nearest", "constant", "reflect", "wrap").index(fill_mode)
    images, matrices = np.ascontiguousarray(images), np.ascontiguousarray(matrices, np.float64)
    if len(matrices) != len(images):
        raise ValueError(f"{len(images)} images need as many matrices, not {len(matrices)}")
    _warp(images, matrices, y, mode, np.float32(cval), np.float32(scale))
    return y


@_compile
def _warp(images, matrices, y, mode, cval, scale):
    n, h, w, c = images.shape
    for line in numba.prange(n * h):
        image, i = line // h, line % h
        m = matrices[image]
        for j in range(w):
            row = m[0, 0] * i + m[0, 1] * j + m[0, 2]
            column = m[1, 0] * i + m[1, 1] * j + m[1, 2]
            if mode == 1 and not (_inside(row, h) and _inside(column, w)):
                for channel in range(c):
                    y[image, i, j, channel] = cval * scale
                continue
            row, column = _fold(row, h, mode), _fold(column, w, mode)
            i0, j0 = int(row), int(column)
            i1, j1 = min(i0 + 1, h - 1), min(j0 + 1, w - 1)
            down, right = np.float32(row - i0), np.float32(column - j0)
            for channel in range(c):
                a, b = np.float32(images[image, i0, j0, channel]), np.float32(images[image, i0, j1, channel])
                d, e = np.float32(images[image, i1, j0, channel]), np.float32(images[image, i1, j1, channel])
                upper, lower = a + (b - a) * right, d + (e - d) * right
                y[image, i, j, channel] = (upper + (lower - upper) * down) * scale


@numba.njit
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


@numba.njit
def _inside(x, size):
    return -1e-9 <= x <= size - 1 + 1e-9


def conv_relu_max_pool2d(x, w, b, win: Windows, pool: Windows):
    """Convolution, bias, ReLU and max-pooling, pooled row by pooled row: what is pooled never leaves the cache.

    float32 (N, H, W, C), (KH, KW, C, F), (F,) -> (N, PH, PW, F) and which tap of its pool window each value came from,
    -1 where ReLU let nothing through. For windows without dilation and pools without padding.
    """
    n, _, _, c = x.shape
    filters = w.shape[3]
    columns = max((pool.ow - 1) * pool.sw + pool.kw, TILE_ROWS)  # of the convolution, that pooling needs
    padded = _padded(x, win, (columns - 1) * win.sw + win.kw)
    kernel, bias = _whole_tiles(w.reshape(-1, filters)), _whole_tiles(b.reshape(1, filters))[0]  # (KH*KW*C, F')
    y = np.empty((n, pool.oh, pool.ow, filters), np.float32)
    winner = np.empty(y.shape, np.int8)
    rows = np.empty((numba.get_num_threads(), pool.kh * columns * kernel.shape[1]), np.float32)
    _conv_relu_max_pool2d(
        padded, kernel, bias, y, winner, rows, columns,
        win.kh, win.kw * c, win.sh, win.sw, pool.kh, pool.kw, pool.sh, pool.sw,
    )  # fmt: skip
    return y, winner


def conv_relu_max_pool2d_backward(gy, winner, x, w, win: Windows, pool: Windows, input_needed: bool):
    """The gradients of `conv_relu_max_pool2d`: of its input (None unless needed), weights and bias.

    Each pooled value came from one position, so one window of the input took part in it, and only that one gets a
    gradient, or gives one to the weights: a quarter of the work of a dense convolution for 2x2 pools, less for ReLU.
    """
    n, _, _, c = x.shape
    filters, run = w.shape[3], win.kw * c
    gy = np.ascontiguousarray(gy, np.float32)
    gbiases = np.zeros((n, filters), np.float32)
    strides = win.sh, win.sw, pool.kw, pool.sh, pool.sw
    if run < TILE_FILTERS and not input_needed:  # such short windows cost less in dense tiles than one by one
        spare = TILE_ROWS if run < TILE_ROWS else 0  # a tile reads 8 taps, also where a window has less
        padded = _padded(x, win, (win.ow - 1) * win.sw + win.kw + spare)
        tiled = filters + -filters % TILE_FILTERS
        routed = np.empty((numba.get_num_threads(), win.oh * win.ow * tiled), np.float32)
        gkernels = np.empty((n, win.kh * run + TILE_ROWS, tiled), np.float32)
        _weight_gradients_dense(gy, winner, padded, routed, gkernels, gbiases, win.oh, win.ow, win.kh, run, *strides)
        gw = gkernels[:, : win.kh * run, :filters].sum(axis=0).reshape(w.shape)
        return None, gw, gbiases.sum(axis=0)
    padded = _padded(x, win, 0)
    gpadded = np.zeros(padded.shape if input_needed else (n, 0, 0, 0), np.float32)
    kernel = np.ascontiguousarray(w.reshape(-1, filters).T)  # (F, KH*KW*C)
    gkernels = np.zeros((n, *kernel.shape), np.float32)  # one per image, added in order: the same bits for any threads
    _gradients_routed(gy, winner, padded, kernel, gpadded, gkernels, gbiases, input_needed, win.kh, run, *strides)
    gx = gpadded[:, win.top : win.top + win.h, win.left : win.left + win.w] if input_needed else None
    gw = np.ascontiguousarray(gkernels.sum(axis=0).T).reshape(w.shape)
    return gx, gw, gbiases.sum(axis=0)


def _padded(x, win: Windows, least_width: int):
    """x with its padding as zeros, contiguous, and at least so wide."""
    width = win.left + win.w + win.right
    pads = (win.left, win.right + max(least_width - width, 0))
    if (win.top, win.bottom, *pads) == (0, 0, 0, 0):
        return np.ascontiguousarray(x)
    return np.pad(x, ((0, 0), (win.top, win.bottom), pads, (0, 0)))


def _whole_tiles(matrix):
    """The same matrix with zero columns added up to a multiple of a tile's filters."""
    missing = -matrix.shape[1] % TILE_FILTERS
    return np.ascontiguousarray(np.pad(matrix, ((0, 0), (0, missing))))


@intrinsic
def _multiply_tile(typingctx, x, at, pixel, row, step, heights, run, w, column, filters, out, place):
    """out[place + r * filters + 0:32] = sum over a < heights, q < run of x[at + r * pixel + a * row + q * step] times
    w[(a * run + q) * filters + column + 0:32], for r in 0..7; all arrays flat, all sums in registers.

    Written in LLVM's terms because loops over local arrays do not end up in vector registers.
    """

    def generate(context, builder, signature, arguments):
        _, at, pixel, row, step, heights, run, _, column, filters, _, place = arguments
        x, w, out = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 7, 10))
        number, index = ir.FloatType(), ir.IntType(64)
        vector = ir.VectorType(number, LANES)
        unset, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        kind = ir.FunctionType(vector, [vector] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")

        def times(a, b):
            return builder.mul(a, b if isinstance(b, ir.Value) else ir.Constant(index, b))

        def plus(a, b):
            return builder.add(a, b if isinstance(b, ir.Value) else ir.Constant(index, b))

        def vector_at(array, i):
            return builder.bitcast(builder.gep(array, [i]), vector.as_pointer())

        zero = ir.Constant(vector, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(TILE_ROWS)]
        for total in (total for pair in sums for total in pair):
            builder.store(zero, total)  # an alloca's first value is set once, not once per tile
        with cgutils.for_range(builder, heights) as a, cgutils.for_range(builder, run) as q:
            tap = plus(times(times(a.index, run), filters), plus(times(q.index, filters), column))
            weights = [builder.load(vector_at(w, plus(tap, k * LANES)), align=4) for k in range(2)]
            corner = plus(plus(at, times(a.index, row)), times(q.index, step))
            for r in range(TILE_ROWS):
                value = builder.load(builder.gep(x, [plus(corner, times(pixel, r))]))
                value = builder.insert_element(unset, value, ir.Constant(ir.IntType(32), 0))
                value = builder.shuffle_vector(value, unset, first)
                for k in range(2):
                    builder.store(builder.call(multiply_add, [value, weights[k], builder.load(sums[r][k])]), sums[r][k])
        for r in range(TILE_ROWS):
            for k in range(2):
                target = vector_at(out, plus(place, plus(times(filters, r), k * LANES)))
                builder.store(builder.load(sums[r][k]), target, align=4)
        return context.get_dummy_value()

    size = types.intp
    return types.void(x, size, size, size, size, size, size, w, size, size, out, size), generate


@_compile
def _conv_relu_max_pool2d(x, w, b, y, winner, rows, columns, kh, run, sh, sw, ph, pw, psh, psw):
    n, h, width, c = x.shape
    _, oh, ow, filters = y.shape
    tiled = w.shape[1]
    flat_x, flat_w = x.reshape(-1), w.reshape(-1)
    for task in numba.prange(n * oh):
        image, i = task // oh, task % oh
        row = rows[numba.get_thread_id()]
        for r in range(ph):
            line = (image * h + (i * psh + r) * sh) * width
            for start in range(0, columns, TILE_ROWS):
                j = min(start, columns - TILE_ROWS)  # the last tile is moved back to end with the row
                for column in range(0, tiled, TILE_FILTERS):
                    place = (r * columns + j) * tiled + column
                    at = (line + j * sw) * c
                    _multiply_tile(flat_x, at, sw * c, width * c, 1, kh, run, flat_w, column, tiled, row, place)
        for j in range(ow):
            for f in range(filters):
                y[image, i, j, f] = row[j * psw * tiled + f] + b[f]
                winner[image, i, j, f] = 0
            for r in range(ph):
                for s in range(pw):
                    place = (r * columns + j * psw + s) * tiled
                    for f in range(filters):
                        value = row[place + f] + b[f]
                        best = y[image, i, j, f]
                        better = (value > best) | ((value != value) & (best == best))
                        y[image, i, j, f] = value if better else best
                        winner[image, i, j, f] = r * pw + s if better else winner[image, i, j, f]
            for f in range(filters):
                stopped = y[image, i, j, f] <= 0
                y[image, i, j, f] = 0 if stopped else y[image, i, j, f]
                winner[image, i, j, f] = -1 if stopped else winner[image, i, j, f]


@_compile
def _gradients_routed(gy, winner, x, w, gx, gw, gb, input_needed, kh, run, sh, sw, pw, psh, psw):
    n, oh, ow, filters = gy.shape
    _, _, width, c = x.shape
    for image in numba.prange(n):
        pixels = x[image].reshape(-1)
        gpixels = gx[image].reshape(-1)
        for f in range(filters):
            weights, gweights, total = w[f], gw[image, f], np.float32(0)
            for i in range(oh):
                for j in range(ow):
                    tap, g = winner[image, i, j, f], gy[image, i, j, f]
                    if tap >= 0:
                        total += g
                        line, column = (i * psh + tap // pw) * sh, (j * psw + tap % pw) * sw
                        for a in range(kh):
                            start = ((line + a) * width + column) * c
                            pixel, gpixel = pixels[start : start + run], gpixels[start : start + run]
                            weight, gweight = weights[a * run : (a + 1) * run], gweights[a * run : (a + 1) * run]
                            for q in range(run):
                                gweight[q] += g * pixel[q]
                            if input_needed:
                                for q in range(run):
                                    gpixel[q] += g * weight[q]
            gb[image, f] = total


@_compile
def _weight_gradients_dense(gy, winner, x, routed, gw, gb, conv_h, conv_w, kh, run, sh, sw, pw, psh, psw):
    n, oh, ow, filters = gy.shape
    _, h, width, c = x.shape
    tiled = gw.shape[2]
    pixels = x.reshape(-1)
    for image in numba.prange(n):
        scattered = routed[numba.get_thread_id()]  # the gradient of what the pool read, (conv_h, conv_w, tiled)
        scattered[:] = 0
        for i in range(oh):
            for j in range(ow):
                for f in range(filters):
                    tap = winner[image, i, j, f]
                    if tap >= 0:
                        line, column = i * psh + tap // pw, j * psw + tap % pw
                        scattered[(line * conv_w + column) * tiled + f] += gy[image, i, j, f]
                        gb[image, f] += gy[image, i, j, f]
        sums = gw[image].reshape(-1)
        for a in range(kh):
            for start in range(0, run, TILE_ROWS):
                q = min(start, max(run - TILE_ROWS, 0))  # what a tile computes past the run, the next one overwrites
                at = (image * h + a) * width * c + q
                for column in range(0, tiled, TILE_FILTERS):
                    place = (a * run + q) * tiled + column
                    _multiply_tile(
                        pixels, at, 1, sh * width * c, sw * c, conv_h, conv_w, scattered, column, tiled, sums, place
                    )
