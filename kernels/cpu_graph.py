"""A CPU's work noted once and then done again: what a GPU calls a graph is here a program of kernels (program.py).

Writing the tape, working out shapes and finding memory take a tenth of a small network's step, on one core while the
others wait; what is done again needs none of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import memory
from .program import is_in
from .recording import Notes, recorded
from .threads import joined

# A function, its arguments, and where among these the batch goes, with the shape it is passed in.
Noted = tuple[Callable[..., Any], list[Any], list[tuple[int, tuple[int, ...]]]]


class Graph:
    """What `work(x, *others)` asks of kernels, for a batch x; a call does the same for other inputs of these shapes.

    Making it does the work once for real, of which `result` is what it gave. `recorded` is False where not all of it
    was noted, as where its arrays are too large to be kept, or where a call takes a part of the batch, whose place in
    another is not known: then there is nothing to call. The others are copied to arrays of its own; the batch, which is
    large, is read where it lies, and the one that was recorded lives as long as the graph where an op that is no
    kernel's has kept it.
    """

    MOST = 2**25  # numbers of a batch, 128 MiB: it may live on, as said above, and is not counted in ROOM
    ROOM = 2**28  # bytes of arrays that a graph may keep: those made for it, not weights or what an optimizer knows

    def __init__(self, work: Callable[..., Any], inputs: Sequence[Any]) -> None:
        x, self._others = memory.ready(inputs[0]), [np.array(array) for array in inputs[1:]]
        with recorded(self.ROOM) as notes:
            self.result = self._outputs = work(x, *self._others)
        arrays = [a for _, arguments in notes for a in arguments if isinstance(a, np.ndarray)]
        filled = any(np.may_share_memory(self.result, a) for a in arrays) and not is_in(self.result, x)
        whole = all(_is_whole(a, x) for a in arrays if is_in(a, x))
        self.recorded = notes.complete and filled and whole and x.dtype == np.float32
        self._calls = _with_places(notes, x) if self.recorded else []

    def __call__(self, x: Any, *others: Any) -> Any:
        """The outputs of the work, which the next call overwrites."""
        for mine, new in zip(self._others, others, strict=True):
            mine[...] = new
        repeat(self._calls, memory.ready(x))
        return self._outputs


def repeat(calls: Sequence[Noted], x: np.ndarray) -> None:
    """Make noted calls for a batch."""
    for function, kept, places in calls:
        arguments = kept
        if places:
            arguments = list(kept)
            for i, shape in places:
                arguments[i] = x.reshape(shape)
        function(*arguments)


def _with_places(notes: Notes, x: np.ndarray) -> list[Noted]:
    """The calls, with places left open where the batch was among their arguments."""
    calls: list[Noted] = []
    for function, arguments in joined(notes, x):
        places = [i for i, a in enumerate(arguments) if is_in(a, x)]
        kept = [None if i in places else a for i, a in enumerate(arguments)]
        calls.append((function, kept, [(i, arguments[i].shape) for i in places]))
    return calls


def _is_whole(array: np.ndarray, x: np.ndarray) -> bool:
    """Whether an array is all of x in x's order, if in another shape."""
    return array.ctypes.data == x.ctypes.data and array.size == x.size and array.flags.carray
