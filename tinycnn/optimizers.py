"""How weights follow their gradients: Adam and SGD, with Keras's names, defaults and arithmetic."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import accumulate
from math import sqrt
from numbers import Real
from operator import setitem
from typing import Any

import numpy as np

from .backend import Backend
from .errors import DataError, UsageError
from .kernels import recording
from .tensor import Tensor, watcher

CACHE_LINE = 16  # numbers of float32


class Optimizer:
    """`update` moves weights by one step; `state` is what the next step needs beside them.

    Weights, gradients and state lie in one array each, so that a step is one pass over memory: at the first update
    the weights' arrays become views of it, and from then on `backward` writes their gradients into views as well.
    """

    slots: tuple[str, ...]  # names of the arrays kept for each weight

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = _positive(learning_rate, f"{type(self).__name__}: learning_rate")
        self.iterations = 0
        self.state: dict[str, list[Any]] = {}  # for each slot, a view for each weight
        self._flat: dict[str, Any] = {}
        self._views: dict[str, list[Any]] = {"weights": [], "gradients": []}
        self._rate: Any = None  # of the step that has begun

    def update(self, weights: Sequence[Tensor]) -> None:
        """One step, in place, along the weights' `.grad`. The weights must be the same at each call."""
        self.begin(weights)
        self.move(weights)

    def begin(self, weights: Sequence[Tensor]) -> None:
        """The part of a step that is another one each time, so that `move` can be done again from a record of it."""
        views = self._views["weights"]
        if len(views) != len(weights) or any(w.data is not view for w, view in zip(weights, views, strict=True)):
            self._take(weights)
        self.iterations += 1
        if weights:
            self._rate = weights[0].backend.number(self._next_rate(), self._rate, weights[0].dtype)

    def move(self, weights: Sequence[Tensor]) -> None:
        """Move the weights along their `.grad`, by what `begin` made ready."""
        somebody = watcher()
        with somebody.moves(self, weights) if somebody is not None else nullcontext():
            self._move(weights)

    def _move(self, weights: Sequence[Tensor]) -> None:
        if not self.is_ours():
            recording.cannot_repeat()
        buffers = self._views["gradients"]
        for weight, buffer in zip(weights, buffers, strict=True):
            if weight.grad is not None and weight.grad is not buffer:
                recording.call(setitem, buffer, Ellipsis, weight.grad)
        for span in self._spans([weight.requires_grad and weight.grad is not None for weight in weights]):
            self._step(weights[0].backend, *(self._flat[name][span] for name in ("weights", "gradients", *self.slots)))

    def is_ours(self) -> bool:
        """Whether a step is known to be one pass of a kernel, which may be done again from a record of it."""
        return type(self) in OPTIMIZERS.values()

    def _take(self, weights: Sequence[Tensor]) -> None:
        """Move weights and their gradients into arrays of their own, and make the state unless there is one."""
        shapes = [w.shape for w in weights]
        if any([a.shape for a in arrays] != shapes for arrays in self.state.values()):
            raise UsageError(f"{type(self).__name__}: its state belongs to other weights; make a new optimizer")
        if len({w.dtype for w in weights}) > 1:
            raise UsageError(f"{type(self).__name__}: weights of several number types; make them all float32")
        for name in ("weights", "gradients", *self.slots):
            self._flat[name], self._views[name] = _flat_array(weights)
        for slot, arrays in self.state.items():
            for view, array in zip(self._views[slot], arrays, strict=True):
                view[...] = array
        self.state = {slot: self._views[slot] for slot in self.slots}
        self._rate = None  # it may be of another backend or type
        for weight, view, buffer in zip(weights, self._views["weights"], self._views["gradients"], strict=True):
            view[...] = weight.data
            weight.data, weight.grad_buffer = view, buffer

    def _spans(self, wanted: Sequence[bool]) -> Iterator[slice]:
        """The parts of the flat arrays that hold the wanted weights, neighbours as one."""
        sizes = [_room(view.size) for view in self._views["weights"]]
        start = end = 0
        for want, size in zip(wanted, sizes, strict=True):
            if not want:
                if end > start:
                    yield slice(start, end)
                start = end + size
            end += size
        if end > start:
            yield slice(start, end)

    def _next_rate(self) -> float:
        """The factor of this step."""
        return self.learning_rate

    def _step(self, backend: Backend, w: Any, g: Any, *state: Any) -> None:
        """One step for flat arrays of weights, gradients and state, in place."""
        raise NotImplementedError

    def terms(self, g: np.ndarray, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """What the last step of a weight was made of: `rate`, `step` (what was taken off the weight) and the like.

        For those who look at a step (see trace.py): `g` is the weight's gradient, `state` its slots after the step.
        """
        return {"rate": self._next_rate()}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_flat": {}, "_views": {"weights": [], "gradients": []}, "_rate": None}

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
            self._take(weights)
        mine = dict(self.named_arrays())
        if {name: a.shape for name, a in mine.items()} != {name: a.shape for name, a in arrays.items()}:
            raise DataError("the optimizer's state does not fit the weights")
        for name, array in mine.items():
            array[...] = weights[0].backend.asarray(arrays[name])

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

    def _next_rate(self) -> float:
        correction = sqrt(1 - self.beta_2**self.iterations) / (1 - self.beta_1**self.iterations)
        return self.learning_rate * correction

    def terms(self, g: np.ndarray, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """m_hat and v_hat (bias-corrected), epsilon_hat, rate, and step = rate * m / (sqrt(v) + epsilon), which is
        learning_rate * m_hat / (sqrt(v_hat) + epsilon_hat)."""
        m, v, number = state["m"], state["v"], g.dtype.type
        correction_1, correction_2 = 1 - self.beta_1**self.iterations, 1 - self.beta_2**self.iterations
        return {
            "m_hat": m / number(correction_1),
            "v_hat": v / number(correction_2),
            "epsilon_hat": self.epsilon / sqrt(correction_2),
            "rate": self._next_rate(),
            "step": m * number(self._next_rate()) / (np.sqrt(v) + number(self.epsilon)),
        }

    def _step(self, backend: Backend, w: Any, g: Any, *state: Any) -> None:
        backend.adam_update(w, g, *state, self._rate, self.beta_1, self.beta_2, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        betas = {"beta_1": self.beta_1, "beta_2": self.beta_2}
        return {**super().get_config(), **betas, "epsilon": self.epsilon}


class SGD(Optimizer):
    """Stochastic gradient descent; with momentum the steps add up, `nesterov` looks one step ahead."""

    slots = ("velocity",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(learning_rate)
        self.momentum, self.nesterov = _fraction(momentum, "SGD: momentum"), bool(nesterov)

    def terms(self, g: np.ndarray, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """rate, and step: the velocity with its sign changed, or with `nesterov` what one more of it would make."""
        velocity, number = state["velocity"], g.dtype.type
        ahead = number(self.momentum) * velocity - number(self._next_rate()) * g
        return {"rate": self._next_rate(), "step": -(ahead if self.nesterov else velocity)}

    def _step(self, backend: Backend, w: Any, g: Any, *state: Any) -> None:
        backend.sgd_update(w, g, *state, self._rate, self.momentum, self.nesterov)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


def _room(size: int) -> int:
    """Numbers that a weight takes in a flat array: each begins at a cache line, which kernels read fastest."""
    return -(-size // CACHE_LINE) * CACHE_LINE


def _flat_array(weights: Sequence[Tensor]) -> tuple[Any, list[Any]]:
    """An array of zeros with room for all weights, and a view for each."""
    ends = list(accumulate(_room(w.data.size) for w in weights))
    flat = weights[0].backend.zeros((ends[-1],), weights[0].dtype)
    starts = [0, *ends[:-1]]
    return flat, [flat[i : i + w.data.size].reshape(w.shape) for i, w in zip(starts, weights, strict=True)]


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
