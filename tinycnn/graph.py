"""A whole training step as one launch: on a GPU, each kind of batch is recorded once and then replayed."""

from collections.abc import Callable, Sequence
from typing import Any

from .backend import Backend
from .optimizers import Optimizer
from .tensor import Tensor

KEPT = 4  # graphs: each holds all the memory of its step

Step = Callable[..., tuple[Any, ...]]


class StepGraphs:
    """The graphs of a model's training step, one for each kind of batch; on a CPU, none.

    `step(x, labels, move)` is forward, backward and `move`, which takes the weights along their gradients. The first
    batch of a kind is trained on as ever, the second is recorded as well, the others replay; unless the step cannot be
    recorded, as one with plain convolutions, whose matrix products are a library's.
    """

    def __init__(self, home: Backend, plan: Any, step: Step, weights: Sequence[Tensor], optimizer: Optimizer) -> None:
        self.home, self.plan, self.step, self.weights, self.optimizer = home, plan, step, weights, optimizer
        self.config = optimizer.get_config()
        self.places: list[Any] = []
        self._seen: set[Any] = set()
        self._graphs: dict[Any, Any] = {}
        self._never: set[Any] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model records graphs of its own

    def hold(self, home: Backend, plan: Any, weights: Sequence[Tensor], optimizer: Optimizer) -> bool:
        """Whether what the graphs were recorded for is still so; the learning rate may change.

        Of an optimizer that is `get_config()`: what it keeps elsewhere is recorded as it is.
        """
        same = (self.home, self.plan, self.optimizer, self.weights) == (home, plan, optimizer, weights)
        config = optimizer.get_config() | {"learning_rate": self.config["learning_rate"]}
        return same and config == self.config

    def __call__(self, x: Any, labels: Any) -> tuple[Any, ...]:
        """One step; what it returns is overwritten by the next."""
        self.optimizer.begin(self.weights)
        try:
            return self._begun(x, labels)
        except BaseException:
            self.optimizer.iterations -= 1
            raise

    def _begun(self, x: Any, labels: Any) -> tuple[Any, ...]:
        key, places = (x.shape, labels.shape), self._places()  # `begin` may have moved the weights
        if not (len(places) == len(self.places) and all(a is b for a, b in zip(places, self.places, strict=True))):
            self._graphs, self._seen, self._never, self.places = {}, set(), set(), places
        if key in self._graphs:
            return self._graphs[key](x, labels)
        if key not in self._seen or key in self._never or len(self._graphs) == KEPT:
            self._seen.add(key)
            return self.step(x, labels, self.optimizer.move)
        graph = self.home.graph(lambda x, labels: self.step(x, labels, self.optimizer.move), (x, labels))
        if graph.recorded:
            self._graphs[key] = graph
        else:
            self._never.add(key)
        result, graph.result = tuple(array.copy() for array in graph.result), None  # it lies in the graph's memory
        return result

    def _places(self) -> list[Any]:
        return [part for w in self.weights for part in (w.data, w.grad_buffer, w.requires_grad)]
