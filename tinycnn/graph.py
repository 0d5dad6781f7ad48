"""A whole training step done again at once: the work on each kind of batch is recorded once, and then repeated.

On a GPU a record is launched as one (kernels/cuda_graph.py), on a CPU kernels run as a program (kernels/cpu_graph.py).
"""

from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from typing import Any

from .backend import Backend
from .tensor import Tensor

KIND = attrgetter("shape", "dtype")
DATA, GRADIENT, WANTED = map(attrgetter, ("data", "grad_buffer", "requires_grad"))
KEPT = 4  # graphs of one kind of work: each holds all the memory of its batch


class Graphs:
    """What is done with batches, as graphs: one for each kind of batch, those that were used last.

    The first batch of a kind is worked on as ever, the second is recorded as well, the others are worked on by
    repeating that; unless the work cannot be recorded, as on a GPU plain convolutions, whose matrix products are a
    library's. `state` is what the graphs were recorded for, and `tensors` what the work takes beside a batch: where
    the state is another, or the tensors' arrays are, the graphs are of no use; nor, where `gradients` matter to the
    work, where the arrays of these are others, or other gradients are wanted.
    """

    def __init__(self, home: Backend, tensors: Sequence[Tensor], state: Any, gradients: bool) -> None:
        self.home, self.tensors, self.state = home, tensors, state
        self._parts = (DATA, GRADIENT, WANTED) if gradients else (DATA,)
        self._used: set[Any] = set()  # kinds of batches whose graph a thread is using
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model records graphs of its own

    def hold(self, home: Backend, state: Any) -> bool:
        """Whether what the graphs were recorded for is still so."""
        return home is self.home and state == self.state

    def again(self, *inputs: Any) -> Any:
        """What the work gives for these inputs, from a graph of it; None where there is none to use."""
        for part, places in self._places:
            if not all(map(is_, map(part, self.tensors), places)):
                self._forget()
                break
        key, graphs = self._key(inputs), self._graphs
        graph = graphs.pop(key, None)  # where the work fails, it is not put back
        if graph is None:
            return None
        self._used.add(key)
        try:
            result = graph(*inputs).copy()  # the next call overwrites it
        finally:
            self._used.discard(key)
        graphs[key] = graph
        return result

    def __call__(self, work: Callable[..., Any], *inputs: Any) -> Any:
        """work(*inputs), which takes arrays and gives one."""
        result = self.again(*inputs)
        if result is not None:
            return result
        key, graphs = self._key(inputs), self._graphs
        unknown = key not in self._seen or key in self._never or inputs[0].size > self.home.graph.MOST
        if unknown or key in self._used:
            self._seen.add(key)
            return work(*inputs)
        self._used.add(key)
        try:
            for oldest in list(graphs)[: max(0, len(graphs) + 1 - KEPT)]:
                graphs.pop(oldest, None)  # its memory may be what is missing for this one
            graph = self.home.graph(work, inputs)
            result, graph.result = graph.result.copy(), None  # it lies in the graph's memory
        finally:
            self._used.discard(key)
        if graph.recorded:
            graphs[key] = graph
        else:
            self._never.add(key)
        return result

    def _key(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The kind of batch."""
        return self.home.threads(), *map(KIND, inputs)

    def _forget(self) -> None:
        """Begin anew, for where the tensors lie now. Other threads may look at any moment.

        Read first and set last, so that no graph can stand beside places that were read after it was recorded.
        """
        places = [(part, list(map(part, self.tensors))) for part in self._parts]
        self._seen: set[Any] = set()
        self._graphs: dict[Any, Any] = {}  # those that no thread is using
        self._never: set[Any] = set()
        self._places = places
