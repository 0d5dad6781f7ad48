"""Gradients through convolution, ReLU and max-pooling at once: they go only where a pool found its maximum.

Of the four outputs in front of a 2x2 pool one gets a gradient, or none where ReLU stopped it, so a window of the image
takes part in the gradients of few filters. These loops visit just those, which is a fraction of a convolution's work.
"""

from functools import lru_cache

import numba
import numpy as np

from .compiling import compiled
from .shapes import Windows
from .threads import next_task
from .vectors import (
    COLUMNS,
    LANES,
    above_zero,
    equal,
    load,
    lowest_bit,
    mask_bits,
    multiply,
    multiply_add,
    spread,
    store,
    where,
)

PANEL = 6  # vectors of a window's line that are summed at once, in registers
PANEL_WIDTH = PANEL * LANES
CHUNK = 40  # pooled pixels looked at together: their part of the image stays in the first cache; at most 64, a bit each


@lru_cache
def panels(win: Windows, width: int, c: int):
    """A window's KH lines of KW*C numbers, cut into panels of six vectors: three tables, a number for each panel.

    Where it begins in the flat image, counted from the window's corner; where in a filter's weights; and how many
    numbers of the line remain there, which may be fewer or more than a panel holds.
    """
    length = win.kw * c  # numbers in one line of a window
    per_line = -(-length // PANEL_WIDTH)
    line, panel = np.divmod(np.arange(win.kh * per_line), per_line)
    start = panel * PANEL_WIDTH
    return line * width * c + start, line * length + start, length - start


@lru_cache
def positions(win: Windows, pool: Windows, width: int, c: int):
    """For each tap of the pool: where its window begins in the flat image, counted from the first tap's."""
    r, s = np.divmod(np.arange(pool.taps), pool.kw)
    return ((r * win.sh * width + s * win.sw) * c).astype(np.int32)


def unpooling_is_cheaper(win: Windows, pool: Windows, c: int, filters: int) -> bool:
    """Whether tiles over all positions beat visiting winners one by one, in processor cycles per pooled pixel."""
    if (pool.sh, pool.sw) != (pool.kh, pool.kw):
        return False
    # A product of vectors takes a cycle; 0.65 of the maxima pass ReLU, each costs 3 cycles, and 8 per panel (measured).
    routed = 0.65 * filters * (3 + 8 * win.kh * -(-win.kw * c // PANEL_WIDTH))
    return pool.taps * win.taps * c * -(-filters // LANES) < routed


@numba.njit
def _load_panel(array, at, count):
    return (
        load(array, at, count),
        load(array, at + LANES, count - LANES),
        load(array, at + 2 * LANES, count - 2 * LANES),
        load(array, at + 3 * LANES, count - 3 * LANES),
        load(array, at + 4 * LANES, count - 4 * LANES),
        load(array, at + 5 * LANES, count - 5 * LANES),
    )


@numba.njit
def _store_panel(array, at, panel, count):
    store(array, at, panel[0], count)
    store(array, at + LANES, panel[1], count - LANES)
    store(array, at + 2 * LANES, panel[2], count - 2 * LANES)
    store(array, at + 3 * LANES, panel[3], count - 3 * LANES)
    store(array, at + 4 * LANES, panel[4], count - 4 * LANES)
    store(array, at + 5 * LANES, panel[5], count - 5 * LANES)


@numba.njit
def _add_panel(sums, factor, panel):
    """sums + factor * panel"""
    return (
        multiply_add(factor, panel[0], sums[0]),
        multiply_add(factor, panel[1], sums[1]),
        multiply_add(factor, panel[2], sums[2]),
        multiply_add(factor, panel[3], sums[3]),
        multiply_add(factor, panel[4], sums[4]),
        multiply_add(factor, panel[5], sums[5]),
    )


@compiled
def weight_gradients_routed(
    worker, tasks, in_image, in_weights, remaining, at_tap, gy, winner, x, gws, gbs, window_starts, alive,
    row_step, column_step,
):  # fmt: skip
    """gws (SHARDS, F, KH*KW*C) and gbs (SHARDS, F): for each filter, the windows that won, times their gradients.

    `row_step` and `column_step` are the pixels from one pool to the next. `alive` has a bit for each pixel of a chunk
    and each filter: whether ReLU let it through.
    """
    n, oh, ow, filters = gy.shape
    _, h, width, c = x.shape
    shards, size = len(gws), gws.shape[2]
    x, gy, winner = x.reshape(-1), gy.reshape(-1), winner.reshape(-1)
    starts, bits = window_starts[worker], alive[worker]  # (CHUNK * F,), (F and some,)
    shard = next_task(tasks)
    while shard < shards:
        gw, gb = gws[shard].reshape(-1), gbs[shard]
        gw[:] = 0
        gb[:] = 0
        for image in range(shard * n // shards, (shard + 1) * n // shards):
            image_x = x[image * h * width * c : (image + 1) * h * width * c]
            for first in range(0, oh * ow, CHUNK):
                place = (image * oh * ow + first) * filters
                bits[:filters] = 0
                for k in range(min(CHUNK, oh * ow - first)):
                    i, j = (first + k) // ow, (first + k) % ow
                    corner = np.int32((i * row_step * width + j * column_step) * c)
                    won = winner[place + k * filters : place + (k + 1) * filters]
                    start = starts[k * filters : (k + 1) * filters]
                    for f in range(filters):
                        start[f] = corner + at_tap[max(won[f], 0)]
                        bits[f] |= np.int64(won[f] >= 0) << k
                for p in range(len(remaining)):
                    for f in range(filters):
                        sums = _load_panel(gw, f * size + in_weights[p], remaining[p])
                        rest = bits[f]
                        while rest:
                            at = lowest_bit(rest) * filters + f
                            rest &= rest - 1
                            pixels = _load_panel(image_x, starts[at] + in_image[p], remaining[p])
                            sums = _add_panel(sums, spread(gy[place + at]), pixels)
                        _store_panel(gw, f * size + in_weights[p], sums, remaining[p])
            for f in range(0, filters, LANES):
                total = load(gb, f, filters - f)
                for place in range(image * oh * ow * filters + f, (image + 1) * oh * ow * filters, filters):
                    passed = above_zero(load(winner, place, filters - f) + spread(np.float32(1)))
                    total += where(passed, load(gy, place, filters - f), spread(np.float32(0)))
                store(gb, f, total, filters - f)
        shard = next_task(tasks)


@compiled
def input_gradient_routed(
    worker, tasks, in_image, in_weights, remaining, at_tap, gy, winner, w, gx, alive, row_step, column_step
):
    """gx (N, H, W, C), all of it written: at each window, the sum of the filters (F, KH*KW*C) that won there.

    `alive` has a bit for each tap of a pool and each filter: whether the filter's maximum was there.
    """
    n, oh, ow, filters = gy.shape
    _, h, width, c = gx.shape
    taps, size, words = len(at_tap), w.shape[1], alive.shape[2]
    pixels, gy, winner, w = gx.reshape(-1), gy.reshape(-1), winner.reshape(-1), w.reshape(-1)
    bits = alive[worker]  # (taps and some, F / 64)
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
                    for p in range(len(remaining)):
                        sums = _load_panel(pixels, corner + in_image[p], remaining[p])
                        for word in range(words):
                            rest = bits[tap, word]
                            while rest:
                                f = word * 64 + lowest_bit(rest)
                                rest &= rest - 1
                                weights = _load_panel(w, f * size + in_weights[p], remaining[p])
                                sums = _add_panel(sums, spread(gy[place + f]), weights)
                        _store_panel(pixels, corner + in_image[p], sums, remaining[p])
        image = next_task(tasks)


@compiled
def weight_gradients_unpooled(worker, tasks, taps, gy, winner, x, gws, gbs, spaces, strip, ph, pw, sh, sw):
    """gws (SHARDS, KH*KW*C, F) and gbs (SHARDS, F): the pool's input gets its gradients, and dense tiles take them.

    `strip` rows of the pool at a time, so that these gradients stay in the cache.
    """
    n, oh, ow, filters = gy.shape
    _, h, width, c = x.shape
    shards, conv_w = len(gws), ow * pw
    x, gy, winner = x.reshape(-1), gy.reshape(-1), winner.reshape(-1)
    g = spaces[worker]  # (strip * PH, OW * PW, F)
    shard = next_task(tasks)
    while shard < shards:
        gw, gb, first = gws[shard].reshape(-1), gbs[shard], shard * n // shards
        gb[:] = 0
        for image in range(first, (shard + 1) * n // shards):
            for top in range(0, oh, strip):
                rows = min(strip, oh - top)
                for f in range(0, filters, LANES):
                    count, total = filters - f, load(gb, f, filters - f)
                    for i in range(rows):
                        for j in range(ow):
                            place = ((image * oh + top + i) * ow + j) * filters + f
                            value, tap = load(gy, place, count), load(winner, place, count)
                            for r in range(ph):
                                for s in range(pw):
                                    here = equal(tap, spread(np.float32(r * pw + s)))
                                    routed = where(here, value, spread(np.float32(0)))
                                    total += routed
                                    store(g, ((i * ph + r) * conv_w + j * pw + s) * filters + f, routed, count)
                    store(gb, f, total, count)
                at, line = (image * h + top * ph * sh) * width * c, sh * width * c
                for f in range(0, filters, COLUMNS):
                    add = image > first or top > 0
                    multiply(x, at, taps, line, sw * c, rows * ph, conv_w, g, f, filters, gw, f, add)
        shard = next_task(tasks)
