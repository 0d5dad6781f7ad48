"""The weights of every epoch of a run, kept small, so that one can look back at how a network learned."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import storage
from .callbacks import Callback, Logs

FOLDER = "snapshots"  # in a run folder
KIND = "tinycnn-snapshot"


class Snapshot(NamedTuple):
    """The weights after `epoch` epochs (0: before training) in the order of `Sequential.weights`, as float16."""

    epoch: int
    weights: list[np.ndarray]


class Snapshots(Callback):
    """Writes the weights before the first epoch and after each into a folder, as float16: three digits of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_epoch_begin(self, epoch: int) -> None:
        if epoch == 0 and self.model.position.step == 0:
            self._write(0)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._write(epoch + 1)

    def _write(self, epoch: int) -> None:
        self.folder.mkdir(exist_ok=True)
        largest = np.finfo(np.float16).max
        weights = {
            f"{i:03}.{weight.name}": np.clip(weight.numpy(), -largest, largest).astype(np.float16)
            for i, weight in enumerate(self.model.weights)
        }
        storage.write(self.folder / f"epoch-{epoch:05}.safetensors", KIND, weights, {"epoch": epoch})


def snapshot_files(run: Path) -> list[Path]:
    """The snapshots of a run folder, earliest first; none where it was trained without."""
    return sorted((run / FOLDER).glob("epoch-*.safetensors"))


def read_snapshot(path: Path) -> Snapshot:
    """What a snapshot holds. Raises ModelFileError."""
    tensors, meaning = storage.read(path, KIND)
    with storage.damage_named(path):
        return Snapshot(int(meaning["epoch"]), [tensors[name] for name in sorted(tensors)])
