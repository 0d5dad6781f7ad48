"""Ops that do the work of several in one go, each with `plain`: its meaning as a composition of those it replaces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import numpy as np

from . import ops
from .backend import Backend, current
from .kernels import recording, shapes
from .tensor import Op, Tensor, TensorLike, watcher


@dataclass(frozen=True)
class Step:
    """One op of a chain: it takes the chain's value so far, then `inputs`, and `attributes`; `layer` is whose it is."""

    op: type[Op]
    inputs: tuple[TensorLike | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    layer: str = ""

    def __call__(self, x: TensorLike) -> Tensor:
        return self.apply(x, self.inputs)

    def apply(self, x: TensorLike, inputs: Sequence[TensorLike | None]) -> Tensor:
        """The step with other inputs than its own."""
        somebody = watcher()
        if somebody is None:
            return self.op.apply(x, *inputs, **self.attributes)
        somebody.layer = self.layer
        try:
            return self.op.apply(x, *inputs, **self.attributes)
        finally:
            somebody.layer = ""


class FusedOp(Op):
    """An op that stands for the chain `parts`; its inputs are theirs, in order.

    Where the backend has no kernel called `kernel`, or `fits` says that it cannot take these inputs, `plain` runs.
    """

    parts: ClassVar[tuple[type[Op], ...]]
    kernel: ClassVar[str | None] = None

    @classmethod
    def plain(cls, *inputs: Any, **attributes: Any) -> Tensor:
        """The same value from the ops that this one replaces."""
        raise NotImplementedError

    @classmethod
    def fits(cls, inputs: Sequence[Any], attributes: dict[str, Any]) -> bool:
        """Whether the kernel can take these inputs and attributes."""
        return True

    @classmethod
    def has_kernel(cls, home: Backend, inputs: Sequence[Any], attributes: dict[str, Any]) -> bool:
        """Whether these inputs meet a kernel of the backend, and not `plain`."""
        return cls.kernel is not None and home.has(cls.kernel) and cls.fits(inputs, attributes)

    @classmethod
    def merged(cls, attributes: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The fused op's attributes from those of its parts."""
        return {name: value for part in attributes for name, value in part.items()}

    @classmethod
    def is_split(cls) -> bool:
        """Whether somebody watches who wants to see the ops that this one replaces."""
        somebody = watcher()
        return somebody is not None and somebody.splits(cls)

    @classmethod
    def apply(cls, *inputs: TensorLike | None, **attributes: Any) -> Tensor:
        if cls.is_split():
            return cls.plain(*inputs, **attributes)
        if cls.kernel:
            home = next((x.backend for x in inputs if isinstance(x, Tensor)), None) or current()
            if not cls.has_kernel(home, inputs, attributes):
                return cls.plain(*inputs, **attributes)
        return super().apply(*inputs, **attributes)


FLOAT32 = np.dtype(np.float32)
BOTH = "forward", "backward"


def _all_float32(inputs: Sequence[Any]) -> bool:
    return all(getattr(x, "dtype", FLOAT32) == FLOAT32 for x in inputs)


class _FusedWeighted(FusedOp):
    """What the ops with a weight and a bias share: their gradients go into the leaves' buffers, if these have any."""

    def _bias(self, w, b):
        return np.zeros_like(w, shape=w.shape[-1:]) if b is None else b

    def _gradients(self, kernel, *arguments):
        """Those that are needed of the gradients of x, w and b, from a kernel that takes buffers for the last two."""
        buffers = [self.gradient_buffer(i) for i in range(1, len(self.parents))]
        gradients = kernel(*arguments, self.needs[0], *buffers)
        return tuple(g if need else None for g, need in zip(gradients, self.needs, strict=False))


class _FusedConv2D(_FusedWeighted):
    """A convolution with its bias, and ReLU if `relu`, in one kernel that never stores im2col's rows."""

    kernel = "conv2d"
    relu: ClassVar[bool]

    @classmethod
    def plain(cls, x, w, b=None, **attributes):
        y = ops.conv2d(x, w, b, **attributes)
        return ops.relu(y) if cls.relu else y

    @classmethod
    def fits(cls, inputs, attributes):
        return _all_float32(inputs) and attributes.get("dilation", 1) in (1, (1, 1))

    def forward(self, x, w, b=None, *, strides=1, padding="valid", **_):
        ops.check_convolution(x, w, b)
        self.x, self.w = x, w
        self.win = shapes.windows(x.shape[1:3], w.shape[:2], strides, padding)
        self.y = self.k.conv2d(x, w, self._bias(w, b), self.win, self.relu)
        return self.y

    def backward(self, gy):
        return self._gradients(self.k.conv2d_backward, gy, self.y, self.x, self.w, self.win, self.relu)


class ConvBias(_FusedConv2D):
    """conv2d(x, w, b) by tiles."""

    parts = (ops.Conv2D,)
    by_kernels = BOTH
    relu = False


class ConvReLU(_FusedConv2D):
    """relu(conv2d(x, w, b)) by tiles."""

    parts = (ops.Conv2D, ops.ReLU)
    by_kernels = BOTH
    relu = True


class ConvReLUMaxPool2D(_FusedWeighted):
    """max_pool2d(relu(conv2d(x, w, b))), without ever storing what the pool reads.

    Pooling sends each gradient to one position and ReLU stops some, so backward does a fraction of a convolution's
    work. The pool's attributes have `pool_` in front, its window is `pool_size`.
    """

    parts = (ops.Conv2D, ops.ReLU, ops.MaxPool2D)
    by_kernels = BOTH
    kernel = "conv_relu_max_pool2d"

    @classmethod
    def plain(cls, x, w, b=None, *, strides=1, padding="valid", dilation=1, **pool):
        pool = {name.removeprefix("pool_"): value for name, value in pool.items()}
        y = ops.conv2d(x, w, b, strides=strides, padding=padding, dilation=dilation)
        return ops.max_pool2d(ops.relu(y), **pool)

    @classmethod
    def merged(cls, attributes):
        convolution, _, pool = attributes
        return convolution | {f"pool_{name}": value for name, value in pool.items()}

    @classmethod
    def fits(cls, inputs, attributes):
        dilated = attributes.get("dilation", 1) not in (1, (1, 1))
        size = attributes.get("pool_size", 2)
        taps = prod(size if type(size) is tuple else shapes.pair(size, "window"))
        padded = attributes.get("pool_padding", "valid") != "valid"
        return _all_float32(inputs) and not dilated and not padded and taps <= 127

    def forward(self, x, w, b=None, *, strides=1, padding="valid", dilation=1, pool_size=2, pool_strides=None, **_):
        ops.check_convolution(x, w, b)
        self.x, self.w = x, w
        self.win = shapes.windows(x.shape[1:3], w.shape[:2], strides, padding)
        image = self.win.oh, self.win.ow
        self.pool = shapes.windows(image, pool_size, pool_size if pool_strides is None else pool_strides)
        y, self.winner = self.k.conv_relu_max_pool2d(x, w, self._bias(w, b), self.win, self.pool)
        return y

    def backward(self, gy):
        kernel = self.k.conv_relu_max_pool2d_backward
        return self._gradients(kernel, gy, self.winner, self.x, self.w, self.win, self.pool)


class _FusedDense(_FusedWeighted):
    """x @ w + b, and ReLU if `relu`, in one kernel."""

    kernel = "dense"
    relu: ClassVar[bool]

    @classmethod
    def plain(cls, x, w, b=None):
        y = ops.dense(x, w, b)
        return ops.relu(y) if cls.relu else y

    @classmethod
    def fits(cls, inputs, attributes):
        return _all_float32(inputs)

    def forward(self, x, w, b=None):
        ops.check_dense(x, w, b)
        self.x, self.w = x, w
        self.y = self.k.dense(x, w, self._bias(w, b), self.relu)
        return self.y

    def backward(self, gy):
        return self._gradients(self.k.dense_backward, gy, self.y, self.x, self.w, self.relu)


class DenseBias(_FusedDense):
    """dense(x, w, b) by tiles."""

    parts = (ops.Dense,)
    by_kernels = BOTH
    relu = False


class DenseReLU(_FusedDense):
    """relu(dense(x, w, b)) by tiles."""

    parts = (ops.Dense, ops.ReLU)
    by_kernels = BOTH
    relu = True


class SigmoidBinaryCrossEntropy(FusedOp):
    """Mean binary cross-entropy of labels y and probabilities sigmoid(z), from the logits z: exact where sigmoid(z)
    rounds to 0 or 1, and the gradient is simply (sigmoid(z) - y) / size."""

    parts = (ops.Sigmoid, ops.BinaryCrossEntropy)
    by_kernels = BOTH

    @classmethod
    def plain(cls, z, y):
        return ops.binary_cross_entropy(ops.sigmoid(z), y)

    def forward(self, z, y):
        ops.check(z.shape == y.shape, z, y, "of one shape")
        self.z, self.y = z, y
        return self.k.sigmoid_binary_cross_entropy(z, y)

    def backward(self, gy):
        gz = self.k.sigmoid_binary_cross_entropy_backward(gy, self.z, self.y) if self.needs[0] else None
        gtarget = None
        if self.needs[1]:
            recording.cannot_repeat()
            gtarget = -gy * self.z / self.y.size
        return gz, gtarget


class SoftmaxCategoricalCrossEntropy(FusedOp):
    """Mean categorical cross-entropy of one-hot labels y and probabilities softmax(z), from the logits z (N, CLASSES).

    The gradient is (softmax(z) * sum(y) - y) / N, where a one-hot row has sum(y) = 1.
    """

    parts = (ops.Softmax, ops.CategoricalCrossEntropy)
    by_kernels = BOTH

    @classmethod
    def plain(cls, z, y):
        return ops.categorical_cross_entropy(ops.softmax(z), y)

    def forward(self, z, y):
        ops.check(z.shape == y.shape and z.ndim == 2, z, y, "both (N, CLASSES)")
        self.y = y
        loss, self.log_p = self.k.softmax_categorical_cross_entropy(z, y)
        return loss

    def backward(self, gy):
        gz = self.k.softmax_categorical_cross_entropy_backward(gy, self.log_p, self.y) if self.needs[0] else None
        gtarget = None
        if self.needs[1]:
            recording.cannot_repeat()
            gtarget = -gy * self.log_p / len(self.y)
        return gz, gtarget


FUSIONS: tuple[type[FusedOp], ...] = (
    ConvReLUMaxPool2D,
    ConvReLU,
    ConvBias,
    DenseReLU,
    DenseBias,
    SigmoidBinaryCrossEntropy,
    SoftmaxCategoricalCrossEntropy,
)


def fuse(chain: Sequence[Step]) -> list[Step]:
    """The same chain, with each run of steps that a fused op stands for replaced by it, unless it is split."""
    known = [op for op in FUSIONS if not op.is_split()]
    fused: list[Step] = []
    start = 0
    while start < len(chain):
        step, used = _longest_fusion(chain[start:], known)
        fused.append(step)
        start += used
    return fused


def _longest_fusion(chain: Sequence[Step], known: Sequence[type[FusedOp]]) -> tuple[Step, int]:
    """The fused step that replaces most steps at the head of the chain (else the head itself), and how many."""
    found: type[FusedOp] | None = None
    for op in known:
        if op.parts[0] is chain[0].op and (found is None or len(op.parts) > len(found.parts)):
            found = op if tuple(step.op for step in chain[: len(op.parts)]) == op.parts else found
    if found is None:
        return chain[0], 1
    run = chain[: len(found.parts)]
    inputs = tuple(x for step in run for x in step.inputs)
    layers = "+".join(dict.fromkeys(step.layer for step in run if step.layer))
    return Step(found, inputs, found.merged([step.attributes for step in run]), layers), len(run)
