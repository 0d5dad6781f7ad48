"""Where training stands: what a checkpoint keeps beside weights and optimizer, so that it goes on to the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np

from .backend import Backend
from .errors import DataError

PATIENCE = 0.1  # seconds for which callbacks may be told the numbers of a moment ago, where a GPU has newer ones


@dataclass(frozen=True)
class Position:
    """`step` steps into epoch number `epoch`, counted from 0; random draws need no state: they are keyed by these.

    sums: of each figure of the epoch so far, weighted by samples; history: every epoch before, a list for each name;
    notes: what whoever trains wants to find again, as values that JSON can hold.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    sums: Sequence[float] = ()
    history: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, found: dict[str, Any], figures: Sequence[str]) -> "Position":
        """The position that a file describes, of a training with these figures. Raises DataError, LookupError."""
        whole = {name: found[name] for name in ("epoch", "step", "samples")}
        sums, history, notes = found["sums"], found["history"], found["notes"]
        lists = [sums, *history.values()]
        if any(type(n) is not int or n < 0 for n in whole.values()) or not isinstance(notes, dict):
            raise DataError(f"no position in a training: {whole}")
        if any(type(value) is not float for values in lists for value in values):
            raise DataError("a position whose figures are no numbers")
        epochs = {len(values) for values in history.values()}
        if (
            len(sums) != (len(figures) if whole["step"] else 0)
            or len(epochs) > 1
            or max(epochs, default=0) > whole["epoch"]
        ):
            raise DataError("a position whose figures are too few or too many")
        return cls(**whole, sums=tuple(sums), history=history, notes=notes)


class RunningMeans:
    """Means over all samples so far of figures that come batch by batch.

    A GPU's figures stay there until somebody looks, since looking waits for all that the GPU was asked to do.
    """

    def __init__(self, names: list[str], home: Backend, start: Position | None = None) -> None:
        self.names, self.home = names, home
        self.sums, self.count = np.zeros(len(names)), 0
        if start and start.step:
            self.sums[:], self.count = start.sums, start.samples
        self.waiting: list[tuple[Any, int]] = []
        self.looked, self.known = -PATIENCE, {}  # type: float, dict[str, float]

    def add(self, figures: Any, samples: int) -> None:
        self.waiting.append((figures, samples))
        self.count += samples

    def position(self, epoch: int, step: int, history: dict[str, list[float]]) -> Position:
        """That of so many steps into an epoch of which these are the means."""
        self.values()
        return Position(epoch, step, self.count, tuple(self.sums.tolist()) if step else (), history)

    def values(self) -> dict[str, float]:
        if self.waiting:
            figures = self.home.to_numpy(np.stack([figures for figures, _ in self.waiting]))  # (BATCHES, NAMES)
            for batch, (_, samples) in zip(figures, self.waiting, strict=True):
                self.sums += batch * samples
        self.waiting = []
        self.known = {
            name: float(total) / max(self.count, 1) for name, total in zip(self.names, self.sums, strict=True)
        }
        return self.known

    def recent(self) -> dict[str, float]:
        """The values; for figures on a GPU, those of a moment ago if that is not long."""
        if not self.home.asynchronous or monotonic() - self.looked > PATIENCE:
            self.looked = monotonic()
            return self.values()
        return self.known
