"""One view of data for fit, evaluate and predict: batches with numbers, whatever the data comes as."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from .backend import current, one_thread
from .errors import DataError, UsageError
from .random import generator

Batch = tuple[np.ndarray, np.ndarray | None]


class Batches(Protocol):
    """An endless stream of numbered batches; `len` of them go over the data once."""

    def __len__(self) -> int: ...

    def batch(self, number: int) -> Any:
        """Batch `number` of the stream: (x, y), or x alone. It must not depend on what was asked for before."""


class ArrayBatches:
    """Batches of arrays: x (N, ...), and y (N, ...) or None; each pass has a shuffled order of its own."""

    def __init__(self, x: Any, y: Any = None, batch_size: int = 32, shuffle: bool = False, seed: int = 0) -> None:
        self.x, self.y = _array("x", x), None if y is None else _array("y", y)
        if self.x.ndim < 2 or len(self.x) == 0:
            raise DataError(f"x of shape {self.x.shape} holds no samples; it must be (samples, ...)")
        if self.y is not None and self.y.shape[:1] != self.x.shape[:1]:
            raise DataError(f"x has {len(self.x)} samples, y has shape {self.y.shape}; they must be as many")
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size} is not at least 1")
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def batch(self, number: int) -> Batch:
        passes, position = divmod(number, len(self))
        rows: Any = slice(position * self.batch_size, (position + 1) * self.batch_size)
        if self.shuffle:
            rows = generator(self.seed, "shuffle", passes).permutation(len(self.x))[rows]
        return self.x[rows], None if self.y is None else self.y[rows]


class SequenceBatches:
    """Batches of an object with `len` and `[i]`, such as a Keras Sequence: each pass in the same order."""

    def __init__(self, sequence: Any) -> None:
        self.sequence = sequence

    def __len__(self) -> int:
        return len(self.sequence)

    def batch(self, number: int) -> Any:
        return self.sequence[number % len(self.sequence)]


class StreamBatches:
    """Batches of a generator: each is taken once, in order, so the number of steps must be said."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream

    def __len__(self) -> int:
        raise UsageError("a generator has no length; say steps_per_epoch, validation_steps or steps")

    def batch(self, number: int) -> Any:
        try:
            return next(self.stream)
        except StopIteration:
            raise DataError(
                f"the generator ended before batch {number + 1}; give fewer steps or an endless one"
            ) from None


def in_turn(data: Batches, numbers: Iterable[int]) -> Iterator[Any]:
    """These batches, one after the other; those that take work are made while the one before is used.

    That takes a thread of its own, for data that says `prepares_ahead`: a user's generator stays in the caller's.
    """
    if not getattr(data, "prepares_ahead", False) or current().asynchronous:  # a GPU works while Python goes on
        yield from (data.batch(number) for number in numbers)
        return
    with ThreadPoolExecutor(1, "tinycnn-batches") as thread:
        coming = None
        for number in numbers:
            asked, coming = coming, thread.submit(_prepare, data, number)
            if asked:
                yield asked.result()
        if coming:
            yield coming.result()


def _prepare(data: Batches, number: int) -> Any:
    with one_thread():
        return data.batch(number)


def as_batches(x: Any, y: Any = None, batch_size: int = 32, shuffle: bool = False, seed: int = 0) -> Batches:
    """Arrays, iterators of preprocessing.image, sequences or generators as numbered batches."""
    if hasattr(x, "batch") and hasattr(x, "__len__"):
        return x
    if isinstance(x, np.ndarray | list | tuple) or hasattr(x, "__array__"):
        return ArrayBatches(x, y, batch_size, shuffle, seed)
    if hasattr(x, "__len__") and hasattr(x, "__getitem__"):
        return SequenceBatches(x)
    if hasattr(x, "__next__") or hasattr(x, "__iter__"):
        return StreamBatches(iter(x))
    raise DataError(f"data of type {type(x).__name__} is no array, image iterator, sequence or generator")


def batches_of(data: Batches, steps: int | None) -> int:
    """How many batches to take: `steps`, or all of one pass. Raises where there is none."""
    count = len(data) if steps is None else steps
    if count < 1:
        raise DataError(f"no batches: {'the data is empty' if steps is None else f'{steps} steps'}")
    return count


def _array(name: str, data: Any) -> np.ndarray:
    try:
        return np.asarray(data)
    except ValueError:  # rows of different lengths
        raise DataError(f"{name} is no array: its parts have different shapes") from None


def split_batch(batch: Any) -> Batch:
    """(x, y) of what a stream gave; y is None where it gave x alone."""
    x, y = (*batch, None)[:2] if isinstance(batch, tuple | list) else (batch, None)
    x = x if current().holds(x) else np.asarray(x)
    return x, None if y is None else np.asarray(y)


def validation_split(x: Any, y: Any, share: float) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The first samples for training, the last `share` of them for validation, as Keras does."""
    if not 0 < share < 1:
        raise UsageError(f"validation_split {share} is not above 0 and below 1")
    x, y = np.asarray(x), np.asarray(y)
    cut = int(len(x) * (1 - share))
    if not 0 < cut < len(x):
        raise DataError(f"validation_split {share} of {len(x)} samples leaves one part empty")
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])
