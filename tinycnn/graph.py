"""A whole training step done again at once: the work on each kind of batch is recorded once, and then repeated.

On a GPU a record is launched as one (kernels/cuda_graph.py), on a CPU kernels run as a program (kernels/cpu_graph.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

from .backend import Backend
from .tensor import Tensor

KEPT = 4  # graphs of one kind of work: each holds all the memory of its batch


class Graphs:
    """What is done with batches, as graphs: one for each kind of batch.

    `work(*inputs)` takes arrays and gives one. The first batch of a kind is worked on as ever, the second is recorded
    as well, the others are worked on by repeating that; unless the work cannot be recorded, as on a GPU plain
    convolutions, whose matrix products are a library's. `state` is what the graphs were recorded for: where it is
    another, they are of no use.
    """

    def __init__(self, home: Backend, work: Callable[..., Any], weights: Sequence[Tensor], state: Any) -> None:
        self.home, self.work, self.weights, self.state = home, work, weights, state
        self.places: list[Any] = []
        self._seen: set[Any] = set()
        self._graphs: dict[Any, Any] = {}  # those that no thread is using
        self._never: set[Any] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model records graphs of its own

    def hold(self, home: Backend, weights: Sequence[Tensor], state: Any) -> bool:
        """Whether what the graphs were recorded for is still so."""
        return (self.home, self.weights, self.state) == (home, weights, state)

    def __call__(self, *inputs: Any) -> Any:
        """What the work gives for these inputs."""
        key = self.home.threads(), *((x.shape, x.dtype) for x in inputs)
        places = self._places()
        if not (len(places) == len(self.places) and all(a is b for a, b in zip(places, self.places, strict=True))):
            self._graphs, self._seen, self._never, self.places = {}, set(), set(), places
        graphs = self._graphs
        graph = graphs.pop(key, None)  # where the work fails, it is not put back
        if graph is None:
            full = len(graphs) == KEPT or inputs[0].size > self.home.graph.MOST
            if key not in self._seen or key in self._never or full:
                self._seen.add(key)
                return self.work(*inputs)
            graph = self.home.graph(self.work, inputs)
            result, graph.result = graph.result.copy(), None  # it lies in the graph's memory
            if not graph.recorded:
                self._never.add(key)
                return result
        else:
            result = graph(*inputs).copy()  # the next call overwrites it
        graphs[key] = graph
        return result

    def _places(self) -> list[Any]:
        """Where weights and their gradients lie, and which of these are wanted."""
        return [part for w in self.weights for part in (w.data, w.grad_buffer, w.requires_grad)]
