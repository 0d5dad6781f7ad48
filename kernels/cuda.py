"""The reference kernels, and those of the fused ops, for CuPy arrays on an NVIDIA GPU: what to launch, and how large.

The kernels themselves are CUDA C++ in the .cu files beside this one, compiled at their first use for the layer at hand;
after that a call only takes memory from CuPy's pool and launches kernels on the current stream, so that a step that
has run once can be recorded in a CUDA graph; but for products by a library, and maps for `warp` from the host. Sums
are made of parts whose number depends on shapes alone, added in order: the same bits in every run. Unless said
otherwise arrays are float32, in any memory layout.
"""

import os
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cupy
import numpy as np

from . import reference
from .shapes import Windows

PROCESSORS = 132  # of the GPU that tiles are chosen for; a constant, so that sums are cut alike on every other one
SHARED = 46 * 1024  # bytes of shared memory for a block's tiles: less than the 48 KiB that need no asking
THREADS = 256  # of a block whose threads work each for itself
LIBRARY = 256  # samples from which, with TF32, a library's matrix product beats dense.cu; no graph can record it
TF32 = os.environ.get("CUPY_TF32") == "1"
NOTHING = np.intp(0)  # a null pointer
ALONE = Windows(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1)  # a pool of 1x1: none
Pair = tuple[int, int]
Macros = tuple[tuple[str, Any], ...]


@cache
def _kernel(file: str, name: str, macros: Macros = ()) -> Any:
    """A kernel of a .cu file, compiled with these macros; products and sums are fused only where the source says so."""
    options = ("-std=c++17", "--fmad=false", *(f"-D{macro}={value}" for macro, value in macros))
    return _module(file, options).get_function(name)


@cache
def _module(file: str, options: tuple[str, ...]) -> Any:
    code = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return cupy.RawModule(code=code, options=options, backend="nvrtc")


def _launch(kernel: Any, blocks: tuple[int, ...], threads: int, *arguments: Any) -> None:
    """Arguments are arrays, NumPy scalars of the parameter's type, or int for int32."""
    if all(blocks):
        kernel(blocks, (threads,), tuple(np.int32(a) if type(a) is int else a for a in arguments))


