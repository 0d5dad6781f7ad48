"""Ops that do the work of several in one go, each with `plain`: its meaning as a composition of those it replaces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from . import ops
from .backend import current
from .tensor import Op, Tensor, TensorLike


@dataclass(frozen=True)
class Step:
    """One op of a chain: it takes the chain's value so far, then `inputs`, and `attributes`."""

    op: type[Op]
    inputs: tuple[TensorLike | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: TensorLike) -> Tensor:
        return self.op.apply(x, *self.inputs, **self.attributes)


class FusedOp(Op):
    """An op that stands for the chain `parts`; its inputs are theirs, in order.

    Where the backend has no kernel called `kernel`, `plain` runs instead.
    """

    parts: ClassVar[tuple[type[Op], ...]]
    kernel: ClassVar[str | None] = None

    @classmethod
    def plain(cls, *inputs: Any, **attributes: Any) -> Tensor:
        """The same value from the ops that this one replaces."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: TensorLike | None, **attributes: Any) -> Tensor:
        home = next((x.backend for x in inputs if isinstance(x, Tensor)), None) or current()
        types = [x.dtype for x in inputs if isinstance(x, Tensor | np.ndarray)]
        if cls.kernel and not home.for_dtype(np.result_type(*types)).has(cls.kernel):
            return cls.plain(*inputs, **attributes)
        return super().apply(*inputs, **attributes)


class SigmoidBinaryCrossEntropy(FusedOp):
    """Mean binary cross-entropy of labels y and probabilities sigmoid(z), from the logits z: exact where sigmoid(z)
    rounds to 0 or 1, and the gradient is simply (sigmoid(z) - y) / size."""

    parts = (ops.Sigmoid, ops.BinaryCrossEntropy)

    @classmethod
    def plain(cls, z, y):
        return ops.binary_cross_entropy(ops.sigmoid(z), y)

    def forward(self, z, y):
        ops._check(z.shape == y.shape, z, y, "of one shape")
        self.z, self.y = z, y
        positive = z.real > 0
        return (np.where(positive, z, 0) - z * y + np.log1p(np.exp(np.where(positive, -z, z)))).mean()

    def backward(self, gy):
        gz = gy * (ops.logistic(self.z) - self.y) / self.y.size if self.needs[0] else None
        gtarget = -gy * self.z / self.y.size if self.needs[1] else None
        return gz, gtarget


class SoftmaxCategoricalCrossEntropy(FusedOp):
    """Mean categorical cross-entropy of one-hot labels y and probabilities softmax(z), from the logits z (N, CLASSES).

    The gradient is (softmax(z) * sum(y) - y) / N, where a one-hot row has sum(y) = 1.
    """

    parts = (ops.Softmax, ops.CategoricalCrossEntropy)

    @classmethod
    def plain(cls, z, y):
        return ops.categorical_cross_entropy(ops.softmax(z), y)

    def forward(self, z, y):
        ops._check(z.shape == y.shape and z.ndim == 2, z, y, "both (N, CLASSES)")
        top = z.real.max(axis=-1, keepdims=True)
        self.y = y
        self.log_p = z - top - np.log(np.exp(z - top).sum(axis=-1, keepdims=True))
        return -(y * self.log_p).sum() / len(z)

    def backward(self, gy):
        gz = gtarget = None
        if self.needs[0]:
            gz = gy * (np.exp(self.log_p) * self.y.sum(axis=-1, keepdims=True) - self.y) / len(self.y)
        if self.needs[1]:
            gtarget = -gy * self.log_p / len(self.y)
        return gz, gtarget


FUSIONS: tuple[type[FusedOp], ...] = (SigmoidBinaryCrossEntropy, SoftmaxCategoricalCrossEntropy)


def fuse(chain: Sequence[Step]) -> list[Step]:
    """The same chain, with each run of steps that a fused op stands for replaced by it."""
    fused: list[Step] = []
    start = 0
    while start < len(chain):
        step, used = _longest_fusion(chain[start:])
        fused.append(step)
        start += used
    return fused


def _longest_fusion(chain: Sequence[Step]) -> tuple[Step, int]:
    """The fused step that replaces most steps at the head of the chain (else the head itself), and how many."""
    for op in sorted(FUSIONS, key=lambda op: -len(op.parts)):
        run = chain[: len(op.parts)]
        if tuple(step.op for step in run) == op.parts:
            inputs = tuple(x for step in run for x in step.inputs)
            attributes = {name: value for step in run for name, value in step.attributes.items()}
            return Step(op, inputs, attributes), len(run)
    return chain[0], 1
