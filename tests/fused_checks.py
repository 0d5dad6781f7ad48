"""The questions that the tests ask of the fused ops' kernels, so that planted faults (test_mutants.py) meet them too.

Small whole numbers make every sum exact in float32: comparisons allow no difference, and ties come by themselves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cases import Case
from guards import guarded
from tinycnn.kernels import reference
from tinycnn.kernels.shapes import windows

from tinycnn import Tensor, backend
from tinycnn.fused import ConvBias, ConvReLU, ConvReLUMaxPool2D, DenseReLU, FusedOp
from tinycnn.random import generator
from tinycnn.tensor import Op

Shapes = Sequence[Sequence[int]]
POOLED: Shapes = [(2, 7, 14, 5), (3, 3, 5, 20), (20,)]
WINOGRAD: Shapes = [(2, 7, 6, 16), (3, 3, 16, 20), (20,)]
SHORT: Shapes = [(2, 7, 14, 1), (3, 3, 1, 20), (20,)]
KINDS: dict[str, tuple[type[FusedOp], Shapes]] = {
    "pooled": (ConvReLUMaxPool2D, POOLED),
    "short windows, pooled": (ConvReLUMaxPool2D, SHORT),
    "Winograd, pooled": (ConvReLUMaxPool2D, WINOGRAD),
    "convolution": (ConvReLU, POOLED),
    "Winograd": (ConvBias, WINOGRAD),
    "dense": (DenseReLU, [(11, 20), (20, 33), (33,)]),
    "dense, many samples": (DenseReLU, [(70, 20), (20, 33), (33,)]),
    "dense, many inputs": (DenseReLU, [(11, 520), (520, 33), (33,)]),
    "dense, few samples": (DenseReLU, [(3, 20), (20, 70), (70,)]),
}


def whole(seed: int, *shapes: Sequence[int]) -> list[np.ndarray]:
    """Float32 arrays of small whole numbers, the last (a bias) larger."""
    rng = generator(0, "whole numbers", seed)
    return [rng.integers(-s, s + 1, shape).astype(np.float32) for s, shape in zip((8, 4, 20), shapes, strict=True)]


def leaves_of(arrays: Sequence[np.ndarray], needs=(True, True, True)) -> list[Tensor]:
    home = backend.get("numba")
    return [Tensor(a, requires_grad=need, backend=home) for a, need in zip(arrays, needs, strict=True)]


def both(op: type[FusedOp], arrays: Sequence[np.ndarray], attributes: dict[str, Any], needs=(True, True, True)):
    """[output, gradients...] of the fused op in float32, and of the plain ops in float64."""
    leaves = leaves_of(arrays, needs)
    plain = [Tensor(a.astype(np.float64), requires_grad=True, backend=backend.get("numpy")) for a in arrays]
    y, wanted = op.apply(*leaves, **attributes), op.plain(*plain, **attributes)
    assert y.op.name == op.name, "the kernel was not asked"
    gy = generator(0, "output gradient").integers(-4, 5, wanted.shape).astype(np.float64)
    y.backward(gy.astype(np.float32))
    wanted.backward(gy)
    gradients = [leaf.grad if need else None for leaf, need in zip(plain, needs, strict=True)]
    return [y.data, *(leaf.grad for leaf in leaves)], [wanted.data, *gradients]


def assert_exact(got: Sequence[Any], wanted: Sequence[Any]) -> None:
    for name, ours, true in zip(("output", "input", "weights", "bias"), got, wanted, strict=True):
        assert (ours is None) == (true is None), name
        if true is not None:
            np.testing.assert_array_equal(ours, true, name)


def check_exact(op: type[FusedOp], seed: int, shapes: Shapes, attributes, needs=(True, True, True)) -> None:
    """Equal numbers, computed in memory that held NaN, with no write beside an array and none to an input."""
    arrays = whole(seed, *shapes)
    with guarded() as guards:
        inputs = [guards.copy(a) for a in arrays]
        assert_exact(*both(op, inputs, attributes, needs))
    for now, before in zip(inputs, arrays, strict=True):
        np.testing.assert_array_equal(now, before, "an input was changed")


def check_path(case: Case) -> None:
    """`check_exact` for one of the kernels' paths."""
    check_exact(Op.registry[case.op], 0, [a.shape for a in case.arrays()], case.attributes)


def check_winners(shapes: Shapes) -> None:
    """The first of the largest wins, and nobody where ReLU stops it."""
    x, w, b = whole(2, *shapes)
    b -= 60  # so that ReLU stops some
    x[1] = 0  # so that all are equal
    win = windows(x.shape[1:3], w.shape[:2])
    pool = windows((win.oh, win.ow), 2, 2)
    kernels = backend.get("numba")
    y, winner = kernels.conv_relu_max_pool2d(x, w, b, win, pool)
    best, first = reference.max_pool2d(kernels.conv2d(x, w, b, win, False), pool)
    np.testing.assert_array_equal(y, np.maximum(best, 0))
    np.testing.assert_array_equal(winner, np.where(best > 0, first, -1))
    assert (winner == -1).any()
    assert (winner > 0).any()
    b[:] = np.arange(len(b)) - 1.0
    y, winner = kernels.conv_relu_max_pool2d(x, w, b, win, pool)
    assert set(winner[1, ..., :2].flat) == {-1}, "a value of 0 passes nothing on"
    assert set(winner[1, ..., 2:].flat) == {0}


def check_nan(op: type[FusedOp], shapes: Shapes, where: int) -> None:
    """What is no number shows up where it does in the plain ops; `where` numbers the input that holds some."""
    arrays = whole(1, *shapes)
    spots = generator(0, "NaN").integers(0, arrays[where].size, 3)
    arrays[where].flat[spots] = np.nan
    wanted = op.plain(*(Tensor(a, backend=backend.get("numpy")) for a in arrays)).data
    assert np.isnan(wanted).any()
    np.testing.assert_array_equal(op.apply(*leaves_of(arrays)).data, wanted)


def check_order(op: type[FusedOp], shapes: Shapes, n: int = 5) -> None:
    """The weights' gradients of a batch have the bits of its images' added one by one, in order."""
    rng = generator(0, "order")
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((n, *shapes[0][1:]), *shapes[1:]))
    gy = rng.standard_normal(op.apply(*leaves_of((x, w, b))).shape).astype(np.float32)

    def gradients(images) -> list[np.ndarray]:
        leaves = leaves_of((x[images], w, b))
        op.apply(*leaves).backward(gy[images])
        return [leaf.grad for leaf in leaves]

    whole_batch, alone = gradients(slice(None)), [gradients(slice(i, i + 1)) for i in range(n)]
    np.testing.assert_array_equal(whole_batch[0], np.concatenate([g[0] for g in alone]))
    for i in (1, 2):
        total = alone[0][i].copy()
        for g in alone[1:]:
            total += g[i]
        np.testing.assert_array_equal(whole_batch[i], total)
