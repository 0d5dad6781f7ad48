"""A whole training step as one launch: on a GPU, the work on each kind of batch is recorded once and then replayed."""

from collections.abc import Callable, Sequence
from typing import Any

from .backend import Backend
from .tensor import Tensor

KEPT = 4  # graphs of one kind of work: each holds all the memory of its batch
MOST = 2**22  # numbers of a batch: with more, the GPU is busy for longer than launching takes


class Graphs:
    """What is done with batches, as graphs: one for each kind of batch.

    `work(*inputs)` takes arrays and gives one. The first batch of a kind is worked on as ever, the second is recorded
    as well, the others replay; unless the work cannot be recorded, as with plain convolutions, whose matrix products
    are a library's. `state` is what the graphs were recorded for: where it is another, they are of no use.
    """

    def __init__(self, home: Backend, work: Callable[..., Any], weights: Sequence[Tensor], state: Any) -> None:
        self.home, self.work, self.weights, self.state = home, work, weights, state
        self.places: list[Any] = []
        self._seen: set[Any] = set()
        self._graphs: dict[Any, Any] = {}
        self._never: set[Any] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model records graphs of its own

    def hold(self, home: Backend, weights: Sequence[Tensor], state: Any) -> bool:
        """Whether what the graphs were recorded for is still so."""
        return (self.home, self.weights, self.state) == (home, weights, state)

    def __call__(self, *inputs: Any) -> Any:
        """What the work gives for these inputs."""
        key, places = tuple(x.shape for x in inputs), self._places()
        if not (len(places) == len(self.places) and all(a is b for a, b in zip(places, self.places, strict=True))):
            self._graphs, self._seen, self._never, self.places = {}, set(), set(), places
        if key in self._graphs:
            return self._graphs[key](*inputs).copy()  # the next call overwrites it
        full = len(self._graphs) == KEPT or inputs[0].size > MOST
        if key not in self._seen or key in self._never or full:
            self._seen.add(key)
            return self.work(*inputs)
        graph = self.home.graph(self.work, inputs)
        if graph.recorded:
            self._graphs[key] = graph
        else:
            self._never.add(key)
        result, graph.result = graph.result.copy(), None  # it lies in the graph's memory
        return result

    def _places(self) -> list[Any]:
        return [part for w in self.weights for part in (w.data, w.grad_buffer, w.requires_grad)]
