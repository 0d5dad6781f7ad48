"""One table of what every op must get right: each row is asked the same questions by the tests that import it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import oracles

import tinycnn.fused  # noqa: F401 (it puts the fused ops in the registry)
from tinycnn.random import generator
from tinycnn.tensor import Op, Tensor

Maker = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Case:
    """An op with the inputs and attributes to try it on, and what it should give.

    `oracle` takes the arrays and attributes; `torch` the torch module, torch tensors and attributes. `k` is the number
    of terms in the longest sum of the forward or backward pass: rounding errors in float32 grow with its root.
    """

    op: str
    about: str
    inputs: tuple[Maker, ...]
    oracle: Callable[..., Any]
    torch: Callable[..., Any] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    k: int = 1
    complex_step: bool = True

    @property
    def name(self) -> str:
        return f"{self.op}: {self.about}"

    @property
    def method(self) -> str:
        return "complex" if self.complex_step else "difference"

    @property
    def float32_tolerance(self) -> float:
        """Allowed error in float32, relative to the largest value."""
        return 8 * self.k**0.5 * 2.0**-24

    def arrays(self) -> list[np.ndarray]:
        """The inputs: float64 arrays whose values float32 holds exactly, so that both types see the same."""
        rng = generator(0, self.name)
        return [np.asarray(make(rng), np.float32).astype(np.float64) for make in self.inputs]

    def __call__(self, *inputs) -> Tensor:
        return Op.registry[self.op].apply(*inputs, **self.attributes)


def normal(*shape: int) -> Maker:
    return lambda rng: rng.standard_normal(shape)


def away(*shape: int) -> Maker:
    """Both signs, at least 0.5 from 0: safe to divide by."""
    return lambda rng: rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)


def between(low: float, high: float, *shape: int) -> Maker:
    return lambda rng: rng.uniform(low, high, shape)


def spaced(*shape: int) -> Maker:
    """Shuffled and evenly spaced around 0, which is left out: no ties for a maximum, no kink for a ReLU."""
    size = int(np.prod(shape))
    return lambda rng: (rng.permutation(size) - size // 2 + 0.5).reshape(shape) / 8


def labels(*shape: int) -> Maker:
    return lambda rng: rng.integers(0, 2, shape)


def one_hot(rows: int, classes: int) -> Maker:
    return lambda rng: np.eye(classes)[rng.integers(0, classes, rows)]


def exactly(values) -> Maker:
    return lambda rng: np.array(values)


def _arithmetic() -> list[Case]:
    pairs = {
        "one shape": ((3, 4), (3, 4)),
        "numbers": ((), ()),
        "row on the right": ((3, 4), (4,)),
        "row on the left": ((4,), (3, 4)),
        "column by row": ((3, 1), (1, 4)),
        "number on the left": ((), (2, 3)),
        "middle axis": ((2, 1, 3), (4, 1)),
        "no rows": ((0, 3), (3,)),
    }
    binary = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    found = [
        Case(op, about, (away(*a), away(*b)), f, lambda t, a, b, f=f: getattr(t, f.__name__)(a, b), k=12)
        for op, f in binary.items()
        for about, (a, b) in pairs.items()
    ]
    found += [
        Case("Neg", "all", (normal(2, 3),), np.negative, lambda t, x: -x),
        Case("Exp", "all", (normal(2, 3),), np.exp, lambda t, x: t.exp(x)),
        Case("Log", "all", (between(0.5, 3, 2, 3),), np.log, lambda t, x: t.log(x)),
    ]
    for exponent in (3, 2, 1, 0, -1, 0.5):
        x = between(0.5, 2, 2, 3) if exponent == 0.5 else away(2, 3)
        found.append(Case("Pow", f"to {exponent}", (x,), _power, lambda t, x, exponent: x**exponent,
                          {"exponent": exponent}))  # fmt: skip
    return found


def _power(x, *, exponent):
    return np.array([float(value) ** exponent for value in x.flat]).reshape(x.shape)


def _products() -> list[Case]:
    sizes = {
        "matrices": ((3, 5), (5, 2)),
        "one stack on the left": ((4, 3, 5), (5, 2)),
        "one stack on the right": ((3, 5), (4, 5, 2)),
        "stacks that broadcast": ((2, 1, 3, 5), (4, 5, 2)),
        "rows of one": ((1, 1), (1, 1)),
    }
    found = [
        Case("MatMul", about, (normal(*a), normal(*b)), _matmul, lambda t, a, b: a @ b, k=24)
        for about, (a, b) in sizes.items()
    ]
    dense = {"usual": ((4, 5), (5, 3), (3,)), "no bias": ((4, 5), (5, 3)), "one row": ((1, 5), (5, 3), (3,)),
             "one unit": ((4, 5), (5, 1), (1,)), "no rows": ((0, 5), (5, 3), (3,))}  # fmt: skip
    return found + [
        Case("Dense", about, tuple(normal(*s) for s in shapes), _dense,
             lambda t, x, w, b=None: x @ w if b is None else x @ w + b, k=6)
        for about, shapes in dense.items()
    ]  # fmt: skip


def _matmul(a, b):
    return np.einsum("...ij,...jk->...ik", a, b)


def _dense(x, w, b=None):
    y = np.array([sum(row * column) for row in x for column in w.T]).reshape(len(x), w.shape[1])
    return y if b is None else y + b


def _reductions() -> list[Case]:
    kinds: dict[str, dict[str, Any]] = {
        "all": {},
        "all, kept": {"keepdims": True},
        "first axis": {"axis": 0},
        "last axis": {"axis": -1},
        "two axes": {"axis": (0, 2)},
        "negative axes, kept": {"axis": (-1, -3), "keepdims": True},
    }
    found = [
        Case(op, about, (normal(2, 3, 4),), f, _torch_reduction(op.lower()), attributes, k=24)
        for op, f in {"Sum": np.sum, "Mean": np.mean}.items()
        for about, attributes in kinds.items()
    ]
    return found + [Case(op, "a number", (normal(),), np.asarray, lambda t, x: x * 1) for op in ("Sum", "Mean")]


def _torch_reduction(name):
    def reduce(torch, x, axis=None, keepdims=False):
        return getattr(torch, name)(x, dim=tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)

    return reduce


def _shapes() -> list[Case]:
    targets = {"to rows": (6, 4), "with -1": (3, -1), "to a vector": (-1,), "more axes": (2, 1, 3, 4)}
    found = [
        Case("Reshape", about, (normal(2, 3, 4),), np.reshape, lambda t, x, shape: x.reshape(shape), {"shape": shape})
        for about, shape in targets.items()
    ]
    shapes = {"images": (2, 3, 2, 4), "rows": (3, 4), "one image": (1, 3, 3, 2), "a vector": (3,), "none": (0, 2, 2, 1)}
    return found + [
        Case("Flatten", about, (normal(*shape),), lambda x: np.array([[*image.flat] for image in x]).reshape(
            len(x), x[:1].size if len(x) else 4), lambda t, x: x.reshape(len(x), x.shape[1:].numel()))
        for about, shape in shapes.items()
    ]  # fmt: skip


def _convolutions() -> list[Case]:
    rows: list[tuple[str, tuple, tuple, dict[str, Any]]] = [
        ("valid", (2, 5, 4, 3), (3, 3, 3, 2), {}),
        ("same", (2, 4, 5, 2), (3, 3, 2, 3), {"padding": "same"}),
        ("same, even window", (1, 5, 4, 2), (2, 4, 2, 2), {"padding": "same"}),
        ("same, stride 2", (2, 5, 6, 2), (3, 3, 2, 2), {"padding": "same", "strides": 2}),
        ("same, stride 3, window 2", (1, 7, 5, 1), (2, 2, 1, 2), {"padding": "same", "strides": 3}),
        ("stride leaves a rest", (2, 6, 7, 2), (3, 2, 2, 2), {"strides": (2, 3)}),
        ("dilated", (1, 7, 6, 2), (3, 2, 2, 2), {"dilation": (2, 3)}),
        ("dilated, same, stride 2", (1, 6, 7, 1), (3, 3, 1, 2), {"dilation": 2, "padding": "same", "strides": 2}),
        ("padded by one number", (1, 3, 4, 2), (3, 3, 2, 2), {"padding": 2}),
        ("padded by two numbers", (2, 3, 4, 1), (2, 3, 1, 2), {"padding": (1, 2)}),
        ("padded unevenly", (1, 4, 3, 2), (3, 3, 2, 2), {"padding": ((0, 2), (1, 0)), "strides": (1, 2)}),
        ("1x1 window", (2, 3, 2, 3), (1, 1, 3, 4), {}),
        ("1x1 window, stride 2", (1, 5, 4, 2), (1, 1, 2, 2), {"strides": 2}),
        ("1x1 image", (2, 1, 1, 3), (1, 1, 3, 2), {}),
        ("one channel, one filter", (1, 5, 5, 1), (3, 3, 1, 1), {}),
        ("window as large as the image", (3, 4, 3, 2), (4, 3, 2, 5), {}),
        ("one row", (2, 1, 7, 2), (1, 3, 2, 2), {}),
    ]
    found = []
    for about, x, w, attributes in rows:
        k = max(w[0] * w[1] * w[2], w[0] * w[1] * w[3], x[0] * x[1] * x[2])
        found.append(Case("Conv2D", about, (normal(*x), normal(*w), normal(w[3])), oracles.conv2d,
                          oracles.torch_conv2d, attributes, k))  # fmt: skip
    inputs = normal(2, 4, 4, 2), normal(3, 3, 2, 2)
    return [*found, Case("Conv2D", "no bias", inputs, oracles.conv2d, oracles.torch_conv2d, k=32)]


def _pools() -> list[Case]:
    rows: list[tuple[str, tuple, dict[str, Any]]] = [
        ("usual", (2, 4, 6, 3), {}),
        ("odd image", (2, 5, 7, 2), {}),
        ("overlapping", (1, 5, 5, 2), {"size": 3, "strides": 1}),
        ("overlapping, a rest", (2, 6, 5, 1), {"size": 3, "strides": 2}),
        ("gaps between windows", (1, 7, 5, 2), {"size": 2, "strides": 3}),
        ("oblong", (1, 6, 4, 2), {"size": (3, 1), "strides": (1, 2)}),
        ("same", (2, 5, 5, 2), {"padding": "same"}),
        ("same, overlapping", (1, 4, 5, 2), {"size": 3, "strides": 1, "padding": "same"}),
        ("padded by one number", (1, 3, 4, 1), {"size": 3, "strides": 2, "padding": 1}),
        ("padded unevenly", (1, 4, 3, 2), {"size": 3, "strides": 1, "padding": ((2, 0), (0, 1))}),
        ("1x1 window", (2, 3, 2, 2), {"size": 1}),
        ("window as large as the image", (2, 3, 4, 2), {"size": (3, 4)}),
        ("no images", (0, 4, 4, 2), {}),
    ]
    return [
        Case("MaxPool2D", about, (spaced(*x),), oracles.max_pool2d, oracles.torch_max_pool2d, attributes, k=9)
        for about, x, attributes in rows
    ]


def _fused_convolutions() -> list[Case]:
    """Small ones, for every question; what else the kernels tell apart stands in PATHS."""
    pooled: list[tuple[str, tuple, tuple, dict[str, Any]]] = [
        ("usual", (2, 8, 8, 3), (3, 3, 3, 4), {}),
        ("on the grain", (1, 5, 18, 2), (2, 3, 2, 32), {}),
        ("more filters than a tile", (1, 4, 5, 1), (2, 2, 1, 33), {}),
        ("wide windows", (1, 4, 6, 12), (3, 3, 12, 2), {}),
        ("odd image", (2, 8, 7, 2), (3, 2, 2, 3), {}),
        ("same, stride", (2, 9, 8, 2), (3, 3, 2, 3), {"padding": "same", "strides": (2, 1)}),
        ("padded unevenly", (1, 6, 5, 1), (3, 3, 1, 2), {"padding": ((0, 2), (1, 0))}),
        ("overlapping pool", (1, 8, 8, 1), (3, 3, 1, 2), {"pool_size": 3, "pool_strides": 1}),
        ("oblong pool with gaps", (1, 9, 9, 2), (2, 2, 2, 2), {"pool_size": (1, 2), "pool_strides": (2, 3)}),
        ("padded pool", (1, 6, 6, 1), (2, 2, 1, 2), {"pool_padding": "same"}),
        ("dilated", (1, 8, 8, 1), (2, 2, 1, 2), {"dilation": 2}),
        ("one position", (3, 4, 4, 2), (3, 3, 2, 3), {}),
    ]
    alone: list[tuple[str, tuple, tuple, dict[str, Any]]] = [
        ("usual", (2, 5, 6, 3), (3, 3, 3, 4), {}),
        ("same, stride", (2, 5, 6, 2), (3, 3, 2, 3), {"padding": "same", "strides": (2, 1)}),
        ("dilated", (1, 6, 5, 1), (2, 2, 1, 2), {"dilation": 2}),
        ("no images", (0, 4, 4, 2), (3, 3, 2, 3), {}),
    ]
    found = [_convolution("ConvReLUMaxPool2D", *row) for row in pooled]
    found += [_convolution(op, *row) for op in ("ConvBias", "ConvReLU") for row in alone]
    return found + [
        _convolution(op, "no bias", (2, 6, 6, 2), (3, 3, 2, 2), {}, bias=False) for op in FUSED_CONVOLUTIONS
    ]


def _convolution(op: str, about: str, x: tuple, w: tuple, attributes: dict[str, Any], *, bias: bool = True) -> Case:
    """A row of a fused convolution, from the shapes of image and weights."""
    oracle, torch = FUSED_CONVOLUTIONS[op]
    makers = normal(*x), normal(*w), normal(w[3])
    k = max(w[0] * w[1] * w[2], w[0] * w[1] * w[3], x[0] * x[1] * x[2])
    return Case(op, about, makers if bias else makers[:2], oracle, torch, attributes, k)


FUSED_CONVOLUTIONS: dict[str, tuple[Callable, Callable]] = {
    "ConvReLUMaxPool2D": (oracles.conv_relu_max_pool2d, oracles.torch_conv_relu_max_pool2d),
    "ConvReLU": (
        lambda *arrays, **attributes: np.maximum(oracles.conv2d(*arrays, **attributes), 0),
        lambda torch, *arrays, **attributes: torch.relu(oracles.torch_conv2d(torch, *arrays, **attributes)),
    ),
    "ConvBias": (oracles.conv2d, oracles.torch_conv2d),
}


def _fused_dense() -> list[Case]:
    rows = {"usual": ((4, 5), (5, 3), (3,)), "no bias": ((3, 4), (4, 2)), "one sample": ((1, 5), (5, 4), (4,)),
            "no samples": ((0, 5), (5, 3), (3,))}  # fmt: skip
    return [_dense_case(op, about, *shapes) for op in FUSED_DENSE for about, shapes in rows.items()]


def _dense_case(op: str, about: str, *shapes: tuple) -> Case:
    oracle, torch = FUSED_DENSE[op]
    return Case(op, about, tuple(normal(*shape) for shape in shapes), oracle, torch, k=max(*shapes[0], *shapes[1]))


FUSED_DENSE: dict[str, tuple[Callable, Callable]] = {
    "DenseBias": (_dense, lambda t, x, w, b=None: x @ w if b is None else x @ w + b),
    "DenseReLU": (
        lambda *arrays: np.maximum(_dense(*arrays), 0),
        lambda t, x, w, b=None: t.relu(x @ w if b is None else x @ w + b),
    ),
}


def _paths() -> list[Case]:
    """What the compiled kernels of the fused ops tell apart: each row meets something that no row before it met."""
    pooled: list[tuple[str, tuple, tuple, dict[str, Any]]] = [
        ("a row shorter than a tile", (2, 6, 5, 8), (3, 3, 8, 6), {}),
        ("the last tile moved back", (2, 5, 15, 8), (3, 3, 8, 17), {}),
        ("two tiles of 32 filters", (1, 6, 8, 9), (3, 3, 9, 40), {}),
        ("two words of filters", (2, 6, 7, 20), (3, 3, 20, 70), {"strides": 2}),
        ("lines of more than a block", (2, 6, 6, 33), (3, 3, 33, 6), {}),
        ("5x5 windows, padded", (2, 9, 8, 20), (5, 5, 20, 8), {"padding": "same"}),
        ("1x1 windows", (2, 5, 6, 20), (1, 1, 20, 16), {}),
        ("2x3 windows, padded", (3, 7, 9, 16), (2, 3, 16, 17), {"strides": (2, 1), "padding": ((1, 0), (0, 2))}),
        ("pools of 3x3, a rest", (2, 10, 9, 8), (3, 3, 8, 6), {"pool_size": 3}),
        ("pools of 2x3", (2, 8, 12, 8), (3, 3, 8, 6), {"pool_size": (2, 3)}),
        ("pools that overlap", (2, 8, 9, 8), (2, 3, 8, 17), {"pool_size": (3, 2), "pool_strides": (2, 1)}),
        ("pools with gaps", (2, 9, 9, 8), (3, 3, 8, 6), {"pool_size": 2, "pool_strides": 3}),
        ("more pixels than a chunk", (1, 18, 18, 8), (3, 3, 8, 5), {}),
        ("more images than shards", (40, 5, 5, 8), (2, 2, 8, 3), {}),
        ("short windows", (2, 7, 8, 3), (3, 3, 3, 16), {}),
        ("short windows, padded", (2, 9, 6, 1), (3, 3, 1, 33), {"padding": "same"}),
        ("short windows, a pool of 2x3", (1, 8, 8, 1), (2, 2, 1, 20), {"pool_size": (2, 3), "strides": (1, 2)}),
        ("short windows, many images", (40, 4, 5, 3), (2, 2, 3, 16), {}),
        ("images smaller than a vector", (3, 2, 2, 1), (1, 1, 1, 5), {}),
        ("Winograd", (2, 6, 8, 16), (3, 3, 16, 16), {}),
        ("Winograd, a rest, padded", (2, 7, 5, 20), (3, 3, 20, 33), {"padding": "same"}),
        ("Winograd, several blocks", (1, 18, 18, 70), (3, 3, 70, 16), {}),
    ]  # fmt: skip
    alone: list[tuple[str, str, tuple, tuple, dict[str, Any]]] = [
        ("ConvReLU", "a row shorter than a tile", (2, 4, 5, 3), (3, 3, 3, 6), {}),
        ("ConvBias", "the last tile moved back", (2, 4, 15, 3), (3, 3, 3, 17), {}),
        ("ConvReLU", "two tiles of 32 filters, stride", (2, 7, 8, 5), (3, 3, 5, 40), {"strides": 2}),
        ("ConvBias", "1x1 windows", (2, 3, 4, 3), (1, 1, 3, 33), {}),
        ("ConvReLU", "5x5 windows, padded", (1, 6, 7, 1), (5, 5, 1, 6), {"padding": "same"}),
        ("ConvBias", "2x3 windows", (3, 6, 7, 2), (2, 3, 2, 70), {"strides": (2, 1), "padding": ((1, 0), (0, 2))}),
        ("ConvReLU", "more images than shards", (40, 4, 4, 5), (2, 2, 5, 8), {}),
        ("ConvReLU", "Winograd", (2, 6, 8, 16), (3, 3, 16, 16), {}),
        ("ConvBias", "Winograd, the last tiles moved back", (2, 5, 7, 20), (3, 3, 20, 33), {}),
        ("ConvReLU", "Winograd, several blocks, padded", (1, 17, 16, 17), (3, 3, 17, 64), {"padding": "same"}),
        ("ConvBias", "Winograd's smallest image", (1, 4, 4, 16), (3, 3, 16, 16), {}),
    ]
    dense = {"one sample": ((1, 20), (20, 17), (17,)), "few samples": ((8, 20), (20, 70), (70,)),
             "a tile": ((9, 9), (9, 16), (16,)), "tiles and a rest": ((33, 80), (80, 33), (33,)),
             "many units": ((40, 10), (10, 70), (70,)), "one unit": ((32, 150), (150, 1), (1,)),
             "inputs in parts": ((20, 777), (777, 33), (33,)),
             "two inputs in the last task": ((5, 290), (290, 17), (17,)),
             "a sample, many units": ((1, 20), (20, 150), (150,)),
             "many samples": ((80, 20), (20, 33), (33,))}  # fmt: skip
    return [
        *(_convolution("ConvReLUMaxPool2D", *row) for row in pooled),
        *(_convolution(*row) for row in alone),
        *(_dense_case(op, about, *shapes) for op in FUSED_DENSE for about, shapes in dense.items()),
    ]


def _activations() -> list[Case]:
    return [
        Case("ReLU", "images", (spaced(2, 3, 3, 2),), lambda x: (x + abs(x)) / 2, lambda t, x: t.relu(x)),
        Case("ReLU", "a number", (spaced(),), lambda x: (x + abs(x)) / 2, lambda t, x: t.relu(x)),
        Case("Sigmoid", "both sides", (spaced(5, 5),), lambda x: (1 + np.tanh(x / 2)) / 2, lambda t, x: t.sigmoid(x)),
        Case("Softmax", "rows", (normal(3, 4),), _softmax, lambda t, x: t.softmax(x, -1), k=4),
        Case("Softmax", "a vector", (normal(5),), _softmax, lambda t, x: t.softmax(x, -1), k=5),
        Case("Softmax", "three axes", (normal(2, 2, 3),), _softmax, lambda t, x: t.softmax(x, -1), k=3),
    ]


def _softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def _losses() -> list[Case]:
    p, z = between(0.1, 0.9, 4, 3), normal(4, 3)
    rows = [[0.2, 0.7, 0.4], [1.0, 0, 0], [0, 3.0, 1.0]]
    tenth = between(0.1, 1, 4, 3)
    return [
        Case("BinaryCrossEntropy", "labels", (p, labels(4, 3)), _bce, _torch_bce, k=12),
        Case("BinaryCrossEntropy", "soft labels", (p, p), _bce, _torch_bce, k=12),
        Case("BinaryCrossEntropy", "a number", (between(0.1, 0.9), labels()), _bce, _torch_bce),
        Case("BinaryCrossEntropy", "clipped", (exactly([0.0, 1e-9, 0.5]), exactly([1, 1, 0])), _bce, _torch_bce, k=3),
        Case("CategoricalCrossEntropy", "one-hot", (tenth, one_hot(4, 3)), _cce, _torch_cce, k=12),
        Case("CategoricalCrossEntropy", "soft labels", (tenth, tenth), _cce, _torch_cce, k=12),
        Case("CategoricalCrossEntropy", "clipped", (exactly(rows), one_hot(3, 3)), _cce, _torch_cce, k=9),
        Case("SigmoidBinaryCrossEntropy", "labels", (z, labels(4, 3)), lambda z, y: _bce(_sigmoid(z), y),
             lambda t, z, y: t.nn.functional.binary_cross_entropy_with_logits(z, y), k=12),
        Case("SigmoidBinaryCrossEntropy", "soft labels", (spaced(7), between(0, 1, 7)),
             lambda z, y: _bce(_sigmoid(z), y),
             lambda t, z, y: t.nn.functional.binary_cross_entropy_with_logits(z, y), k=7),
        Case("SoftmaxCategoricalCrossEntropy", "one-hot", (z, one_hot(4, 3)), lambda z, y: _cce(_softmax(z), y),
             lambda t, z, y: -(y * t.log_softmax(z, -1)).sum() / len(z), k=12),
        Case("SoftmaxCategoricalCrossEntropy", "labels of any sum", (z, p), lambda z, y: _cce(_softmax(z), y),
             lambda t, z, y: -(y * t.log_softmax(z, -1)).sum() / len(z), k=12),
    ]  # fmt: skip


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _clip(p):
    return np.minimum(np.maximum(p, 1e-7), 1 - 1e-7)


def _bce(p, y):
    return np.mean(np.where(y == 0, 0, -y * np.log(_clip(p))) - (1 - y) * np.log1p(-_clip(p)))


def _torch_bce(torch, p, y):
    return torch.nn.functional.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), y)


def _cce(p, y):
    return -np.mean([np.dot(target, np.log(_clip(row / row.sum()))) for row, target in zip(p, y, strict=True)])


def _torch_cce(torch, p, y):
    q = (p / p.sum(-1, keepdim=True)).clamp(1e-7, 1 - 1e-7)
    return -(y * q.log()).sum() / len(p)


CASES = [
    *_arithmetic(), *_products(), *_reductions(), *_shapes(), *_convolutions(), *_pools(),
    *_fused_convolutions(), *_fused_dense(), *_activations(), *_losses(),
]  # fmt: skip
PATHS = _paths()
