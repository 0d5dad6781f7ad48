"""Gradients through convolution, ReLU and max-pooling at once: they go only where a pool found its maximum.

Of the four outputs in front of a 2x2 pool one gets a gradient, or none where ReLU stopped it, so a window of the image
takes part in the gradients of few filters. These loops visit just those, which is a fraction of a convolution's work.
"""

from functools import lru_cache

import numpy as np

from .blocks import WIDEST, add_block, block_shape, load_block, store_block
from .compiling import compiled, inlined
from .instructions import LANES
from .threads import next_task
from .vectors import (
    above_zero,
    equal,
    fetch,
    load,
    lowest_bit,
    mask_bits,
    pick,
    spread,
    store,
    where,
    without_lowest_bit,
)

CHUNK = 31  # pooled pixels looked at together, so that their part of the image stays in the first cache: a bit of an
# int32 for each, but for the bit of its sign.
# Lines and vectors of the blocks that windows are cut into: no more than fit in registers as sums.
SHAPES = (1, WIDEST), (3, 1), (1, 1)
LONG, TALL, SINGLE = (block_shape(*shape) for shape in SHAPES)


@lru_cache
def blocks(lines: int, length: int, step: int):
    """A window's lines of `length` numbers, `step` apart in the image, cut into blocks: four tables.

    For each block its place in SHAPES; where it begins in the flat image, counted from the window's corner; where in a
    filter's weights, whose lines are `whole_vectors(length)` long; and how many numbers of the line remain there.
    """
    found, start = [], 0
    while start < length:
        high, vectors = (1, WIDEST) if length - start >= WIDEST * LANES else (3, 1)
        line = 0
        while line < lines:
            shape = (high, vectors) if line + high <= lines else (1, 1)
            in_weights = line * whole_vectors(length) + start
            found.append((SHAPES.index(shape), line * step + start, in_weights, length - start))
            line += shape[0]
        start += vectors * LANES
    return tuple(np.array(found, np.int64).reshape(-1, 4).T.copy())


