"""A whole training step done again at once: the work on each kind of batch is recorded once, and then repeated.

On a GPU a record is launched as one (kernels/cuda_graph.py), on a CPU kernels run as a program (kernels/cpu_graph.py).
"""

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

from .backend import Backend
from .tensor import Tensor

KEPT = 4  # graphs of one kind of work: each holds all the memory of its batch


class Graphs:
    """What is done with batches, as graphs: one for each kind of batch, those that were used last.

    The first batch of a kind is worked on as ever, the second is recorded as well, the others are worked on by
    repeating that; unless the work cannot be recorded, as on a GPU plain convolutions, whose matrix products are a
    library's. `state` is what the graphs were recorded for, and `tensors` what the work takes beside a batch: where
    the state is another, or the tensors' arrays are, the graphs are of no use.
    """

    def __init__(self, home: Backend, tensors: Sequence[Tensor], state: Any) -> None:
        self.home, self.tensors, self.state = home, tensors, state
        self.places: list[Any] = []
        self._seen: set[Any] = set()
        self._graphs: dict[Any, Any] = {}  # those that no thread is using
        self._used: set[Any] = set()  # the others
        self._never: set[Any] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model records graphs of its own

    def hold(self, home: Backend, state: Any) -> bool:
        """Whether what the graphs were recorded for is still so."""
        return (self.home, self.state) == (home, state)

    def __call__(self, work: Callable[..., Any], *inputs: Any) -> Any:
        """work(*inputs), which takes arrays and gives one."""
        key = self.home.threads(), *((x.shape, x.dtype) for x in inputs)
        places = self._places()
        if not (len(places) == len(self.places) and all(map(is_, places, self.places))):
            self._graphs, self._seen, self._never, self.places = {}, set(), set(), places
        unknown = key not in self._seen or key in self._never or inputs[0].size > self.home.graph.MOST
        if unknown or key in self._used:
            self._seen.add(key)
            return work(*inputs)
        graphs = self._graphs
        self._used.add(key)
        try:
            graph = graphs.pop(key, None)  # where the work fails, it is not put back
            if graph is not None:
                result = graph(*inputs).copy()  # the next call overwrites it
            else:
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

    def _places(self) -> list[Any]:
        """Where tensors and their gradients lie, and which of these are wanted."""
        return [part for x in self.tensors for part in (x.data, x.grad_buffer, x.requires_grad)]
