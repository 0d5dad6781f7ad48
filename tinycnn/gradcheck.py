"""Is a gradient right? Compares what `backward` says with what changing the inputs does.

The complex step (Squire and Trapp, 1998) is used where f takes complex numbers: f(x + ih) has the derivative in its
imaginary part, without subtracting nearly equal numbers, so it is exact to rounding. Else central differences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .random import generator
from .tensor import Tensor, TensorLike, no_grad

COMPLEX_STEP = 1e-30  # its square vanishes beside any input: no truncation error is left
DIFFERENCE_STEP = 1e-5  # near the cube root of the rounding error, where rounding and truncation balance
TOLERANCES = {"complex": 1e-12, "difference": 1e-7}


class GradientError(AssertionError):
    """A gradient that is wrong; the message names the op, the input and the worst element."""


@dataclass(frozen=True)
class GradientReport:
    """What a check that passed has seen: the method, and the largest error relative to the largest derivative."""

    method: Literal["complex", "difference"]
    error: float
    elements: int


def gradcheck(
    f: Callable[..., Tensor],
    *inputs: TensorLike,
    method: Literal["auto", "complex", "difference"] = "auto",
    directional: bool = False,
    tolerance: float | None = None,
    seed: int = 0,
) -> GradientReport:
    """Check the gradient of `f` with respect to every element of every input, in float64 on the current backend.

    f takes as many tensors as there are inputs and returns a tensor of any shape (its elements are added up with
    fixed random weights, so that no error can cancel). `directional` compares one derivative along a random direction
    through all inputs instead: two evaluations, for inputs too large to change element by element.
    The error is |backward - measured|, relative to the largest measured derivative of that input;
    `tolerance` is 1e-12 for the complex step and 1e-7 for differences unless given.
    Inputs must stay away from kinks (the 0 of a ReLU, ties in a pool). Raises GradientError.
    """
    arrays = [np.array(x.numpy() if isinstance(x, Tensor) else x, dtype=np.float64) for x in inputs]
    leaves = [Tensor(x, requires_grad=True) for x in arrays]
    y = f(*leaves)
    weights = generator(seed, "gradcheck weights").uniform(0.5, 1.5, y.shape)
    name = y.op.name if y.op else getattr(f, "__name__", "f")
    y.backward(weights)
    analytic = [
        np.zeros_like(x) if t.grad is None else t.backend.to_numpy(t.grad) for t, x in zip(leaves, arrays, strict=True)
    ]

    slope = _Slope(f, arrays, weights, method)
    if directional:
        ways = [generator(seed, "gradcheck direction", i).uniform(-1, 1, x.shape) for i, x in enumerate(arrays)]
        along = sum((g * way).sum() for g, way in zip(analytic, ways, strict=True))
        analytic, measured = [np.asarray(along)], [np.asarray(slope(ways))]
    else:
        measured = [slope.of_each_element(i) for i in range(len(arrays))]

    limit = TOLERANCES[slope.method] if tolerance is None else tolerance
    worst = 0.0
    for i, (got, true) in enumerate(zip(analytic, measured, strict=True)):
        largest = np.abs(true).max(initial=np.finfo(float).tiny)
        error = np.nan_to_num(np.abs(got - true) / largest, nan=np.inf)
        worst = max(worst, error.max(initial=0))
        if worst > limit:
            where = tuple(int(index) for index in np.unravel_index(np.argmax(error), error.shape))
            place = "along a random direction" if directional else f"input {i}, element {where}"
            raise GradientError(
                f"{name}: {place}: backward says {got[where]:.17g}, the {slope.method} step says {true[where]:.17g} "
                f"(relative error {error[where]:.1e}, allowed {limit:.0e})"
            )
    return GradientReport(slope.method, float(worst), sum(x.size for x in measured))


class _Slope:
    """The derivative of sum(weights * f) along a direction, measured by changing the inputs."""

    def __init__(self, f: Callable[..., Tensor], arrays: list[np.ndarray], weights: np.ndarray, method: str) -> None:
        self.f, self.arrays, self.weights = f, arrays, weights
        self.method: Literal["complex", "difference"] = "difference" if method == "difference" else "complex"
        if method == "auto":
            try:
                self([np.zeros_like(x) for x in arrays])
            except (TypeError, NotImplementedError):  # some function in f knows no complex numbers
                self.method = "difference"

    def __call__(self, direction: list[np.ndarray]) -> float:
        if self.method == "complex":
            return self._value([x + 1j * COMPLEX_STEP * d for x, d in self._pairs(direction)]).imag / COMPLEX_STEP
        above = self._value([x + DIFFERENCE_STEP * d for x, d in self._pairs(direction)])
        below = self._value([x - DIFFERENCE_STEP * d for x, d in self._pairs(direction)])
        return (above - below).real / (2 * DIFFERENCE_STEP)

    def of_each_element(self, i: int) -> np.ndarray:
        """The derivative with respect to each element of input i."""
        measured = np.empty_like(self.arrays[i])
        direction = [np.zeros_like(x) for x in self.arrays]
        for element in np.ndindex(measured.shape):
            direction[i][element] = 1
            measured[element] = self(direction)
            direction[i][element] = 0
        return measured

    def _pairs(self, direction: list[np.ndarray]):
        return zip(self.arrays, direction, strict=True)

    def _value(self, arrays: list[np.ndarray]) -> np.complex128:
        with no_grad():
            y = self.f(*(Tensor(x) for x in arrays)).numpy()
        if self.method == "complex" and not np.iscomplexobj(y):
            raise TypeError("f makes complex numbers real, so no complex step can pass; use method='difference'")
        return np.complex128((y * self.weights).sum())