def whole_vectors(length: int) -> int:
    """The numbers of the vectors that hold so many."""
    return -(-length // LANES) * LANES


@compiled
def weight_gradients_routed(
    worker, tasks, shapes, in_image, in_weights, at_tap, gy, winner, x, ends, gws, gbs, corners, alive,
    reach, row_step, column_step, line,
):  # fmt: skip
    """gws (PARTS, F, KH*LINE) and gbs (PARTS, F): for each filter, the windows that won, times their gradients.

    `at_tap`: where each tap's window begins, counted from that of the pool's first tap. `row_step` and `column_step`
    are the pixels from one pool to the next. A window's line is rounded up to LINE numbers, whole vectors.
    For a chunk of pooled pixels `corners` says where the first window of each begins, and `alive` holds an int32 for
    each filter, whose bit k says that ReLU let it through at pixel k. `ends`: room for a copy of an image. A pool's
    windows reach over `reach` numbers of the image.
    """
    n, oh, ow, filters = gy.shape
    _, h, width, c = x.shape
    parts, size = len(gws), gws.shape[2]
    x, gy, winner = x.reshape(-1), gy.reshape(-1), winner.reshape(-1)
    # (CHUNK and some,), (F and some,), (H*W*C + LANES,)
    corner, bits, end = corners[worker], alive[worker], ends[worker]
    part = next_task(tasks)
    while part < parts:
        gw, gb = gws[part].reshape(-1), gbs[part]
        gw[:] = 0
        gb[:] = 0
        for image in range(part * n // parts, (part + 1) * n // parts):
            image_x = x[image * h * width * c :]
            # Vectors reach beyond a window: there must be numbers, used or not.
            if image_x.size < h * width * c + LANES:
                for k in range(image_x.size):  # assigned as a slice it might raise, which takes two seconds to compile
                    end[k] = image_x[k]
                image_x = end
            for first in range(0, oh * ow, CHUNK):
                place, count = (image * oh * ow + first) * filters, min(CHUNK, oh * ow - first)
                bits[:filters] = 0
                for k in range(count):
                    i, j = (first + k) // ow, (first + k) % ow
                    corner[k] = (i * row_step * width + j * column_step) * c
                    won = winner[place + k * filters : place + (k + 1) * filters]
                    for f in range(filters):
                        bits[f] |= np.int32(won[f] >= 0) << np.int32(k)
                # Windows are met in no order that a processor foresees: it is told what the next chunk will read.
                fetch(image_x, corner[count - 1], corner[count - 1] - corner[0] + reach)
                fetch(gy, place + count * filters, count * filters)
                fetch(winner, place + count * filters, count * filters)
                for p in range(len(shapes)):
                    for f in range(filters):
                        _add_windows(
                            shapes[p], gw, f * size + in_weights[p], line, np.int64(bits[f]), gy, winner, place + f,
                            filters, image_x, in_image[p], width * c, corner, at_tap,
                        )  # fmt: skip
                for f in range(0, filters, LANES):
                    total, lanes = load(gb, f, filters - f), filters - f
                    for at in range(place + f, place + f + count * filters, filters):
                        passed = above_zero(load(winner, at, lanes) + spread(np.float32(1)))
                        total += where(passed, load(gy, at, lanes), spread(np.float32(0)))
                    store(gb, f, total, lanes)
        part = next_task(tasks)


@inlined
def _add_windows(number, *arguments):
    """`_windows_of` for a block of that number in SHAPES. Each has a loop of its own, whose sums are in registers."""
    if number == 0:
        _windows_of(LONG, *arguments)
    elif number == 1:
        _windows_of(TALL, *arguments)
    else:
        _windows_of(SINGLE, *arguments)


@inlined
def _windows_of(shape, gw, at, line, alive_pixels, gy, winner, place, filters, x, start, step, corner, at_tap):
    """Add to a block of one filter's weights the windows where it won in a chunk, times their gradients."""
    whole = len(shape[0]) * LANES
    sums = load_block(shape, gw, at, line, whole)
    while alive_pixels:
        k = lowest_bit(alive_pixels)
        alive_pixels = without_lowest_bit(alive_pixels)
        here = place + k * filters
        window = pick(corner, k) + pick(at_tap, np.int64(pick(winner, here)))
        sums = add_block(sums, pick(gy, here), x, window + start, step, whole)
    store_block(gw, at, line, whole, sums)


@compiled
def input_gradient_routed(
    worker, tasks, shapes, in_image, in_weights, remaining, at_tap, gy, winner, w, gx, winners,
    row_step, column_step, line,
):  # fmt: skip
    """gx (N, H, W, C), all of it written: at each window, the sum of the filters (F, KH*LINE) that won there.

    `winners` has a bit for each tap of a pool and each filter: whether the filter's maximum was there.
    """
    n, oh, ow, filters = gy.shape
    _, h, width, c = gx.shape
    taps, size, words = len(at_tap), w.shape[1], winners.shape[2]
    flat_gx, gy, winner, w = gx.reshape(-1), gy.reshape(-1), winner.reshape(-1), w.reshape(-1)
    bits = winners[worker]  # (taps and some, F / 64)
    image = next_task(tasks)
    while image < n:
        gx[image] = 0
        for i in range(oh):
            for j in range(ow):
                place = ((image * oh + i) * ow + j) * filters
                bits[:taps] = 0
                for f in range(0, filters, LANES):  # a bit for each filter: does its maximum lie at this tap?
                    won, number = load(winner, place + f, filters - f), spread(np.float32(0))
                    for tap in range(taps):
                        bits[tap, f // 64] |= mask_bits(equal(won, number), filters - f) << (f % 64)
                        number += spread(np.float32(1))
                for tap in range(taps):
                    corner = ((image * h + i * row_step) * width + j * column_step) * c + at_tap[tap]
                    for word in range(words):
                        if bits[tap, word]:
                            first = word * 64
                            for p in range(len(shapes)):
                                _add_filters(
                                    shapes[p], flat_gx, corner + in_image[p], width * c, remaining[p], bits[tap, word],
                                    gy, place + first, w, first * size + in_weights[p], size, line,
                                )  # fmt: skip
        image = next_task(tasks)


@inlined
def _add_filters(number, *arguments):
    """`_filters_of` for a block of that number in SHAPES."""
    if number == 0:
        _filters_of(LONG, *arguments)
    elif number == 1:
        _filters_of(TALL, *arguments)
    else:
        _filters_of(SINGLE, *arguments)


@inlined
def _filters_of(shape, gx, at, step, count, winners, gy, place, w, start, size, line):
    """Add to a block of one window the weights of the filters that won there, times their gradients."""
    sums = load_block(shape, gx, at, step, count)
    while winners:
        f = lowest_bit(winners)
        winners = without_lowest_bit(winners)
        sums = add_block(sums, pick(gy, place + f), w, start + f * size, line, len(shape[0]) * LANES)
    store_block(gx, at, step, count, sums)
