"""Networks and data that several test files train with, small enough for two busy cores."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import threadpoolctl

from tinycnn import backend
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.random import generator

threadpoolctl.threadpool_limits(1, user_api="blas")  # on busy cores, two spinning workers slow a step fiftyfold


def fish() -> Sequential:
    """The network that tells clownfish from angelfish."""
    return Sequential(
        [
            Conv2D(32, (3, 3), input_shape=(64, 64, 3), activation="relu"),
            MaxPooling2D(pool_size=(2, 2)),
            Conv2D(32, (3, 3), activation="relu"),
            MaxPooling2D(pool_size=(2, 2)),
            Flatten(),
            Dense(units=128, activation="relu"),
            Dense(units=1, activation="sigmoid"),
        ]
    )


def tiny(outputs: int = 1, seed: int = 0) -> Sequential:
    """The same kinds of layers on 10x10 pixels: one sigmoid, or a softmax over several classes."""
    return Sequential(
        [
            Conv2D(4, 3, activation="relu", input_shape=(10, 10, 3)),
            MaxPooling2D(2),
            Flatten(),
            Dense(8, activation="relu"),
            Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax"),
        ],
        seed=seed,
    )


def compiled(outputs: int = 1, seed: int = 0, **options) -> Sequential:
    """`tiny`, ready to train and to measure its accuracy."""
    model = tiny(outputs, seed)
    loss = "binary_crossentropy" if outputs == 1 else "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], **options)
    return model


def photos(count: int, size: int = 10, classes: int = 2, key: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise (N, size, size, 3) with a square in the middle, brighter for a higher class (N,)."""
    rng = generator(0, "test photos", key)
    y = rng.permutation(count) % classes
    x = rng.random((count, size, size, 3), np.float32)
    x[:, size // 3 : -size // 3, size // 3 : -size // 3, 0] += 0.3 * y[:, None, None]
    return x, y.astype(np.float32)


def training_hash(threads: int, steps: int, size: int = 32) -> str:
    """SHA-256 of the fish network's weights after some steps of Adam with so many threads, on the numba backend."""
    with using("numba"):
        backend.set_threads(threads)
        model = fish()
        model.compile("adam", "binary_crossentropy")
        for key in range(steps):
            model.train_on_batch(*photos(size, 64, key=key))
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()


def losses_of(train_on_batch, steps: int, size: int, classes: int = 2, label=lambda y: y) -> np.ndarray:
    """The losses of some steps on batches of 32, each other photos."""
    batches = (photos(32, size, classes, key) for key in range(steps))
    return np.array([float(np.ravel(train_on_batch(x, label(y)))[0]) for x, y in batches])


def same_bits(these: list[np.ndarray], those: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(these, those, strict=True))


@contextmanager
def using(name: str) -> Iterator[None]:
    """This backend inside the block, afterwards the one before."""
    before = backend.current().name
    backend.use_backend(name)
    try:
        yield
    finally:
        backend.use_backend(before)
