"""How weights follow their gradients: Adam and SGD, with Keras's names, defaults and arithmetic."""

from collections.abc import Iterator, Sequence
from math import sqrt
from numbers import Real
from typing import Any

import numpy as np

from .errors import DataError, UsageError
from .tensor import Tensor


class Optimizer:
    """`update` moves weights by one step; `state` is what the next step needs beside them."""

    slots: tuple[str, ...]  # names of the arrays kept for each weight

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = _positive(learning_rate, f"{type(self).__name__}: learning_rate")
        self.iterations = 0
        self.state: dict[str, list[Any]] = {}

    def update(self, weights: Sequence[Tensor]) -> None:
        """One step, in place, along the weights' `.grad`. The weights must be the same at each call."""
        if not self.state:
            self._start(weights)
        if any([a.shape for a in arrays] != [w.shape for w in weights] for arrays in self.state.values()):
            raise UsageError(f"{type(self).__name__}: its state belongs to other weights; make a new optimizer")
        self.iterations += 1
        for i, weight in enumerate(weights):
            if weight.grad is not None:
                self._step(weight, *(self.state[slot][i] for slot in self.slots))

    def _start(self, weights: Sequence[Tensor]) -> None:
        self.state = {slot: [np.zeros_like(w.data) for w in weights] for slot in self.slots}

    def _step(self, weight: Tensor, *state: Any) -> None:
        raise NotImplementedError

    def named_arrays(self) -> Iterator[tuple[str, Any]]:
        """Every array of the state, with a name: ("m.0", ...), ("m.1", ...), ..."""
        for slot, arrays in self.state.items():
            for i, array in enumerate(arrays):
                yield f"{slot}.{i}", array

    def restore(self, weights: Sequence[Tensor], iterations: int, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a state whose arrays `named_arrays` gave. Raises DataError where they do not fit the weights."""
        if iterations < 0:
            raise DataError(f"{iterations} iterations")
        self.iterations = iterations
        if iterations:
            self._start(weights)
        mine = dict(self.named_arrays())
        if {name: a.shape for name, a in mine.items()} != {name: a.shape for name, a in arrays.items()}:
            raise DataError("the optimizer's state does not fit the weights")
        for name, array in mine.items():
            array[...] = arrays[name]

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again."""
        return {"learning_rate": self.learning_rate}


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015): momentum, over the root of the mean square of the gradient, both bias-corrected.

    Epsilon is added outside the bias correction, as Keras does ("epsilon hat" of the paper's section 2).
    """

    slots = ("m", "v")

    def __init__(
        self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1, self.beta_2 = _fraction(beta_1, "Adam: beta_1"), _fraction(beta_2, "Adam: beta_2")
        self.epsilon = _positive(epsilon, "Adam: epsilon")

    def _step(self, weight: Tensor, *state: Any) -> None:
        correction = sqrt(1 - self.beta_2**self.iterations) / (1 - self.beta_1**self.iterations)
        rate = self.learning_rate * correction
        weight.backend.adam_update(weight.data, weight.grad, *state, rate, self.beta_1, self.beta_2, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        betas = {"beta_1": self.beta_1, "beta_2": self.beta_2}
        return {**super().get_config(), **betas, "epsilon": self.epsilon}


class SGD(Optimizer):
    """Stochastic gradient descent; with momentum the steps add up, `nesterov` looks one step ahead."""

    slots = ("velocity",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(learning_rate)
        self.momentum, self.nesterov = _fraction(momentum, "SGD: momentum"), bool(nesterov)

    def _step(self, weight: Tensor, *state: Any) -> None:
        (velocity,) = state
        step = weight.grad * -self.learning_rate
        velocity *= self.momentum
        velocity += step
        weight.data += self.momentum * velocity + step if self.nesterov else velocity

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


def _positive(value: float, what: str) -> float:
    if not isinstance(value, Real) or not 0 < value < float("inf"):
        raise UsageError(f"{what} {value!r} is not above 0")
    return float(value)


def _fraction(value: float, what: str) -> float:
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise UsageError(f"{what} {value!r} is not at least 0 and below 1")
    return float(value)


OPTIMIZERS: dict[str, type[Adam] | type[SGD]] = {"adam": Adam, "sgd": SGD}


def get(optimizer: str | Optimizer) -> Optimizer:
    """An optimizer by name, with its defaults, or the optimizer itself."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    name = str(optimizer).lower()
    if name not in OPTIMIZERS:
        raise UsageError(f"optimizer {optimizer!r} is unknown; use one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]()
