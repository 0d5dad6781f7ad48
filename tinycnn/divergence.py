"""Where numbers stopped being numbers: training runs again from its last checkpoint, and each step is looked at."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .batches import Batches, in_turn, split_batch
from .errors import DataError
from .models import Sequential, load_checkpoint
from .tensorfile import is_finite
from .trace import Trace, trace


def where_it_began(checkpoint: Path, data: Batches, steps: int, last: tuple[int, int]) -> str:
    """Which tensor was the first to hold NaN or infinity, in words; `last` is the epoch and step of the loss that did.

    The same steps give the same bits, so what happened happens again. `steps` is the number in an epoch.
    """
    try:
        model, position = load_checkpoint(checkpoint)
    except DataError:
        return "which tensor went first is not known: there is no checkpoint to look from"
    first, end = position.epoch * steps + position.step, last[0] * steps + last[1] + 1
    with np.errstate(all="ignore"):
        for number, batch in zip(range(first, end), in_turn(data, range(first, end)), strict=True):
            x, y = split_batch(batch)
            before, state = model.get_weights(), [array.copy() for _, array in model.optimizer.named_arrays()]
            figures = model.train_on_batch(x, y)
            if np.isfinite(figures[0]) and not _holds_none(model):
                continue
            model.set_weights(before)
            model.optimizer.iterations -= 1
            for (_, array), old in zip(model.optimizer.named_arrays(), state, strict=False):
                array[...] = old
            with trace() as recorded:
                model.train_on_batch(x, y)
            where = next(_not_finite_in(recorded), "none of the plain ops' tensors, only one inside a fused op")
            return f"the first to hold one was {where}, at step {number % steps + 1} of epoch {number // steps + 1}"
    return "it did not happen again from the last checkpoint"


def _holds_none(model: Sequential) -> bool:
    """Whether a weight, or a part of the optimizer's state, holds NaN or infinity."""
    arrays = [weight.data for weight in model.weights] + [array for _, array in model.optimizer.named_arrays()]
    return not all(map(is_finite, arrays))


def _not_finite_in(recorded: Trace) -> Iterator[str]:
    """What is not finite, in the order in which it came to be: forward, backward, the weights' step."""
    for op in recorded.ops:
        for name, array in op.inputs.items():
            if op.sources.get(name) is None and not is_finite(array):
                yield f"the input {name} of {op.name}"
        if not is_finite(op.output):
            yield f"the output of {op.name}"
    for op in reversed(recorded.ops):
        for name, array in op.gradients_out.items():
            if not is_finite(array):
                yield f"the gradient of {op.sources.get(name) or f'{name} of {op.name}'}"
    for update in recorded.updates:
        for term, value in [*update.terms.items(), ("new value", update.after)]:
            if isinstance(value, np.ndarray) and not is_finite(value):
                yield f"{term} of {update.weight}"
