"""Would the tests of the CUDA kernels notice? Faults are planted in the source, and the very same checks must fail."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import ROOT
from cuda_checks import beside_naive, check_windows, everything, matrices, random, same_bits
from fused_checks import POOLED, check_exact, check_nan, check_winners
from host_cupy import CUDA, BarrierError, HostCupy, above, cache_of_kernels, compiler  # noqa: F401
from tinycnn.kernels import reference
from tinycnn.kernels.shapes import windows

from tinycnn import backend
from tinycnn.fused import ConvReLU, ConvReLUMaxPool2D, DenseReLU

Question = Callable[[Any], None]
DENSE = [(37, 300), (300, 39), (39,)]


def pooled(_) -> None:
    attributes = {"padding": "same", "strides": (1, 2), "pool_size": (2, 3), "pool_strides": (2, 1)}
    check_exact(ConvReLUMaxPool2D, 0, POOLED, attributes)


def convolution(_) -> None:
    check_exact(ConvReLU, 0, [(2, 7, 14, 40), (3, 3, 40, 20), (20,)], {"strides": 2})


def routed(_) -> None:
    check_exact(ConvReLUMaxPool2D, 0, [(2, 11, 19, 18), (3, 2, 18, 21), (21,)], {"padding": 1})


def dense(_) -> None:
    check_exact(DenseReLU, 0, DENSE, {})


def dense_on_the_grain(_) -> None:
    check_exact(DenseReLU, 0, [(37, 300), (300, 36), (36,)], {})


def winners(_) -> None:
    check_winners(POOLED)


def nan(_) -> None:
    check_nan(ConvReLUMaxPool2D, POOLED, 0)


def naive(kernels) -> None:
    for one, other in beside_naive(kernels):
        same_bits(one, other)


def pools(kernels) -> None:
    check_windows(kernels, (2, 6, 7, 3), windows((6, 7), (3, 2), (2, 1), 1), np.float32)


def warped(kernels) -> None:
    x = random((3, 9, 7, 2))[0]
    for mode in ("nearest", "constant", "reflect", "wrap"):
        ours, wanted = (k.warp(x, matrices(3), mode, 3.0, 1.0) for k in (kernels, reference))
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)


def adam(kernels) -> None:
    arrays = random(*[(517,)] * 4)
    arrays[3] = abs(arrays[3])
    twins = [a.copy() for a in arrays]
    for k, a in ((kernels, arrays), (reference, twins)):
        k.adam_update(*a, 0.01, 0.9, 0.999, 1e-7)
    for one, other in zip(arrays, twins, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Fault:
    """In the .cu files, `old` becomes `new`; the question should get a wrong answer."""

    about: str
    question: Question
    old: str
    new: str


SYNC = "__syncthreads();\n"
FAULTS = [
    Fault("multiplied before the tile is there", convolution, f"weights, w, a, b, c, filter);\n{' ' * 24}{SYNC}",
          "weights, w, a, b, c, filter);\n"),
    Fault("the tile replaced while others read it", convolution, f"my_weights, sums);\n{' ' * 24}{SYNC}",
          "my_weights, sums);\n"),
    Fault("gradients used before they are there", pooled, f"oh, ow, filter);\n{' ' * 8}{SYNC}", "oh, ow, filter);\n"),
    Fault("gradients replaced while others read them", pooled,
          f"sums);\n        }}\n        {SYNC}", "sums);\n        }\n"),
    Fault("slices that add at one time", convolution, f"+ bias;\n        }}\n        {SYNC}", "+ bias;\n        }\n"),
    Fault("dense tile used before it is there", dense, f"b, depth, column);\n        {SYNC}", "b, depth, column);\n"),
    Fault("dense tile replaced while others read it", dense, f"sums[r][s]);\n        }}\n        {SYNC}",
          "sums[r][s]);\n        }\n"),
    Fault("pieces added before they are there", dense, f"[lane] = total;\n    {SYNC}", "[lane] = total;\n"),
    Fault("losses added before they are there", naive, f"half /= 2) {{\n        {SYNC}", "half /= 2) {\n"),
    Fault("a barrier that some skip", dense, "    float total = 0.0f;\n    if (k < size) {",
          "    float total = 0.0f;\n    if (k >= size) return 0.0f;\n    {"),
    Fault("wrong winner", winners, "first[v][r] = (gi + g) * POOL_W + gj + p;",
          "first[v][r] = (gi + g) * POOL_W + gj;"),
    Fault("last of the largest", winners, "return value > best ||", "return value >= best ||"),
    Fault("a winner where ReLU stops", winners, "tap[q] = stopped ? -1 :", "tap[q] = stopped ? 0 :"),
    Fault("a value of 0 passes something on", winners, "relu && best[r + q] <= 0.0f", "relu && best[r + q] < 0.0f"),
    Fault("NaN hidden by pooling", nan, " || (value != value && best == best)", ""),
    Fault("NaN stopped by ReLU", nan, "relu && best[r + q] <= 0.0f", "relu && !(best[r + q] > 0.0f)"),
    Fault("missing bias", pooled, "sums[g][v][p][r] + offset", "sums[g][v][p][r]"),
    Fault("padding of the last row wraps", pooled, "row < 0 || row >= s.h || column < 0 || column >= s.w",
          "row < 0 || row >= s.h || column < 0"),
    Fault("the naive kernel forgets a stride", naive, "(j * POOL_STRIDE_W + tap % POOL_W) * STRIDE_W - left;",
          "j * POOL_STRIDE_W + tap % POOL_W - left;"),
    Fault("gradient to every tap", pooled, " || s.winner[k] == tap", " || s.winner[k] >= 0"),
    Fault("weights not turned", pooled, "(KERNEL_H - 1 - a) * KERNEL_W + KERNEL_W - 1 - b", "a * KERNEL_W + b"),
    Fault("gaps between windows filled", convolution, "if (row % SPREAD_H || column % SPREAD_W) return 0.0f;", ""),
    Fault("overlapping windows forgotten", pooled,
          "j = max(0, (x - UNPOOL_W + UNPOOL_STRIDE_W) / UNPOOL_STRIDE_W)", "j = last_j"),
    Fault("weights' gradients one column off", pooled, "(across * POOL_STRIDE_W + won % POOL_W) * STRIDE_W",
          "(across * POOL_STRIDE_W + won / POOL_W) * STRIDE_W"),
    Fault("bias gradient of the last slice alone", pooled, "(turn ? gradient[0][lane] : 0.0f) + bias", "bias"),
    Fault("the last tile left out", pooled, "Index end = tiles * (blockIdx.x + 1) / gridDim.x;",
          "Index end = (tiles * (blockIdx.x + 1) - 1) / gridDim.x;"),
    Fault("ReLU's gradient everywhere", dense, "keep == nullptr || keep[k] > 0.0f", "true"),
    Fault("ranges that overlap", dense, "min(first + range, inputs)", "min(first + range + 1, inputs)"),
    Fault("a bias gradient of one less", dense, "int sample = part; sample <", "int sample = part; sample + 1 <"),
    Fault("ReLU's gradient everywhere, where four are read", dense_on_the_grain, "y.w > 0.0f ? x.w : 0.0f", "x.w"),
    Fault("routes used too early", routed, f"oh, ow);\n        }}\n        {SYNC}", "oh, ow);\n        }\n"),
    Fault("routes replaced while others read them", routed,
          f"sums[row][column]);\n{' ' * 32}}}\n{' ' * 24}}}\n{' ' * 16}}}\n        }}\n        {SYNC}",
          f"sums[row][column]);\n{' ' * 32}}}\n{' ' * 24}}}\n{' ' * 16}}}\n        }}\n"),
    Fault("windows above forgotten", routed, "ABOVE = (KERNEL_H + POOL_H - 2) / POOL_H", "ABOVE = 0"),
    Fault("windows to the left forgotten", routed, "int v = -BEFORE; v < WINDOWS", "int v = 0; v < WINDOWS"),
    Fault("a route to the wrong column", routed, "v * POOL_W + tap % POOL_W + b;", "v * POOL_W + tap / POOL_W + b;"),
    Fault("last of the largest in a pool", pools, "if (value > best || (v", "if (value >= best || (v"),
    Fault("stride ignored on the way back", pools, "? start / stride : -1", "? start : -1"),
    Fault("dilation for padding", pools, "- top + tap / kw * dh", "+ tap / kw * dh"),
    Fault("gradients of both moments swapped", adam, "(gradient * gradient - v[k]) * share_2",
          "(gradient * gradient - v[k]) * share_1"),
    Fault("mirrored one pixel off", warped, "x = 2.0 * size - 1.0 - x", "x = 2.0 * size - x"),
    Fault("channels of the pixel below", warped, "(Index)w * c : 0", "(Index)w : 0"),
]  # fmt: skip


@pytest.fixture
def ask(cache, monkeypatch):
    """Puts a question to the kernels with a fault in them."""

    def put(question: Question, *faults: tuple[str, str]) -> None:
        stand_in = HostCupy(cache)
        stand_in.faults.extend(faults)
        kernels = above(stand_in)
        monkeypatch.setattr(backend.get("numba"), "_kernels", kernels)
        with np.errstate(all="ignore"):
            question(kernels)

    return put


QUICK = (*FAULTS[:14], *(fault for fault in FAULTS if fault.question in (pools, warped, adam)))
EACH = [pytest.param(f, id=f.about, marks=() if f in QUICK else pytest.mark.slow) for f in FAULTS]


@pytest.mark.parametrize("fault", EACH)
def test_planted_faults_are_found(fault, ask):
    sources = [path.read_text() for path in CUDA.parent.glob("*.cu")]
    assert any(fault.old in source for source in sources), "the source has changed: plant this fault anew"
    with pytest.raises((AssertionError, BarrierError)):
        ask(fault.question, (fault.old, fault.new))


@pytest.mark.parametrize("question", sorted({f.question for f in FAULTS}, key=lambda q: q.__name__))
def test_nothing_is_found_where_nothing_is_planted(question, ask):
    ask(question)


def test_a_sum_that_depends_on_the_order_of_threads_shows_in_its_bits(cache):
    fault = "sums[part][lane] = total;", "static float all[LANES]; all[lane] += total; sums[part][lane] = all[lane];"
    results = []
    for seed in (1, 2):
        stand_in = HostCupy(cache, seed=seed)
        stand_in.faults.append(fault)
        results.append(list(everything(above(stand_in))))
    assert not all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


def sanitized(cache: Path, *fault: str) -> subprocess.CompletedProcess:
    """The run of cuda_sanitized.py."""
    library = subprocess.run([str(compiler()), "-print-file-name=libasan.so"], capture_output=True, text=True).stdout
    if not Path(library.strip()).is_absolute():
        pytest.skip("no AddressSanitizer: the CUDA kernels' memory is not checked")
    environment = {"LD_PRELOAD": library.strip(), "PYTHONMALLOC": "malloc", "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, str(ROOT / "tests" / "cuda_sanitized.py"), str(cache), *fault]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.slow
def test_sanitizers_find_nothing_in_any_kernel(cache):
    done = sanitized(cache)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = "".join(path.read_text() for path in CUDA.parent.glob("*.cu")).count('extern "C" __global__')
    assert f"of {kernels} kernels" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("column < 0 || column >= width ||", "column < 0 || column > width ||", "heap-buffer-overflow"),
        ("if (k < size) y[k] = keep[k]", "if (k <= size) y[k] = keep[k]", "heap-buffer-overflow"),
        ("float patch[CHUNK * PLANE]", "float patch[CHUNK * PLANE - 9]", "global-buffer-overflow"),
        ("weights + group * FILTERS_EACH", "weights + 1 + group * FILTERS_EACH", "misaligned address"),
    ],
    ids=["one pixel too far", "one number too far", "shared memory too small", "16 bytes between addresses"],
)  # fmt: skip
def test_sanitizers_find_planted_faults(old, new, words, cache):
    assert any(old in path.read_text() for path in CUDA.parent.glob("*.cu"))
    done = sanitized(cache, old, new)
    assert done.returncode != 0
    assert words in done.stderr, done.stderr[-3000:]
