"""The numbers that weights start with, by Keras's names."""

from collections.abc import Callable
from math import prod, sqrt

import numpy as np

from .errors import UsageError

Initializer = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform within sqrt(6 / (fan_in + fan_out)) of 0 (Glorot and Bengio, 2010, equation 16)."""
    limit = sqrt(6 / sum(_fans(shape)))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def he_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform within sqrt(6 / fan_in) of 0: keeps the variance level through ReLUs (He et al., 2015, section 2.2)."""
    limit = sqrt(6 / _fans(shape)[0])
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def he_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal with variance 2 / fan_in, draws beyond two standard deviations drawn again (He et al., 2015)."""
    z = rng.standard_normal(shape)
    while (far := np.abs(z) > 2).any():
        z[far] = rng.standard_normal(far.sum())
    kept_spread = 0.87962566103423978  # of a normal cut off at 2 standard deviations
    return (z * sqrt(2 / _fans(shape)[0]) / kept_spread).astype(np.float32)


def zeros(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Zeros, for biases."""
    return np.zeros(shape, np.float32)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs an output sees, and how many outputs an input reaches: (KH, KW, C, F), (IN, OUT) or (OUT,)."""
    if len(shape) == 1:
        return shape[0], shape[0]
    window = prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


INITIALIZERS: dict[str, Initializer] = {f.__name__: f for f in (glorot_uniform, he_uniform, he_normal, zeros)}


def get(name: str) -> Initializer:
    """The initializer called `name`."""
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise UsageError(f"initializer {name!r} is unknown; use one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name]
