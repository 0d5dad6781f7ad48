"""The same convolution block on seven rungs, from loops that anyone can read to the kernels that train: what each
step brings, checked before it is timed.

    python -m benchmarks.ladder [--batch 32] [--threads 1]

The block is the first of the fish network: 3x3 convolution of 64x64x3 images with 32 filters, bias, ReLU, 2x2 pool.
Each rung must give what the one before gave. Where to read a rung's code is printed beside it. Times are medians, per
batch; loops in Python do one image, and their time is multiplied.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from tinycnn.kernels import cpu, reference
from tinycnn.kernels.shapes import windows

from tinycnn import backend

from .peak import arithmetic_peak

SIDE, CHANNELS, FILTERS = 64, 3, 32
WIN = windows((SIDE, SIDE), 3)
POOL = windows((WIN.oh, WIN.ow), 2, 2)
TOLERANCE = 2e-5  # of the largest value: between two orders of adding up to 30,752 float32 numbers


@dataclass
class Rung:
    """One way to compute the block: its name, where its code stands, what it changed, and a call for some images."""

    name: str
    where: str
    change: str
    call: Callable[..., Any]
    images: int | None = None  # how many it can do in reasonable time; None: the whole batch


def loops(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition, one product at a time: (N, H, W, C), (KH, KW, C, F), (F,) -> (N, OH, OW, F)."""
    n, (kh, kw, c, filters) = len(x), w.shape
    y = np.empty((n, WIN.oh, WIN.ow, filters), np.float32)
    images, kernel = x.tolist(), w.tolist()  # Python's own numbers: faster than single elements of arrays
    for image in range(n):
        for i in range(WIN.oh):
            for j in range(WIN.ow):
                for f in range(filters):
                    total = float(b[f])
                    for a in range(kh):
                        for s in range(kw):
                            for channel in range(c):
                                total += images[image][i + a][j + s][channel] * kernel[a][s][channel][f]
                    y[image, i, j, f] = total
    return y


