"""The folder of a training run: what is written there and when, and what it takes to go on with it."""

import hashlib
import math
import os
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from . import storage
from .callbacks import Callback, Logs, ModelCheckpoint
from .errors import DataError, UsageError
from .files import show
from .models import Sequential, load_checkpoint
from .position import Position

SETTINGS, CHECKPOINT, HISTORY, IMAGES = "config.toml", "checkpoint.safetensors", "history.csv", "images.txt"
BEST = "best.safetensors"
SHARE = 0.005  # of the time that checkpoints may take where nobody says how often
FREE = ("epochs", "threads", "quiet", "checkpoint_every", "out", "tinycnn")  # settings that may change on the way


class Every(NamedTuple):
    """How often checkpoints are written: after so many seconds, steps and epochs, whichever comes first."""

    seconds: float = math.inf
    steps: float = math.inf
    epochs: float = math.inf
    share: float = math.inf  # of the time, at most

    @classmethod
    def parse(cls, text: str) -> "Every":
        """ "30s", "5steps", "1epoch", or several with commas between. Raises UsageError."""
        found = {}
        for part in text.split(","):
            number = part.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
            unit = part.strip()[len(number) :]
            name = {"s": "seconds", "step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs"}.get(unit)
            if name is None or not number.isdecimal() or int(number) < 1:
                raise UsageError(f"--checkpoint-every {text!r}: use such as 30s, 5steps or 1epoch, commas between")
            found[name] = int(number)
        return cls(**found)


USUAL = Every(seconds=30, epochs=1, share=SHARE)


class Checkpoints(Callback):
    """Writes the state of training before its first step, as often as said, and at its end."""

    def __init__(self, run: Path, every: Every, notes: dict[str, Any]) -> None:
        self.path, self.every, self.notes = run / CHECKPOINT, every, notes
        self.cost = self.spent = 0.0  # seconds of the last, and of all

    def on_train_begin(self) -> None:
        self.write()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self.steps += 1
        if self.steps >= self.every.steps or time.monotonic() - self.written >= self._pause(self.every.seconds):
            self.write()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epochs += 1
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        due = self.epochs >= self.every.epochs and time.monotonic() - self.written >= self._pause(0)
        if due or last:
            self.write()

    def _pause(self, seconds: float) -> float:
        """Seconds from one checkpoint to the next, so that they take no more than their share of the time."""
        return max(seconds, self.cost / self.every.share)

    def write(self) -> None:
        """Write it now. Raises DivergenceError where the state could not be loaded again."""
        began = time.monotonic()
        self.model.save_checkpoint(self.path, notes=self.notes)
        self.written = time.monotonic()
        self.cost, self.steps, self.epochs = self.written - began, 0, 0
        self.spent += self.cost


class HistoryFile(Callback):
    """Keeps the numbers of every epoch in a CSV file, written anew each time: a resumption doubles none."""

    def __init__(self, run: Path) -> None:
        self.path = run / HISTORY

    def on_train_begin(self) -> None:
        self._write()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._write()

    def _write(self) -> None:
        history = self.model.position.history
        epochs = enumerate(zip(*history.values(), strict=True))
        rows = [["epoch", *history], *([str(i), *map(repr, numbers)] for i, numbers in epochs)]
        text = "".join(",".join(row) + "\n" for row in rows if history)
        storage.write_atomically(self.path, text)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """A block in which no other process trains this run: two would write the same files, and sweep each other's.

    It holds the system's lock on the folder, which ends with the process, however that ends. On Windows and on network
    drives there is none, and nothing is held. Raises DataError where another process has it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{show(run)}: another process is training this run; wait until it has ended") from None
        except OSError:  # a drive without locks for folders
            pass
        yield
    finally:
        os.close(folder)


def best_model(run: Path, history: dict[str, list[float]]) -> Callback:
    """Keeps the model of the epoch with the least loss on the test images, also over a resumption."""
    keeper = ModelCheckpoint(run / BEST, "val_loss", save_best_only=True)
    keeper.best = min([keeper.best, *history.get("val_loss", [])])
    return keeper


def image_list(images: Iterable[tuple[str, str, int]]) -> str:
    """A line for each image: a hash of its pixels as the network gets them, the number of its class, its path."""
    return "".join(f"{pixels} {label} {show(path)}\n" for pixels, path, label in images)


def digest(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_settings(run: Path, settings: dict[str, Any], images: str) -> dict[str, Any]:
    """Write settings and image list; returns the notes that a checkpoint carries, to know both again."""
    storage.write_atomically(run / SETTINGS, tomli_w.dumps(settings))
    storage.write_atomically(run / IMAGES, images)
    return {"settings": _lasting(settings), "images": digest(images)}


def read_settings(run: Path) -> dict[str, Any]:
    """What a run was asked to do. Raises DataError."""
    try:
        return tomllib.loads((run / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"--resume {show(run)}: no {SETTINGS} there; name the folder of a run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"--resume {show(run)}: {SETTINGS} cannot be read ({show(str(error))})") from None


def resume(run: Path, settings: dict[str, Any], images: str, fresh: Sequential) -> tuple[Sequential, Position]:
    """The model of a run's checkpoint, and where it stood.

    `settings`, `images` and `fresh`, an untrained model, are those of now. Raises DataError, which says what differs.
    """
    sweep(run)
    if not (run / CHECKPOINT).exists():
        return fresh, Position()  # stopped before the first was written
    model, position = load_checkpoint(run / CHECKPOINT)
    now, then = _lasting(settings), position.notes.get("settings", {})
    changed = [
        f"{name} is {now.get(name)!r}, was {then.get(name)!r}"
        for name in sorted({*now, *then})
        if now.get(name) != then.get(name)
    ]
    if model.get_config() != fresh.get_config():
        changed.append("the network is another")
    if position.notes.get("images") != digest(images):
        changed.append(f"the images are others ({_difference(run / IMAGES, images)})")
    if changed:
        raise DataError(f"--resume {show(run)}: cannot go on to the same result: {'; '.join(changed)}")
    return model, position


def _lasting(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that a run must keep."""
    return {name: value for name, value in settings.items() if name not in FREE}


def _difference(file: Path, images: str) -> str:
    """What has become of the listed images, in a few words."""
    try:
        then, now = (_by_path(text) for text in (file.read_text(encoding="utf-8"), images))
    except (OSError, ValueError):
        return f"{file.name} is gone, so which ones is not known"
    kinds = {
        "missing": [path for path in then if path not in now],
        "new": [path for path in now if path not in then],
        "changed": [path for path in then if path in now and now[path] != then[path]],
    }
    told = [f"{len(paths)} {kind}, first {paths[0]}" for kind, paths in kinds.items() if paths]
    return "; ".join(told) or "in another order"


def _by_path(text: str) -> dict[str, str]:
    """Path -> hash and class, of the lines of an image list."""
    parts: Sequence[list[str]] = [line.split(" ", 2) for line in text.splitlines()]
    return {part[2]: f"{part[0]} {part[1]}" for part in parts if len(part) == 3}


def sweep(run: Path) -> None:
    """Remove what a run that was killed left half-written, here and in the folders inside."""
    for file in run.rglob(".*.*"):
        suffixes = (".safetensors.", ".toml.", ".csv.", ".txt.", ".json.", ".html.")
        if file.is_file() and any(suffix in file.name for suffix in suffixes):
            file.unlink(missing_ok=True)
