"""The ops that a model runs, in order: fused once, and again only when the model has changed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import attrgetter, eq, is_
from typing import TYPE_CHECKING, Any

from .backend import Backend, current
from .fused import FusedOp, Step, fuse
from .ops import Conv2D, Dense, MatMul
from .tensor import Tensor, no_grad

if TYPE_CHECKING:
    from .models import Sequential

WEIGHTS = attrgetter("weights")
_LABELS: Any = object()  # stands for the labels of a batch in a plan


class Plan:
    """The ops of a model up to its predictions, and up to its loss, where the last ones may be fused with the loss.

    `to_loss[last]` is the first op that goes past the predictions: `rest` takes its input to the predictions. Where a
    sigmoid and the loss are fused, that op is both of them, and `rest` the sigmoid.
    """

    def __init__(self, model: "Sequential") -> None:
        self.loss, self.fuse, self.backend = model.loss, model.fuse, model.backend
        self.loss_attributes = dict(vars(model.loss)) if model.loss else {}
        self.layers, self.attributes = list(model.layers), [dict(vars(layer)) for layer in model.layers]
        self.weights = [dict(layer.weights) for layer in model.layers]
        home = model.backend or current()
        own = [step for layer in model.layers for step in layer.named_steps()]
        measured = model.loss.steps(_LABELS) if model.loss else []
        every = own + [replace(step, layer="loss") for step in measured]
        self.outputs = model.output_shape[-1] if own else 0
        self.prepared: set[str] = set()  # kinds of work
        self.to_predictions = fuse(own) if model.fuse else own
        self.to_loss = fuse(every) if model.fuse else every
        steps = self.to_predictions + self.to_loss
        self.tensors = list({id(x): x for step in steps for x in step.inputs if isinstance(x, Tensor)}.values())
        self.library_products = any(_multiplies(step, home) for step in steps)
        ours = all(step.op.__module__.startswith(f"{__package__}.") for step in steps)
        self.kernels_alone = ours and not self.library_products  # nothing that asks for threads, or for `no_grad`
        ends = list(accumulate(len(s.op.parts) if issubclass(s.op, FusedOp) else 1 for s in self.to_loss))
        self.last = sum(end <= len(own) for end in ends)
        self.rest = own[ends[self.last - 1] if self.last else 0 :]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a model makes a plan of its own

    def predict(self, x: Tensor) -> Tensor:
        """The predictions for a batch."""
        return _through(self.to_predictions, x)

    def measure(self, value: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and what the first op that goes past the predictions was given."""
        before = value
        for i, step in enumerate(self.to_loss):
            before = value if i == self.last else before
            inputs = (labels if x is _LABELS else x for x in step.inputs)
            value = step.apply(value, tuple(inputs))
        return value, before

    def finish(self, before: Tensor) -> Tensor:
        """The predictions, from what `measure` gave beside the loss; not to be differentiated."""
        with no_grad():
            return _through(self.rest, before)

    def prepare(self, name: str, home: Backend, work: Callable[[], Any]) -> None:
        """Compile what the work called `name` takes, before it is done for the first time.

        That does the work once more, but for its kernels: not where ops of others might notice, or NumPy multiplies
        matrices.
        """
        if name not in self.prepared:
            self.prepared.add(name)
            if self.kernels_alone and home.has("compile_ahead"):
                home.compile_ahead(work)

    def holds(self, model: "Sequential") -> bool:
        """Whether all that the plan was made from is as it was: users may change a layer, its weights, or the loss."""
        return (
            model.loss is self.loss
            and model.fuse == self.fuse
            and model.backend is self.backend
            and (self.loss is None or vars(self.loss) == self.loss_attributes)
            and len(model.layers) == len(self.layers)
            and all(map(is_, model.layers, self.layers))
            and all(map(eq, map(vars, self.layers), self.attributes))
            and all(map(eq, map(WEIGHTS, self.layers), self.weights))
        )


def _multiplies(step: Step, home: Backend) -> bool:
    """Whether an op may use NumPy's matrix products."""
    if not issubclass(step.op, FusedOp):
        return step.op in (Conv2D, Dense, MatMul) or not step.op.__module__.startswith(f"{__package__}.")
    with_kernel = step.op.has_kernel(home, step.inputs, step.attributes)
    return not with_kernel and not {Conv2D, Dense, MatMul}.isdisjoint(step.op.parts)


def _through(steps: Sequence[Step], value: Tensor) -> Tensor:
    for step in steps:
        value = step(value)
    return value
