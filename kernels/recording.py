"""Kernels' calls noted down while they run, so that the same work on the same arrays can be done again at once.

What decides shapes, finds memory and writes the tape takes longer than a small kernel, and the other cores wait for it.
A note holds the arrays themselves: whoever replays it must see that they still are the right ones (tinycnn/replay.py).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...]]

_own = threading.local()


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """A block whose calls, those of this thread, are in the list that it gives."""
    before, _own.calls = getattr(_own, "calls", None), []
    try:
        yield _own.calls
    finally:
        _own.calls = before


@contextmanager
def listed() -> Iterator[list[Call]]:
    """A block whose calls, those of this thread, are not made, but only put into the list that it gives."""
    with recorded() as calls:
        _own.makes_calls = False
        try:
            yield calls
        finally:
            _own.makes_calls = True


def is_recording() -> bool:
    """Whether this thread's calls are noted down here."""
    return getattr(_own, "calls", None) is not None


def call(function: Callable[..., Any], *arguments: Any) -> None:
    """function(*arguments), noted down. What kernels do to arrays in another way is not replayed."""
    calls = getattr(_own, "calls", None)
    if calls is not None:
        calls.append((function, arguments))
    if getattr(_own, "makes_calls", True):
        function(*arguments)