def im2col_einsum(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Every window copied into a row, then one product, summed by NumPy's own loop."""
    cols = reference.im2col(x, WIN)
    return np.einsum("nijk,kf->nijf", cols, w.reshape(-1, w.shape[3])) + b


def im2col_blas(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same product by the linear algebra library."""
    return reference.im2col(x, WIN) @ w.reshape(-1, w.shape[3]) + b


def pooled(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What follows the convolution, each in turn: ReLU, then the pool; the winners, -1 where ReLU stopped all."""
    best, winner = cpu.max_pool2d(np.maximum(y, 0), POOL)
    return best, np.where(best > 0, winner, -1).astype(np.int8)


def unfused_backward(gy, winner, x, w) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of weights and bias through every op in turn: all positions take part, most of them with zero."""
    g = cpu.max_pool2d_backward(np.where(winner >= 0, gy, 0), np.maximum(winner, 0).astype(np.int32), POOL)
    cols = reference.im2col(x, WIN).reshape(-1, WIN.taps * CHANNELS)  # (N*OH*OW, KH*KW*C)
    g = g.reshape(-1, FILTERS)  # (N*OH*OW, F)
    return (cols.T @ g).reshape(w.shape), g.sum(axis=0)


def forward_rungs(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> list[Rung]:
    """The block's output, from the slowest way to the fastest."""
    return [
        Rung("loops", "benchmarks/ladder.py: loops", "one product after the other, in Python",
             lambda n: pooled(loops(x[:n], w, b)), 1),
        Rung("im2col", "kernels/reference.py: im2col", "windows copied into rows: whole arrays in place of numbers",
             lambda n: pooled(im2col_einsum(x[:n], w, b))),
        Rung("BLAS", "benchmarks/ladder.py: im2col_blas", "the product by a library that knows caches and registers",
             lambda n: pooled(im2col_blas(x[:n], w, b))),
        Rung("tiled", "kernels/cpu_convolution.py: conv2d", "tiles of sums in registers read the image: no rows copied",
             lambda n: pooled(cpu.conv2d(x[:n], w, b, WIN, relu=False))),
        Rung("fused", "kernels/cpu_convolution.py: conv_relu_max_pool2d",
             "bias, ReLU and pool while a tile's sums are in the cache: what the pool reads is never stored",
             lambda n: cpu.conv_relu_max_pool2d(x[:n], w, b, WIN, POOL)),
    ]  # fmt: skip


def backward_rungs(gy: np.ndarray, winner: np.ndarray, x: np.ndarray, w: np.ndarray) -> list[Rung]:
    """The gradients of weights and bias."""
    return [
        Rung("dense backward",
             "benchmarks/ladder.py: unfused_backward", "each op's gradient in turn, with im2col and BLAS",
             lambda n: unfused_backward(gy[:n], winner[:n], x[:n], w)),
        Rung("routed backward", "kernels/cpu_routed.py", "the winners say where gradients go: nothing else is visited",
             lambda n: cpu.conv_relu_max_pool2d_backward(gy[:n], winner[:n], x[:n], w, WIN, POOL, False)[1:]),
    ]  # fmt: skip


def climb(rungs: list[Rung], batch: int, multiply_adds: int, peak: float, repeats: int) -> None:
    """Check each rung against the one before, then time it and print its line. `peak` is multiply-adds per second."""
    print(f"{'':16} {'ms':>9} {'GFLOP/s':>9} {'of peak':>8} {'faster':>8}   what it changed, and where to read it")
    slowest, before, images_before = 0.0, None, batch
    for rung in rungs:
        images = rung.images or batch
        result = rung.call(images)
        if before is not None:
            _check(before, result if images == images_before else rung.call(images_before), rung.name)
        before, images_before = result, images
        seconds = _median(rung.call, images, repeats if images == batch else 1) * batch / images
        slowest = slowest or seconds
        rate = multiply_adds / seconds
        print(
            f"{rung.name:16} {seconds * 1e3:9.2f} {2 * rate / 1e9:9.2f} {rate / peak:8.1%} {slowest / seconds:7.1f}x"
            f"   {rung.change} [{rung.where}]",
            flush=True,
        )


def _check(before: Any, result: Any, name: str) -> None:
    """Raise unless two rungs agree: values within rounding, and the pool's winners all but where values nearly tie."""
    for old, new in zip(before, result, strict=True):
        error = np.abs(old.astype(np.float64) - new).max() if old.dtype != np.int8 else 0.0
        if not error <= TOLERANCE * np.abs(old).max() or (old.dtype == np.int8 and (old != new).mean() > 1e-4):
            raise AssertionError(f"{name} gives other numbers than the rung before: {error:.2g} away")


def _median(call: Callable[[int], Any], images: int, repeats: int) -> float:
    def seconds() -> float:
        start = perf_counter()
        call(images)
        return perf_counter() - start

    return median(seconds() for _ in range(repeats))


def main() -> None:
    """Climb forward, then backward."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--threads", type=int, default=1, help="of the compiled kernels and of BLAS (default: 1)")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each rung (default: 15)")
    options = parser.parse_args()
    backend.set_threads(options.threads)  # of BLAS
    cpu.set_threads(options.threads)  # of kernels that are called without a backend
    rng = np.random.default_rng(0)
    x = rng.random((options.batch, SIDE, SIDE, CHANNELS), np.float32)
    w = rng.standard_normal((3, 3, CHANNELS, FILTERS), np.float32)
    b = rng.standard_normal(FILTERS, np.float32)
    multiply_adds = options.batch * WIN.oh * WIN.ow * WIN.taps * CHANNELS * FILTERS
    peak = arithmetic_peak(options.threads)
    print(f"{options.batch} images, {multiply_adds / 1e6:.0f} million multiply-adds, {options.threads} thread(s), ")
    print(f"peak {2 * peak / 1e9:.0f} GFLOP/s. Backward counts the multiply-adds of the dense way on both its rungs.\n")
    with backend.matrix_threads(backend.get("numpy")):
        climb(forward_rungs(x, w, b), options.batch, multiply_adds, peak, options.repeats)
        y, winner = cpu.conv_relu_max_pool2d(x, w, b, WIN, POOL)
        gy = rng.standard_normal(y.shape, np.float32)
        print()
        climb(backward_rungs(gy, winner, x, w), options.batch, multiply_adds, peak, options.repeats)


if __name__ == "__main__":
    main()
