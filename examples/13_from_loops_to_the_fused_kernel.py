# %% [markdown]
"""
# 13. From naive loops to the fused kernel

Afterwards you can answer:

- How many multiply-adds does the first block of the network cost, and how long do they take, done five ways?
- What does each step on the ladder save: work, memory, or neither?
- Why is the way backward through a pool cheaper than the way forward?

The rungs are those of `benchmarks/ladder.py`, where each is a few lines or a pointer to its kernel.
"""

# %%
import sys
from pathlib import Path
from time import perf_counter

import lesson
import numpy as np
from lesson import picture

sys.path.insert(0, str(Path(lesson.__file__).resolve().parents[1]))  # where benchmarks/ lies

import tinycnn
from benchmarks import ladder
from tinycnn import backend

tinycnn.use_backend("numba")
tinycnn.set_threads(1)
IMAGES = 8

rng = np.random.default_rng(0)
x = rng.random((IMAGES, ladder.SIDE, ladder.SIDE, ladder.CHANNELS), np.float32)
w = rng.standard_normal((3, 3, ladder.CHANNELS, ladder.FILTERS), np.float32)
b = rng.standard_normal(ladder.FILTERS, np.float32)

# %% [markdown]
# ## What there is to do
# The first block: a 3x3 convolution with 32 filters on 64x64x3, bias, ReLU, and a 2x2 pool.

# %%
win, pool = ladder.WIN, ladder.POOL
multiply_adds = win.oh * win.ow * win.taps * ladder.CHANNELS * ladder.FILTERS
kib = {
    "the image": x[0].nbytes,
    "im2col's rows": win.oh * win.ow * win.taps * ladder.CHANNELS * 4,
    "the convolved map": win.oh * win.ow * ladder.FILTERS * 4,
    "the pooled map": pool.oh * pool.ow * ladder.FILTERS * 4,
}
taps = win.taps * ladder.CHANNELS
print(f"multiply-adds per image: {win.oh} x {win.ow} x {taps} x {ladder.FILTERS} = {multiply_adds:,}")
print("KiB per image: " + ", ".join(f"{name} {size / 1024:.0f}" for name, size in kib.items()))
assert multiply_adds == 3_321_216
assert kib["im2col's rows"] > 8 * kib["the image"]

# %% [markdown]
# ## Five ways forward
# Every rung must give what the first one gives. Then it is timed, on one thread.
#
# **Before you go on:** which step up the ladder will bring the most?


# %%
def climb(rungs, repeats=5):
    """Each rung's milliseconds per image, after its result was compared with the first rung's."""
    times, wanted = {}, None
    print(f"{'':16} {'ms/image':>9} {'faster':>9} {'GFLOP/s':>8}  what it changed")
    for rung in rungs:
        result = rung.call(1)
        wanted = wanted or result
        for got, first in zip(result, wanted, strict=True):
            if got.dtype == np.int8:  # the pool's winners: rounding may decide a near tie the other way
                assert (got != first).mean() < 1e-3, rung.name
            else:
                assert np.allclose(got, first, rtol=0, atol=1e-4 * np.abs(first).max()), rung.name
        images = min(rung.images or IMAGES, IMAGES)
        best = np.inf
        for _ in range(repeats if rung.images is None else 1):
            begin = perf_counter()
            rung.call(images)
            best = min(best, (perf_counter() - begin) / images)
        times[rung.name] = best * 1000
        faster = next(iter(times.values())) / times[rung.name]
        print(f"{rung.name:16} {best * 1000:9.3f} {faster:8.1f}x {2e-9 * multiply_adds / best:8.2f}  {rung.change}")
    return times


with backend.matrix_threads(backend.get("numba")):  # NumPy's matrix products too on one thread
    forward = climb(ladder.forward_rungs(x, w, b))
assert forward["loops"] > 10 * max(time for name, time in forward.items() if name != "loops")

# %% [markdown]
# - **loops to im2col**: the same multiply-adds. What goes away is Python's work around each of them.
# - **BLAS**: the same product, by a library that keeps numbers in registers and caches.
# - **tiled**: the rows of im2col are never written: tiles of sums stand in registers and read the image itself.
# - **fused**: the convolved map is never written either; bias, ReLU and pool are done while a tile is in the cache.
#
# None of them does fewer multiply-adds. (Winograd's trick, in `kernels/cpu_winograd.py`, does.)
#
# ## Two ways backward
# A pool sends each gradient to one place of four, and ReLU stops some (lesson 6). A dense backward pass multiplies all
# the zeros; a routed one visits the winners alone.

# %%
_, winner = ladder.cpu.conv_relu_max_pool2d(x, w, b, win, pool)
share = (winner >= 0).mean() / 4
print(f"\nplaces of the convolved map that get a gradient: {share:.1%}")
gy = rng.standard_normal(winner.shape, np.float32)
with backend.matrix_threads(backend.get("numba")):
    backward = climb(ladder.backward_rungs(gy, winner, x, w))
print("(GFLOP/s counts the multiply-adds of the dense way on both rungs.)")
assert share <= 0.25
print("\nThe full ladder, with the processor's own limit beside it: python -m benchmarks.ladder")


# %%
def draw(figure):
    axes = figure.subplots()
    for rungs, colour, way in ((forward, "tab:blue", "forward"), (backward, "tab:red", "backward")):
        names = [f"{name} (forward)" if way == "forward" else name for name in rungs]
        axes.plot(list(rungs.values()), names, "o-", color=colour, label=way)
        for name, ms in zip(names, rungs.values(), strict=True):
            axes.annotate(
                f"{ms:.0f} ms" if ms > 10 else f"{ms:.2f} ms", (ms, name), (8, -13), textcoords="offset points"
            )
    axes.margins(y=0.1)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(right=max(forward.values()) * 8)
    axes.set_xlabel("milliseconds per image, one thread (each line: ten times the one before)")
    axes.set_title("The same block, from loops to the fused kernel")
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)


picture("13_ladder", draw, 9, 4)
