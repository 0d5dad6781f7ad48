"""What this processor can do at most: the floors that measured times are held against."""

from time import perf_counter

import numba
import numpy as np
from tinycnn.kernels.instructions import LANES, WIDE
from tinycnn.kernels.threads import run
from tinycnn.kernels.vectors import load, multiply_add, spread, store

HALF = 6  # vectors of sums; all of them fill the registers without AVX-512
SUMS = 2 * HALF if WIDE else HALF  # enough to keep every multiplier busy while each waits for its last result
ROUNDS = 200_000


@numba.njit
def _load_half(numbers, i):
    return (
        load(numbers, i, LANES), load(numbers, i + LANES, LANES), load(numbers, i + 2 * LANES, LANES),
        load(numbers, i + 3 * LANES, LANES), load(numbers, i + 4 * LANES, LANES), load(numbers, i + 5 * LANES, LANES),
    )  # fmt: skip


@numba.njit
def _step(sums, x, y):
    return (
        multiply_add(sums[0], x, y), multiply_add(sums[1], x, y), multiply_add(sums[2], x, y),
        multiply_add(sums[3], x, y), multiply_add(sums[4], x, y), multiply_add(sums[5], x, y),
    )  # fmt: skip


@numba.njit(nogil=True)
def _multiply_and_add(worker, tasks, out, rounds):
    x, y = spread(np.float32(0.5)), spread(np.float32(1))
    first = _load_half(out[worker], 0)  # different numbers: equal sums would invite the compiler to make one of them
    second = _load_half(out[worker], HALF * LANES if WIDE else 0)
    for _ in range(rounds):
        first = _step(first, x, y)
        second = _step(second, x, y) if WIDE else second
    for i in range(HALF):
        store(out[worker], i * LANES, first[i], LANES)
        if WIDE:
            store(out[worker], (HALF + i) * LANES, second[i], LANES)


def arithmetic_peak(threads: int) -> float:
    """Multiply-adds per second, in float32 registers alone, by so many threads; the best of several tries."""
    out = np.random.default_rng(0).random((threads, SUMS * LANES), np.float32)
    run(_multiply_and_add, threads, out, 1)
    return threads * SUMS * LANES * ROUNDS / _best(lambda: run(_multiply_and_add, threads, out, ROUNDS))


def memory_bandwidth(size: int = 8 * 2**20) -> float:
    """Bytes per second that one thread reads and writes, copying so many, in whichever cache they fit."""
    a, b = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return 2 * size / _best(lambda: np.copyto(b, a))


def _best(call, tries: int = 9) -> float:
    def seconds() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return min(seconds() for _ in range(tries))
