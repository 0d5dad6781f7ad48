"""Kernels' calls noted down while they run, so that the same work on the same arrays can be done again at once.

What decides shapes, finds memory and writes the tape takes longer than a small kernel, and the other cores wait for it.
A note holds the arrays themselves: whoever repeats it must see that they still are the right ones (tinycnn/graph.py).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class _Own(threading.local):
    """What a thread notes down, and whether it makes the calls as well."""

    notes: "Notes | None" = None
    makes_calls = True


_own = _Own()


class Notes(list[Call]):
    """Calls in order; not `complete` if something was done between them that would have to be done again as well.

    Arrays made meanwhile live on if a call that is noted has them: with more than `most` bytes of such arrays nothing
    is noted any more.
    """

    def __init__(self, most: float = float("inf")) -> None:
        self.complete, self.left = True, most
        self.new = set[int]()  # where arrays begin that were made meanwhile and that no call has had yet

    def add(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Note a call, while there is room."""
        for array in arguments:
            while isinstance(getattr(array, "base", None), np.ndarray):
                array = array.base
            if isinstance(array, np.ndarray) and array.ctypes.data in self.new:
                self.new.discard(array.ctypes.data)
                self.left -= array.nbytes
        if self.left < 0:
            self.complete = False
            self.clear()
        else:
            self.append((function, arguments))


@contextmanager
def recorded(most: float = float("inf")) -> Iterator[Notes]:
    """A block whose calls, those of this thread, are in the list that it gives: see Notes."""
    before, _own.notes = _own.notes, Notes(most)
    try:
        yield _own.notes
    finally:
        _own.notes = before


@contextmanager
def listed() -> Iterator[Notes]:
    """A block whose calls, those of this thread, are not made, but only put into the list that it gives."""
    with recorded() as notes:
        _own.makes_calls = False
        try:
            yield notes
        finally:
            _own.makes_calls = True


def is_recording() -> bool:
    """Whether this thread's calls are made and noted down here."""
    return _own.notes is not None and _own.makes_calls


def new(array: np.ndarray) -> np.ndarray:
    """Say that an array has just been made, and give it back: it counts once a noted call has it (see Notes)."""
    notes = _own.notes
    if notes is not None:
        notes.new.add(array.ctypes.data)
    return array


def call(function: Callable[..., Any], *arguments: Any) -> None:
    """function(*arguments), noted down. What is done to arrays in another way is not repeated."""
    note(function, *arguments)
    if _own.makes_calls:
        function(*arguments)


def note(function: Callable[..., Any], *arguments: Any) -> None:
    """Note a call of this function without making it: for one that was made in another way."""
    notes = _own.notes
    if notes is not None:
        notes.add(function, arguments)


def unnoted(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """function(*arguments, **options), without a note of the calls that it makes."""
    before, _own.notes = _own.notes, None
    try:
        return function(*arguments, **options)
    finally:
        _own.notes = before


def cannot_repeat() -> None:
    """Say that something is done here that the notes do not tell of."""
    notes = _own.notes
    if notes is not None:
        notes.complete = False
