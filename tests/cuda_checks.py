"""What the tests of the CUDA kernels ask, so that planted faults and the sanitizers meet the very same questions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import CASES, PATHS, Case, _convolution
from fused_checks import POOLED, whole
from tinycnn.kernels import reference
from tinycnn.kernels.shapes import Windows, windows

from tinycnn.random import generator

HARD = [
    ("a pool of more positions than registers", (1, 14, 13, 2), (3, 3, 2, 5), {"pool_size": (5, 6)}),
    ("a pool of a long row", (1, 3, 45, 1), (2, 2, 1, 3), {"pool_size": (1, 20), "pool_strides": (1, 21)}),
    ("a large window", (1, 21, 20, 3), (15, 13, 3, 9), {"padding": 7, "strides": (2, 3)}),
    ("a window too large for one tile", (1, 22, 23, 1), (21, 20, 1, 64), {"padding": 3}),
    ("windows far apart", (1, 95, 91, 1), (1, 1, 1, 3), {"strides": 30}),
    ("positions too far apart for a tile", (1, 121, 121, 1), (1, 1, 1, 3), {"strides": 40, "pool_size": 4}),
    ("more channels than a tile", (1, 5, 6, 37), (3, 3, 37, 6), {"padding": "same"}),
    ("more filters than a block", (1, 5, 6, 3), (2, 2, 3, 69), {}),
    ("many channels", (2, 11, 24, 32), (3, 3, 32, 32), {}),
    ("many channels, padded unevenly", (2, 13, 15, 20), (3, 3, 20, 19), {"padding": ((1, 2), (0, 1))}),
    ("many channels, pools of 3x2", (1, 12, 17, 33), (2, 3, 33, 5), {"pool_size": (3, 2), "padding": "same"}),
    ("many channels, more padding than a pool", (1, 7, 6, 16), (3, 3, 16, 3), {"padding": 2, "pool_size": (1, 2)}),
    ("many channels, one window", (3, 4, 4, 17), (3, 3, 17, 1), {}),
]
SOME = {
    "ConvReLUMaxPool2D": ("usual", "on the grain", "same, stride", "padded unevenly", "overlapping pool",
                          "oblong pool with gaps", "2x3 windows, padded", "pools of 3x3, a rest",
                          "pools that overlap", "more images than shards", "Winograd"),
    "ConvReLU": ("usual", "same, stride", "no images", "5x5 windows, padded", "more images than shards"),
    "ConvBias": ("1x1 windows", "2x3 windows"),
    "DenseReLU": (),
    "DenseBias": (),
}  # fmt: skip


def rows() -> list[Case]:
    """Rows of the project's tables that this backend's kernels tell apart, and some of its own."""
    wanted = [
        case for case in (*CASES, *PATHS)
        if case.op in SOME and case.about != "no bias" and (case.about in SOME[case.op] or "Dense" in case.op)
    ]  # fmt: skip
    return wanted + [_convolution("ConvReLUMaxPool2D", *row) for row in HARD]


def geometries() -> Iterator[tuple[str, tuple[int, ...], Windows]]:
    """(name, shape of an image, windows) of the tables' convolutions and pools."""
    for case in CASES:
        if case.op in ("Conv2D", "MaxPool2D"):
            shape = case.arrays()[0].shape
            attributes = dict(case.attributes)
            kernel = attributes.pop("size", 2) if case.op == "MaxPool2D" else case.arrays()[1].shape[:2]
            if case.op == "MaxPool2D" and attributes.get("strides") is None:
                attributes["strides"] = kernel
            yield case.name, shape, windows(shape[1:3], kernel, **attributes)


def check_windows(kernels: Any, shape: tuple[int, ...], win: Windows, dtype: type) -> None:
    """im2col, pooling and their ways back give the reference's very bits."""
    n, _, _, c = shape
    rng = generator(0, "windows")
    x = rng.integers(-3, 4, shape).astype(dtype)  # many ties
    x[rng.random(shape) < 0.1] = np.nan
    cols = rng.standard_normal((n, win.oh, win.ow, win.taps * c)).astype(dtype)
    gy = rng.standard_normal((n, win.oh, win.ow, c)).astype(dtype)
    y, winner = kernels.max_pool2d(x, win)
    wanted = reference.max_pool2d(x, win)
    same_bits(y, wanted[0])
    same_bits(winner, wanted[1])
    same_bits(kernels.max_pool2d_backward(gy, winner, win), reference.max_pool2d_backward(gy, winner, win))
    same_bits(kernels.im2col(x, win), reference.im2col(x, win))
    same_bits(kernels.col2im(cols, win), reference.col2im(cols, win))


def same_bits(a, b) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(a, b)