def _launch_flat(kernel: Any, size: int, *arguments: Any) -> None:
    """One thread for each of `size` numbers."""
    _launch(kernel, (-(-size // THREADS),), THREADS, *arguments, np.int64(size))


def _empty(shape, dtype=np.float32):
    return cupy.empty(shape, dtype)


def _ready(array):
    return cupy.ascontiguousarray(array)


def _or_new(array, shape):
    return _empty(shape) if array is None else array


def _real(dtype) -> Macros:
    return (("REAL", {"float32": "float", "float64": "double"}[np.dtype(dtype).name]),)


def im2col(x, win: Windows):
    """Float32 or float64."""
    n, _, _, c = x.shape
    cols = _empty((n, win.oh, win.ow, win.taps * c), x.dtype)
    _launch_pooling("im2col", n * win.oh, win.ow * win.taps * c, c, win, _ready(x), cols)
    return cols


def col2im(cols, win: Windows):
    """Float32 or float64."""
    n, c = cols.shape[0], cols.shape[3] // win.taps
    x = _empty((n, win.h, win.w, c), cols.dtype)
    _launch_pooling("col2im", n * win.h, win.w * c, c, win, _ready(cols), x)
    return x


def max_pool2d(x, win: Windows):
    """Float32 or float64."""
    n, _, _, c = x.shape
    y = _empty((n, win.oh, win.ow, c), x.dtype)
    winner = _empty(y.shape, np.int32)
    _launch_pooling("max_pool2d", n * win.oh, win.ow * c, c, win, _ready(x), y, winner)
    return y, winner


def max_pool2d_backward(gy, winner, win: Windows):
    """Float32 or float64."""
    n, _, _, c = gy.shape
    gx = _empty((n, win.h, win.w, c), gy.dtype)
    _launch_pooling("max_pool2d_backward", n * win.h, win.w * c, c, win, _ready(gy), _ready(winner), gx)
    return gx


def _launch_pooling(name: str, rows: int, row: int, c: int, win: Windows, *arrays) -> None:
    """A block for each row of the output, with as many threads as the row has numbers, in whole warps."""
    geometry = win.h, win.w, c, win.oh, win.ow, win.kh, win.kw, win.sh, win.sw, win.dh, win.dw, win.top, win.left
    kernel = _kernel("pooling.cu", name, _real(arrays[0].dtype))
    _launch(kernel, (rows if row else 0,), min(-(-row // 32) * 32, THREADS), *arrays, *geometry)


def conv_relu_max_pool2d(x, w, b, win: Windows, pool: Windows):
    """max_pool2d(relu(conv2d(x, w) + b)): (N, H, W, C), (KH, KW, C, F), (F,) -> (N, PH, PW, F), and winners (int8).

    The winner is the tap of the pool's window that each value came from, -1 where ReLU let nothing through.
    For windows without dilation, and pools without padding and of at most 127 taps (winners are int8).
    """
    y = _empty((len(x), pool.oh, pool.ow, w.shape[3]))
    winner = _empty(y.shape, np.int8)
    _convolve_image(x, w, b, y, winner, win, pool, relu=True)
    return y, winner


def conv2d(x, w, b, win: Windows, relu: bool):
    """conv2d(x, w) + b, then ReLU if wanted: (N, H, W, C), (KH, KW, C, F), (F,) -> (N, OH, OW, F)."""
    y = _empty((len(x), win.oh, win.ow, w.shape[3]))
    _convolve_image(x, w, b, y, NOTHING, win, ALONE, relu=relu)
    return y


def _convolve_image(x, w, b, y, winner, win: Windows, pool: Windows, relu: bool) -> None:
    task = Convolution(x.shape[3], w.shape[3], (win.kh, win.kw), (win.sh, win.sw), *_pool_of(pool))
    sizes = win.h, win.w, win.h, win.w, win.top, win.left
    _convolve(task, _ready(x), NOTHING, _ready(w), _ready(b), y, winner, sizes, relu)


def _pool_of(pool: Windows) -> tuple[Pair, Pair]:
    return (pool.kh, pool.kw), (pool.sh, pool.sw)


def conv2d_backward(gy, y, x, w, win: Windows, relu: bool, input_needed: bool, gw=None, gb=None):
    """The gradients of `conv2d`: of the input (None unless needed), weights and bias, each of its input's shape.

    gy and y are (N, OH, OW, F). gw and gb: C-contiguous float32 arrays to write into, in place of new ones.
    """
    g = _relu_gradient(gy, y) if relu else _ready(gy)
    return _convolution_gradients(g, NOTHING, x, w, win, ALONE, input_needed, gw, gb)


def conv_relu_max_pool2d_backward(gy, winner, x, w, win: Windows, pool: Windows, input_needed: bool, gw=None, gb=None):
    """The gradients of `conv_relu_max_pool2d`: of the input (None unless needed), weights and bias, as in `conv2d`."""
    return _convolution_gradients(_ready(gy), _ready(winner), x, w, win, pool, input_needed, gw, gb)


def _convolution_gradients(gy, winner, x, w, win: Windows, pool: Windows, input_needed: bool, gw, gb):
    gw, gb = _or_new(gw, w.shape), _or_new(gb, w.shape[3:])
    _weight_gradients(_ready(x), gy, winner, gw, gb, win, pool)
    if not input_needed:
        return None, gw, gb
    gx, w = _empty(x.shape), _ready(w)
    if winner is not NOTHING and (tiles := _routed_tiles(x.shape, w.shape, win, pool)):
        _routed_input_gradient(tiles, gy, winner, w, gx, win, pool)
        return gx, gw, gb
    kernel = win.kh, win.kw
    task = Convolution(w.shape[3], w.shape[2], kernel, (1, 1), (1, 1), (1, 1), (_pool_of(pool), (win.sh, win.sw)))
    spread = (win.oh - 1) * win.sh + 1, (win.ow - 1) * win.sw + 1  # the gradient with its gaps
    sizes = *spread, *gy.shape[1:3], win.kh - 1 - win.top, win.kw - 1 - win.left
    _convolve(task, gy, winner, w, NOTHING, gx, NOTHING, sizes, relu=False)
    return gx, gw, gb


class Convolution(NamedTuple):
    """What convolution.cu is compiled for, besides the sizes of its tiles."""

    channels: int
    filters: int
    kernel: Pair
    strides: Pair
    pool: Pair
    pool_strides: Pair
    unpool: tuple[tuple[Pair, Pair], Pair] | None = None  # of a gradient: (its pool and strides), convolution's strides

    def macros(self) -> Iterator[tuple[str, int]]:
        yield from (("CHANNELS", self.channels), ("FILTERS", self.filters))
        yield from _two("KERNEL", self.kernel)
        yield from _two("STRIDE", self.strides)
        yield from _two("POOL", self.pool)
        yield from _two("POOL_STRIDE", self.pool_strides)
        if self.unpool:
            (size, strides), spread = self.unpool
            yield from (*_two("UNPOOL", size), *_two("UNPOOL_STRIDE", strides), *_two("SPREAD", spread))


def _two(name: str, pair: Pair) -> tuple[tuple[str, int], tuple[str, int]]:
    return (f"{name}_H", pair[0]), (f"{name}_W", pair[1])


def _convolve(task: Convolution, x, routes, w, bias, y, winner, sizes: tuple[int, ...], relu: bool) -> None:
    n, oh, ow, _ = y.shape
    tiles = _convolution_tiles(task, n, (oh, ow))
    across, down = tiles.threads[1] * tiles.windows, tiles.threads[0]
    blocks = n * -(-oh // down) * -(-ow // across), -(-task.filters // (tiles.groups * tiles.filters))
    kernel = _kernel("convolution.cu", "convolve", (*task.macros(), *tiles.macros()))
    threads = tiles.threads[0] * tiles.threads[1] * tiles.groups
    _launch(kernel, blocks, threads, x, routes, w, bias, y, winner, n, *sizes, oh, ow, int(relu))


class ConvolutionTiles(NamedTuple):
    """The sizes of the tiles of `convolve`: see convolution.cu."""

    group: Pair  # positions of a pool window that a thread works on at once
    windows: int  # pool windows of a thread
    filters: int  # of a thread
    groups: int  # threads that share the filters of a block
    taps: Pair  # staged at once
    threads: Pair  # down and across
    chunk: int  # channels staged at once

    def macros(self) -> Iterator[tuple[str, int]]:
        yield from (*_two("GROUP", self.group), *_two("TAPS", self.taps), *_two("THREADS", self.threads))
        yield from (("WINDOWS", self.windows), ("FILTERS_EACH", self.filters), ("FILTER_GROUPS", self.groups))
        yield ("CHUNK", self.chunk)

    def shared(self, task: Convolution) -> int:
        """Bytes of shared memory."""
        (sh, sw), (ph, pw) = task.strides, task.pool_strides
        patch_h = ((self.threads[0] - 1) * ph + self.group[0] - 1) * sh + self.taps[0]
        patch_w = ((self.threads[1] * self.windows - 1) * pw + self.group[1] - 1) * sw + self.taps[1]
        plane = patch_h * (patch_w | 1) | 1
        weights = self.taps[0] * self.taps[1] * (self.groups * self.filters + 4)
        return 4 * self.chunk * (plane + weights) + 16

    def strip(self, task: Convolution) -> int:
        """Numbers of the image that a thread holds in registers."""
        reach = ((self.windows - 1) * task.pool_strides[1] + self.group[1] - 1) * task.strides[1] + self.taps[1]
        return self.group[0] * min(reach, self.windows * self.group[1] * self.taps[1])


@lru_cache
def _convolution_tiles(task: Convolution, n: int, out: Pair) -> ConvolutionTiles:
    """The first tiles, from the best to the smallest, that fit in registers and shared memory; some always do."""
    work = n * out[0] * out[1] * task.pool[0] * task.pool[1] * task.filters
    return next(
        tiles
        for sparing in (False, True)  # staging few channels at once is slow, but better than nothing
        for tiles in _possible_tiles(task, out, work, sparing)
        if tiles.shared(task) <= SHARED and tiles.strip(task) <= 64
    )


def _possible_tiles(task: Convolution, out: Pair, work: int, sparing: bool) -> Iterator[ConvolutionTiles]:
    c, taps = task.channels, [pair for pair in _parts(task.kernel) if pair[0] * pair[1] <= 128]
    columns = min(task.pool[1], 16)
    rows = max(1, min(task.pool[0], 16 // columns)) if columns == task.pool[1] else 1
    least = 1 if sparing else min(c, 4)
    chunks = [size for parts in (1, 2, 4, 8, 16, 32, c) if least <= (size := -(-c // parts)) <= 64]
    for group in ((rows, columns), (1, columns), (1, 1)):
        positions = group[0] * group[1]
        filters = 8 if task.filters > 4 and positions <= 8 else 4
        groups = min(-(-task.filters // filters), 8)
        pixels = 8 if work >= 8 * filters * 1024 * PROCESSORS else 4  # a thread's; fewer, for more threads
        windows = max(1, min(pixels // positions, out[1]))
        for part, places, chunk in product(taps, (128, 64, 32, 16, 8, 4, 2, 1), chunks):
            threads = _split(out[0], -(-out[1] // windows), max(1, places // groups))
            yield ConvolutionTiles(group, windows, filters, groups, part, threads, chunk)


def _parts(kernel: Pair) -> list[Pair]:
    """The ways to cut a window into equal parts, from one part to single taps; long rows before high columns."""
    down, across = ([k for k in range(1, size + 1) if size % k == 0] for size in kernel)
    return sorted(((a, b) for a in down for b in across), key=lambda part: (part[0] * part[1], part[1]), reverse=True)


def _split(rows: int, columns: int, places: int) -> Pair:
    """How many of rows and columns a tile has: up to `places` together, and tiles of about one size."""
    across = _share(columns, min(8, places))
    return _share(rows, places // across), across


def _share(size: int, most: int) -> int:
    return max(1, -(-size // max(1, -(-size // most))))


def _weight_gradients(x, gy, winner, gw, gb, win: Windows, pool: Windows) -> None:
    """Every block adds up its share of the windows, and a second kernel the blocks' sums."""
    n, oh, ow, filters = gy.shape
    channels, strides = x.shape[3], (win.sh, win.sw)
    task = Convolution(channels, filters, (win.kh, win.kw), strides, *_pool_of(pool))
    sizes = n, win.h, win.w, win.top, win.left, oh, ow
    tiles = _weight_tiles(task, (oh, ow))
    size = gw.size + gb.size
    if tiles is None:  # windows so far apart that no tile holds two of their positions
        kernel = _kernel("convolution_weights.cu", "weight_gradient_naive", (*task.macros(), *WeightTiles.least()))
        return _launch(kernel, (-(-size // THREADS),), THREADS, x, gy, winner, gw, gb, *sizes)
    shares = -(-filters // 32), tiles.kernel_parts(task) * -(-channels // (tiles.groups * tiles.channels))
    work = n * -(-oh // tiles.tile[0]) * -(-ow // tiles.tile[1])
    count = min(work, max(1, 2 * PROCESSORS // (shares[0] * shares[1])))  # two blocks fit on a processor
    pieces = _empty((count, size))
    kernel = _kernel("convolution_weights.cu", "weight_gradients", (*task.macros(), *tiles.macros()))
    _launch(kernel, (count, *shares), 32 * tiles.groups * tiles.slices, x, gy, winner, pieces, *sizes)
    _add_pieces(pieces, gw, gb)


class RoutedTiles(NamedTuple):
    """What convolution_routed.cu is compiled for."""

    channels: int
    filters: int
    kernel: Pair
    pool: Pair
    windows: int  # side by side in a tile
    warps: int = 8
    chunk: int = 16  # filters staged at once

    def macros(self) -> Iterator[tuple[str, int]]:
        yield from (("CHANNELS", self.channels), ("FILTERS", self.filters))
        yield from (*_two("KERNEL", self.kernel), *_two("POOL", self.pool))
        yield from (("WINDOWS", self.windows), ("WARPS", self.warps), ("CHUNK", self.chunk))


@lru_cache
def _routed_tiles(image: tuple[int, ...], weights: tuple[int, ...], win: Windows, pool: Windows) -> RoutedTiles | None:
    """Tiles that fit in registers, where convolution_routed.cu can and should be used."""
    (n, _, _, channels), (kh, kw, _, filters) = image, weights
    simple = (win.sh, win.sw) == (1, 1) and (pool.kh, pool.kw) == (pool.sh, pool.sw)
    if not simple or channels < 16 or kh * kw > 9 or pool.kh * pool.kw > 6:
        return None
    widest = 8 if n * pool.oh * pool.ow >= 128 * PROCESSORS else 4  # fewer, for more warps
    for windows in range(_share(_pool_columns(win, pool), widest), 0, -1):
        if pool.kh * windows * pool.kw <= 32:
            return RoutedTiles(channels, filters, (kh, kw), (pool.kh, pool.kw), windows)
    return None


def _pool_columns(win: Windows, pool: Windows) -> int:
    """How many windows of the pool, side by side on the padded image, it takes to cover the image."""
    return (win.left + win.w - 1) // pool.kw - win.left // pool.kw + 1


def _routed_input_gradient(tiles: RoutedTiles, gy, winner, w, gx, win: Windows, pool: Windows) -> None:
    n, h, width, channels = gx.shape
    rows, columns = (win.top + h - 1) // pool.kh - win.top // pool.kh + 1, _pool_columns(win, pool)
    blocks = n * -(-rows // tiles.warps) * -(-columns // tiles.windows), -(-channels // 32)
    sizes = n, h, width, win.top, win.left, pool.oh, pool.ow, rows, columns
    kernel = _kernel("convolution_routed.cu", "input_gradient_routed", tuple(tiles.macros()))
    _launch(kernel, blocks, 32 * tiles.warps, gy, winner, w, gx, *sizes)


def _add_pieces(pieces, first, second) -> None:
    """The sum of pieces (COUNT, SIZE) into `first`, and what does not fit there into `second`."""
    count, size = pieces.shape
    kernel = _kernel("sums.cu", "add_pieces")
    _launch(kernel, (-(-size // 32),), 512, pieces, count, np.int64(size), first, np.int64(first.size), second)


class WeightTiles(NamedTuple):
    """The sizes of the tiles of `weight_gradients`: see convolution_weights.cu."""

    taps: Pair
    channels: int  # of a thread
    groups: int
    slices: int
    tile: Pair

    @staticmethod
    def least() -> Iterator[tuple[str, int]]:
        return WeightTiles((1, 1), 1, 1, 1, (1, 1)).macros()

    def macros(self) -> Iterator[tuple[str, int]]:
        yield from (*_two("TAPS", self.taps), *_two("TILE", self.tile))
        yield from (("CHANNELS_EACH", self.channels), ("GROUPS", self.groups), ("SLICES", self.slices))

    def kernel_parts(self, task: Convolution) -> int:
        return task.kernel[0] // self.taps[0] * (task.kernel[1] // self.taps[1])

    def shared(self, task: Convolution) -> int:
        """Bytes of shared memory."""
        sides = zip(self.tile, task.pool_strides, task.pool, task.strides, self.taps, strict=True)
        patch_h, patch_w = (((tile - 1) * step + size - 1) * stride + taps for tile, step, size, stride, taps in sides)
        channels = self.groups * self.channels
        pixel = channels + 4 if self.channels == 4 else channels
        sums = self.taps[0] * self.taps[1] * channels * 32
        return 4 * max(patch_h * patch_w * pixel, sums) + 8 * 32 * self.tile[0] * self.tile[1] + 16


@lru_cache
def _weight_tiles(task: Convolution, out: Pair) -> WeightTiles | None:
    """The first tiles, from the best to the smallest, that fit in registers and shared memory."""
    for each in (4, 1) if task.channels >= 4 else (task.channels, 1):
        most = min(8, -(-task.channels // each))
        parts = [part for part in _parts(task.kernel) if part[0] * part[1] * each <= 48]
        for groups, places in product((most, -(-most // 2), 1), (64, 32, 16, 8, 4, 2, 1)):
            across = _share(out[1], min(32, places))
            tile = _share(out[0], places // across), across
            tiles = WeightTiles(parts[0], each, groups, 8 // groups, tile)
            if tiles.shared(task) <= SHARED:
                return tiles
    return None


def dense(x, w, b, relu: bool):
    """x @ w + b, then ReLU if wanted: (N, INPUTS), (INPUTS, UNITS), (UNITS,) -> (N, UNITS)."""
    x, w, b = _ready(x), _ready(w), _ready(b)
    (n, inputs), units = x.shape, w.shape[1]
    y = _empty((n, units))
    if TF32 and n >= LIBRARY:
        cupy.dot(x, w, out=y)
        _launch_flat(_kernel("dense.cu", "add_bias"), y.size, y, b, units, int(relu))
        return y
    tiles = -(-units // 32), -(-n // 32)
    ranges = 1 if inputs <= 256 else max(1, min(PROCESSORS, 12 * PROCESSORS // max(1, tiles[0] * tiles[1])))
    depth = 32 * max(1, -(-inputs // (32 * ranges)))  # inputs of a range: whole tiles
    ranges = max(1, -(-inputs // depth))
    pieces = y if ranges == 1 else _empty((ranges, n, units))
    _launch(_kernel("dense.cu", "dense"), (*tiles, ranges), 64, x, w, b, pieces, n, inputs, units, depth, int(relu))
    if ranges > 1:
        size = np.int64(y.size)
        kernel = _kernel("sums.cu", "add_pieces_and_bias")
        _launch(kernel, (-(-y.size // 32),), 512, pieces, ranges, size, b, units, int(relu), y)
    return y


def dense_backward(gy, y, x, w, relu: bool, input_needed: bool, gw=None, gb=None):
    """The gradients of `dense`: of the input (None unless needed), weights and bias, each of its input's shape.

    gy and y are (N, UNITS). gw and gb: C-contiguous float32 arrays to write into, in place of new ones.
    """
    gy, y, x, w = _ready(gy), _ready(y), _ready(x), _ready(w)
    (n, inputs), units = x.shape, w.shape[1]
    gw, gb = _or_new(gw, w.shape), _or_new(gb, (units,))
    gx = _empty(x.shape) if input_needed else None
    if TF32 and n >= LIBRARY:
        g = _relu_gradient(gy, y) if relu else gy
        cupy.dot(x.T, g, out=gw)
        _add_pieces(g, gb, gb)
        if gx is not None:
            cupy.dot(g, w.T, out=gx)
        return gx, gw, gb
    across, down = -(-units // 32), -(-inputs // 32)
    blocks = across * down + -(-units // 8) + (-(-n // 32) * down if input_needed else 0)
    sizes = n, inputs, units, int(relu)
    target = gx if gx is not None else NOTHING
    _launch(_kernel("dense.cu", "dense_gradients"), (blocks,), 64, gy, y, x, w, gw, gb, target, *sizes)
    return gx, gw, gb


def _relu_gradient(gy, y):
    g = _empty(gy.shape)
    _launch_flat(_kernel("sums.cu", "relu_gradient"), g.size, _ready(gy), _ready(y), g)
    return g


def sigmoid_binary_cross_entropy(z, y):
    """Also for numbers that are not float32, by array expressions; an array of shape ()."""
    if (z.dtype, y.dtype) != (np.float32, np.float32):
        return reference.sigmoid_binary_cross_entropy(z, y)
    loss = _empty(())
    kernel = _kernel("loss.cu", "sigmoid_binary_cross_entropy")
    _launch(kernel, (1,), THREADS, _ready(z), _ready(y), loss, np.int64(z.size))
    return loss


def sigmoid_binary_cross_entropy_backward(gy, z, y):
    """Also for numbers that are not float32, by array expressions."""
    if (z.dtype, y.dtype) != (np.float32, np.float32):
        return reference.sigmoid_binary_cross_entropy_backward(gy, z, y)
    gz = _empty(z.shape)
    kernel = _kernel("loss.cu", "sigmoid_binary_cross_entropy_backward")
    _launch_flat(kernel, gz.size, _on_device(gy, np.float32), _ready(z), _ready(y), gz)
    return gz


def _on_device(number, dtype):
    """An array of one number: what a kernel reads through a pointer can be changed between runs of a recorded graph."""
    if isinstance(number, cupy.ndarray):
        return number.astype(dtype, copy=False)
    return cupy.full(1, number, dtype)


def adam_update(w, g, m, v, rate, beta_1: float, beta_2: float, epsilon: float) -> None:
    """Float32 or float64; `rate` is a number or an array of one."""
    real = w.dtype.type
    factors = real(1 - beta_1), real(1 - beta_2), real(epsilon)
    _update("adam_update", (w, m, v), lambda w, m, v: (w, _ready(g), m, v, _on_device(rate, w.dtype), *factors))


def sgd_update(w, g, velocity, rate, momentum: float, nesterov: bool) -> None:
    """Float32 or float64; `rate` is a number or an array of one."""
    factors = w.dtype.type(momentum), int(nesterov)
    _update("sgd_update", (w, velocity), lambda w, v: (w, _ready(g), v, _on_device(rate, w.dtype), *factors))


def _update(name: str, changed: tuple, arguments) -> None:
    """One step in place on the changed arrays, through copies of those that are not contiguous."""
    ready = [_ready(array) for array in changed]
    _launch_flat(_kernel("update.cu", name, _real(changed[0].dtype)), changed[0].size, *arguments(*ready))
    for array, copy in zip(changed, ready, strict=True):
        if copy is not array:
            array[...] = copy


PIXELS = {"uint8": "unsigned char", "float32": "float", "float64": "double"}


def warp(images, matrices, fill_mode: str, cval: float, scale: float):
    """Images of uint8, float32 or float64; other numbers are brought to float32."""
    mode = ("nearest", "constant", "reflect", "wrap").index(fill_mode)
    if len(matrices) != len(images):
        raise ValueError(f"{len(images)} images need as many matrices, not {len(matrices)}")
    images = _ready(images if images.dtype.name in PIXELS else images.astype(np.float32))
    y = _empty(images.shape)
    n, h, w, c = images.shape
    matrices = cupy.ascontiguousarray(cupy.asarray(matrices, np.float64))
    kernel = _kernel("warp.cu", "warp", (("PIXEL", PIXELS[images.dtype.name]),))
    arguments = images, matrices, y, h, w, c, mode, np.float32(cval), np.float32(scale)
    _launch_flat(kernel, n * h * w, *arguments)
    return y
