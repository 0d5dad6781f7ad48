"""Losses with Keras's names: how labels are brought into shape, and the ops that compare them with predictions."""

from typing import Any

import numpy as np

from . import ops
from .errors import DataError, UsageError
from .fused import Step, fuse
from .tensor import Tensor, TensorLike, no_grad


class Loss:
    """The mean over a batch. `from_logits` says that predictions are numbers before the sigmoid or softmax."""

    name: str

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = from_logits

    def labels(self, y_true: Any, outputs: int) -> np.ndarray:
        """Labels as the ops want them: float32 (N, outputs). Raises DataError where they do not fit."""
        raise NotImplementedError

    def steps(self, labels: TensorLike) -> list[Step]:
        """The ops that take predictions to the loss."""
        raise NotImplementedError

    def __call__(self, y_true: Any, y_pred: Any) -> float:
        """The loss of predictions (N, outputs), as a number."""
        with no_grad():
            value = y_pred if isinstance(y_pred, Tensor) else Tensor(np.asarray(y_pred))
            for step in fuse(self.steps(self.labels(y_true, value.shape[-1]))):
                value = step(value)
        return value.item()


class BinaryCrossentropy(Loss):
    """-(y log p + (1 - y) log(1 - p)) for labels 0 and 1, of shape (N,) or as the predictions."""

    name = "binary_crossentropy"

    def labels(self, y_true: Any, outputs: int) -> np.ndarray:
        y = _numbers(y_true, self.name)
        if y.ndim == 1:
            y = y.reshape(-1, 1)  # (N, 1)
        if y.shape[1:] != (outputs,):
            raise DataError(f"{self.name}: labels of shape {y.shape} for a model with {outputs} outputs")
        if y.size and (y.min() < 0 or y.max() > 1):
            raise DataError(f"{self.name}: labels from {y.min():g} to {y.max():g}; they must lie between 0 and 1")
        return y

    def steps(self, labels: TensorLike) -> list[Step]:
        return [*([Step(ops.Sigmoid)] if self.from_logits else []), Step(ops.BinaryCrossEntropy, (labels,))]


class CategoricalCrossentropy(Loss):
    """-log of the probability given to the true class, for one-hot labels (N, CLASSES)."""

    name = "categorical_crossentropy"

    def labels(self, y_true: Any, outputs: int) -> np.ndarray:
        y = _numbers(y_true, self.name)
        if y.ndim != 2 or y.shape[1] != outputs:
            raise DataError(
                f"{self.name}: labels of shape {y.shape} are not one-hot for {outputs} classes (N, {outputs})"
            )
        return y

    def steps(self, labels: TensorLike) -> list[Step]:
        return [*([Step(ops.Softmax)] if self.from_logits else []), Step(ops.CategoricalCrossEntropy, (labels,))]


class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """The same for labels that are class numbers, of shape (N,) or (N, 1)."""

    name = "sparse_categorical_crossentropy"

    def labels(self, y_true: Any, outputs: int) -> np.ndarray:
        y = _numbers(y_true, self.name)
        numbers = y.reshape(-1).astype(int)
        if y.size != len(y) or (y.reshape(-1) != numbers).any():
            raise DataError(f"{self.name}: labels of shape {y.shape} are not one whole number each")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < outputs:
            raise DataError(f"{self.name}: labels {numbers.min()} to {numbers.max()} for classes 0 to {outputs - 1}")
        return np.eye(outputs, dtype=np.float32)[numbers]


def _numbers(y_true: Any, name: str) -> np.ndarray:
    try:
        y = np.asarray(y_true, dtype=np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{name}: labels are no numbers") from None
    if y.ndim == 0:
        raise DataError(f"{name}: labels of shape () are one number; there must be one for each sample")
    if not np.isfinite(y).all():
        raise DataError(f"{name}: labels hold NaN or infinity")
    return y


LOSSES: dict[str, type[Loss]] = {
    loss.name: loss for loss in (BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy)
}


def get(loss: str | Loss) -> Loss:
    """A loss by name, or the loss itself."""
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise UsageError(f"loss {loss!r} is unknown; use one of {', '.join(LOSSES)}")
    return LOSSES[loss]()