def random(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = generator(0, "random arrays")
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def everything(kernels: Any) -> Iterator[np.ndarray]:
    """What each kernel gives for random numbers, where any change of an order would show."""
    x, w, b = random((3, 13, 11, 5), (3, 2, 5, 9), (9,))
    win = windows(x.shape[1:3], w.shape[:2], (1, 2), ((1, 0), (0, 1)))
    pool = windows((win.oh, win.ow), 2, 2)
    y, winner = kernels.conv_relu_max_pool2d(x, w, b, win, pool)
    yield from (y, winner)
    yield from kernels.conv_relu_max_pool2d_backward(random(y.shape)[0], winner, x, w, win, pool, True)
    yield from many_channels(kernels)
    for relu in (True, False):
        y = kernels.conv2d(x, w, b, win, relu)
        yield y
        yield from kernels.conv2d_backward(random(y.shape)[0], y, x, w, win, relu, True)
    for n, library in ((37, False), (256, False), (256, True)):
        kernels.TF32 = library
        x, w, b = random((n, 300), (300, 39), (39,))
        y = kernels.dense(x, w, b, True)
        yield y
        yield from kernels.dense_backward(random(y.shape)[0], y, x, w, True, True)
    kernels.TF32 = False
    (z,) = random((301, 3))
    yield kernels.sigmoid_binary_cross_entropy(z, (z > 0).astype(np.float32))
    yield kernels.sigmoid_binary_cross_entropy_backward(1.0, z, (z > 0).astype(np.float32))
    w, g, m, v = random(*[(517,)] * 4)
    kernels.adam_update(w, g, m, abs(v), 0.01, 0.9, 0.999, 1e-7)
    kernels.sgd_update(w, g, m, 0.01, 0.9, True)
    yield from (w, m, v)
    for dtype in (np.uint8, np.float32, np.float64):
        images = generator(0, "images").integers(0, 256, (2, 9, 7, 3)).astype(dtype)
        for mode in ("nearest", "constant", "reflect", "wrap"):
            yield kernels.warp(images, matrices(2), mode, 3.0, 1 / 255)
    for _, shape, win in geometries():
        check_windows(kernels, shape, win, np.float64)


def many_channels(kernels: Any) -> Iterator[np.ndarray]:
    x, w, b = random((3, 9, 13, 18), (3, 2, 18, 21), (21,))
    win = windows(x.shape[1:3], w.shape[:2], 1, 1)
    pool = windows((win.oh, win.ow), 2, 2)
    y, winner = kernels.conv_relu_max_pool2d(x, w, b, win, pool)
    yield from kernels.conv_relu_max_pool2d_backward(random(y.shape)[0], winner, x, w, win, pool, True)


def beside_naive(kernels: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Results of the naive kernels, each with that of the fast one, on numbers that make sums exact."""
    yield from _convolutions_beside_naive(kernels)
    pieces, total, first, second = *whole(0, (40, 71), (71,), (60,)), np.empty(11, np.float32)
    _run_naive(kernels, "sums.cu", "add_pieces_naive", (), 71, pieces, 40, np.int64(71), total)
    kernels._add_pieces(pieces, first, second)
    yield total, np.concatenate([first, second])

    x, w, b = whole(1, (37, 300), (300, 39), (39,))
    y = np.empty((37, 39), np.float32)
    _run_naive(kernels, "dense.cu", "dense_naive", (), y.size, x, w, b, y, *x.shape, 39, 1)
    yield y, kernels.dense(x, w, b, True)

    rng = generator(0, "sure logits")
    z, labels = (a.astype(np.float32) for a in (rng.choice([-64, 64], 512), rng.integers(0, 2, 512)))
    loss = np.empty((), np.float32)
    _run_naive(kernels, "loss.cu", "sigmoid_binary_cross_entropy_naive", (), 1, z, labels, loss, np.int64(512))
    yield loss, kernels.sigmoid_binary_cross_entropy(z, labels)


def _convolutions_beside_naive(kernels: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, w, b = whole(5, *POOLED)
    n, h, width, c = x.shape
    win = windows((h, width), w.shape[:2], (1, 2), 1)
    pool = windows((win.oh, win.ow), 2, 2)
    y, winner = kernels.conv_relu_max_pool2d(x, w, b, win, pool)
    gy = generator(0, "naive").integers(-4, 5, y.shape).astype(np.float32)
    fast = [y, winner, *kernels.conv_relu_max_pool2d_backward(gy, winner, x, w, win, pool, True)]
    naive = [np.empty(a.shape, a.dtype) for a in fast]
    nothing, out, pads = kernels.NOTHING, (pool.oh, pool.ow), (1, 1)

    task = kernels.Convolution(c, len(b), (3, 3), (1, 2), (2, 2), (2, 2))
    macros = *task.macros(), *kernels._convolution_tiles(task, n, out).macros()
    arguments = x, nothing, w, b, *naive[:2], n, h, width, h, width, *pads, *out, 1
    _run_naive(kernels, "convolution.cu", "convolve_naive", macros, y.size, *arguments)

    macros = *task.macros(), *kernels.WeightTiles.least()
    arguments = x, gy, winner, *naive[3:], n, h, width, *pads, *out
    _run_naive(kernels, "convolution_weights.cu", "weight_gradient_naive", macros, w.size + b.size, *arguments)

    task = kernels.Convolution(len(b), c, (3, 3), (1, 1), (1, 1), (1, 1), (((2, 2), (2, 2)), (1, 2)))
    macros = *task.macros(), *kernels._convolution_tiles(task, n, (h, width)).macros()
    arguments = gy, winner, w, nothing, naive[2], nothing, n, win.oh, win.ow * 2 - 1, *out, *pads, h, width, 0
    _run_naive(kernels, "convolution.cu", "convolve_naive", macros, x.size, *arguments)
    yield from zip(naive, fast, strict=True)


def _run_naive(kernels: Any, file: str, name: str, macros: tuple, numbers: int, *arguments: Any) -> None:
    kernels._launch(kernels._kernel(file, name, macros), (-(-numbers // 64),), 64, *arguments)


def matrices(count: int) -> np.ndarray:
    """Affine maps that turn, shear and shift, some far out of the image."""
    rng = generator(0, "maps")
    return rng.normal(0, 1, (count, 2, 3)) * [1, 1, 8]
