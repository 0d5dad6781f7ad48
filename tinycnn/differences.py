"""What the loss does when one weight is moved a little: for every weight of a model, in float64, to check gradients.

A central difference takes two passes a weight, which for a whole network would take hours. Each is a true one all
the same, but done from where it begins to differ: one tap of a filter changes one map, which goes alone through
pooling and ReLU and reaches the next weighted layer as a change of its sums. A dense unit sees only that its sum
moves, whichever of its weights did it, so that two passes serve them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import backend, fused, ops
from .fused import Step
from .tensor import Tensor, no_grad

H = 1e-6  # how far a weight is moved; a dense unit's sum
CHUNK = 2**22  # numbers that one array of perturbed samples may hold
MOST = 6 * 10**9  # multiply-adds for one layer; where all its taps would take more, evenly spaced ones are done


@dataclass(frozen=True)
class Differences:
    """Central differences of the loss, of one op with weights.

    For a convolution `kernel` has the weight's shape, NaN where it was not done. For a dense layer `slope` (OUT,) is
    the difference for each unit's sum moved by H: that for the weight from input i is x[i] times it, since moving
    this weight by H / x[i] does the same. `bias` is (OUT,) or (F,).
    """

    kernel: np.ndarray | None
    slope: np.ndarray | None
    bias: np.ndarray


def differences(steps: Sequence[Step], x: np.ndarray, labels: np.ndarray) -> list[Differences | None]:
    """For each step (None for those without weights): steps take x (1, ...) to predictions, the last being sigmoid or
    softmax, whose loss is the cross-entropy."""
    home = backend.get("numpy")
    steps = [_in_float64(step, home) for step in steps]
    with no_grad():
        values = [Tensor(np.asarray(x, np.float64), backend=home)]
        for step in steps:
            values.append(step(values[-1]))
        network = _Network(steps, [v.data for v in values], np.asarray(labels, np.float64))
        return [network.differences(i) for i in range(len(steps))]


class _Network:
    """Steps in float64 with the values in front of each, and after the last."""

    def __init__(self, steps: list[Step], values: list[np.ndarray], labels: np.ndarray) -> None:
        self.steps, self.values, self.labels = steps, values, labels

    def differences(self, i: int) -> Differences | None:
        op = self.steps[i].op
        return self._of_dense(i) if op is ops.Dense else self._of_convolution(i) if op is ops.Conv2D else None

    def _of_dense(self, i: int) -> Differences:
        z = self.values[i + 1]
        units = z.shape[1]
        found = [
            self._central(self._losses(i + 1, z + moved), self._losses(i + 1, z - moved))
            for moved in np.array_split(np.eye(units) * H, -(-units * units // CHUNK))
        ]
        return Differences(None, np.concatenate(found), np.concatenate(found))

    def _of_convolution(self, i: int) -> Differences:
        x, w, z = self.values[i], _kernel(self.steps[i]), self.values[i + 1]
        win = _windows(self.steps[i], x)
        cols = backend.get("numpy").im2col(x, win)[0]  # (OH, OW, KH*KW*C)
        taps, filters = cols.shape[2], w.shape[3]
        kernel = np.full((taps, filters), np.nan)
        bias = np.zeros(filters)
        chosen = self._affordable(i, taps, filters)
        for f in range(filters):
            mine = chosen[chosen[:, 1] == f, 0]
            changes = np.concatenate([np.moveaxis(cols[:, :, mine], 2, 0), np.ones((1, *z.shape[1:3]))])  # (N, OH, OW)
            found = self._of_channel(i + 1, f, changes[..., None] * H)
            kernel[mine, f], bias[f] = found[:-1], found[-1]
        return Differences(kernel.reshape(w.shape), None, bias)

    def _of_channel(self, i: int, f: int, changes: np.ndarray) -> np.ndarray:
        """Differences for changes (N, H, W, 1) of channel f of value i."""
        found = []
        room = max(1, CHUNK // max(v[0].size for v in self.values[i:]))
        for part in np.array_split(changes, -(-len(changes) // room)):
            both = np.concatenate([part, -part])
            losses = self._losses_of_channel(i, f, self.values[i][..., f : f + 1] + both)
            found.append(self._central(*np.split(losses, 2)))
        return np.concatenate(found)

    def _losses_of_channel(self, i: int, f: int, channel: np.ndarray) -> np.ndarray:
        """The losses where channel f of value i is one of these (N, H, W, 1)."""
        while i < len(self.steps) and self.steps[i].op in (ops.ReLU, ops.MaxPool2D, ops.Sigmoid):
            channel = self.steps[i](Tensor(channel, backend=backend.get("numpy"))).data
            i += 1
        step, before = self.steps[i], self.values[i]
        change = channel - before[..., f : f + 1]  # (N, H, W, 1)
        if step.op is ops.Conv2D:  # its sums change by what the one channel's filters make of the change
            one = Step(ops.Conv2D, (_kernel(step)[:, :, f : f + 1],), step.attributes)
            return self._losses(i + 1, self.values[i + 1] + one(Tensor(change, backend=backend.get("numpy"))).data)
        if step.op is ops.Flatten and i + 1 < len(self.steps) and self.steps[i + 1].op is ops.Dense:
            w = _kernel(self.steps[i + 1]).reshape(*before.shape[1:], -1)[:, :, f]  # (H, W, OUT)
            moved = change.reshape(len(change), -1) @ w.reshape(-1, w.shape[2])  # (N, OUT)
            return self._losses(i + 2, self.values[i + 2] + moved)
        whole = np.repeat(before, len(channel), axis=0)
        whole[..., f] = channel[..., 0]
        return self._losses(i, whole)

    def _losses(self, i: int, values: np.ndarray) -> np.ndarray:
        """The loss of each of these (N, ...) in place of value i; from the logits, so that it is exact near 0 too."""
        x = Tensor(values, backend=backend.get("numpy"))
        for step in self.steps[i:-1]:
            x = step(x)
        z = x.data
        if self.steps[-1].op is ops.Sigmoid:
            return (self.labels * np.logaddexp(0, -z) + (1 - self.labels) * np.logaddexp(0, z)).mean(axis=1)
        true = self.labels[0].argmax()
        others = np.delete(z, true, axis=1) - z[:, true : true + 1]
        return np.logaddexp(0, np.logaddexp.reduce(others, axis=1))

    @staticmethod
    def _central(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return (above - below) / (2 * H)

    def _affordable(self, i: int, taps: int, filters: int) -> np.ndarray:
        """(tap, filter) of the weights to do: all, or evenly spaced ones."""
        later = range(i + 1, len(self.steps))
        cost = 1 + sum(_multiply_adds(self.steps[j], self.values[j], self.values[j + 1]) for j in later)
        first = next((j for j in later if self.steps[j].op in (ops.Conv2D, ops.Dense)), None)
        if first is not None:  # reached by one channel alone
            alone = _multiply_adds(self.steps[first], self.values[first], self.values[first + 1])
            cost -= alone - alone // filters
        cost += 4 * sum(v.size for v in self.values[i + 1 :])
        every = np.stack(np.meshgrid(np.arange(taps), np.arange(filters), indexing="ij"), axis=-1).reshape(-1, 2)
        return every[:: max(1, -(-2 * len(every) * cost // MOST))]


def _in_float64(step: Step, home: Any) -> Step:
    weights = [x if x is None else Tensor(_array(x).astype(np.float64), backend=home) for x in step.inputs]
    return replace(step, inputs=tuple(weights))


def _kernel(step: Step) -> np.ndarray:
    return _array(step.inputs[0])


def _array(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, Tensor) else np.asarray(x)


def _windows(step: Step, x: np.ndarray) -> Any:
    attributes = step.attributes
    return fused.shapes.windows(
        x.shape[1:3], _kernel(step).shape[:2], attributes["strides"], attributes["padding"], attributes["dilation"]
    )


def _multiply_adds(step: Step, x: np.ndarray, y: np.ndarray) -> int:
    if step.op is ops.Dense:
        return x.shape[1] * y.shape[1]
    return y[0].size * _kernel(step)[..., 0].size if step.op is ops.Conv2D else 0
