"""What this processor can do at most: the floors that measured times are held against."""

from time import perf_counter

import numba
import numpy as np
from tinycnn.kernels.threads import run
from tinycnn.kernels.vectors import LANES, load, multiply_add, spread, store

SUMS = 12  # independent sums: enough to keep every multiplier busy while each waits for its last result
ROUNDS = 200_000


@numba.njit
def _step(sums, x, y):
    return (
        multiply_add(sums[0], x, y), multiply_add(sums[1], x, y), multiply_add(sums[2], x, y),
        multiply_add(sums[3], x, y), multiply_add(sums[4], x, y), multiply_add(sums[5], x, y),
        multiply_add(sums[6], x, y), multiply_add(sums[7], x, y), multiply_add(sums[8], x, y),
        multiply_add(sums[9], x, y), multiply_add(sums[10], x, y), multiply_add(sums[11], x, y),
    )  # fmt: skip


@numba.njit
def _load_all(numbers):
    return (
        load(numbers, 0, LANES), load(numbers, LANES, LANES), load(numbers, 2 * LANES, LANES),
        load(numbers, 3 * LANES, LANES), load(numbers, 4 * LANES, LANES), load(numbers, 5 * LANES, LANES),
        load(numbers, 6 * LANES, LANES), load(numbers, 7 * LANES, LANES), load(numbers, 8 * LANES, LANES),
        load(numbers, 9 * LANES, LANES), load(numbers, 10 * LANES, LANES), load(numbers, 11 * LANES, LANES),
    )  # fmt: skip


@numba.njit(nogil=True)
def _multiply_and_add(worker, tasks, out, rounds):
    x, y = spread(np.float32(0.5)), spread(np.float32(1))
    sums = _load_all(out[worker])  # different numbers: equal sums would invite the compiler to make one of them
    for _ in range(rounds):
        sums = _step(sums, x, y)
    for i in range(len(sums)):
        store(out[worker], i * LANES, sums[i], LANES)


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
