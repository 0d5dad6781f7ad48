"""What happens around the steps of `fit`: history, progress, early stopping, saving, a CSV log. Names are Keras's."""

import csv
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, UsageError
from .position import Position

if TYPE_CHECKING:
    from .models import Sequential

Logs = dict[str, float]


class Callback:
    """Override what you need; `self.model` is the model in training and `self.params` holds epochs and steps."""

    model: "Sequential"
    params: dict[str, Any]

    def on_train_begin(self) -> None: ...

    def on_train_end(self) -> None: ...

    def on_epoch_begin(self, epoch: int) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Logs) -> None: ...

    def on_train_batch_end(self, batch: int, logs: Logs) -> None: ...

    def on_test_batch_end(self, batch: int) -> None: ...


class History(Callback):
    """What `fit` returns: `history` has a list of numbers, one for each epoch, for every name."""

    def __init__(self, start: Position | None = None) -> None:
        self.start = start or Position()

    def on_train_begin(self) -> None:
        self.history: dict[str, list[float]] = {name: [*values] for name, values in self.start.history.items()}
        self.epoch = list(range(self.start.epoch))[: len(next(iter(self.history.values()), []))]

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class Progress(Callback):
    """A bar while an epoch runs (on a terminal), then one line with its numbers."""

    def __init__(self, bar: bool) -> None:
        self.bar = bar

    def on_epoch_begin(self, epoch: int) -> None:
        from tqdm import tqdm

        at = self.model.position  # in the middle of an epoch that is gone on with
        self.began, self.seconds, self.images, self.earlier = time.perf_counter(), 0.0, 0, at.samples
        self.title = f"Epoch {epoch + 1}/{self.params['epochs']}"
        self.line = tqdm(
            total=self.params["steps"], initial=at.step, desc=self.title, unit="step", leave=False, disable=not self.bar
        )

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self.images = int(logs["images"]) - self.earlier
        self.seconds = time.perf_counter() - self.began
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in logs.items() if name != "images")
        self.line.set_postfix_str(f"{numbers}, {self.images / self.seconds:.0f} images/s", refresh=False)
        self.line.update()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.line.close()
        numbers = " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())
        rate = self.images / self.seconds if self.seconds else 0.0
        print(f"{self.title} - {self.seconds:.1f}s - {rate:.0f} images/s - {numbers}", flush=True)

    def on_train_end(self) -> None:
        if hasattr(self, "line"):
            self.line.close()
        sys.stdout.flush()


class _Watcher(Callback):
    """What callbacks share that wait for the best value of one number."""

    def __init__(self, monitor: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise UsageError(f"{type(self).__name__}: mode {mode!r} is not auto, min or max")
        larger_is_better = mode == "max" or (mode == "auto" and "acc" in monitor)
        self.monitor, self.sign, self.min_delta = monitor, 1 if larger_is_better else -1, abs(min_delta)
        self.forget()

    def forget(self) -> None:
        """Begin anew: any value is better than none."""
        self.best = -math.inf * self.sign

    def improved(self, logs: Logs) -> bool:
        """Whether this epoch is the best so far; remembers it if so."""
        if self.monitor not in logs:
            raise UsageError(
                f"{type(self).__name__}: nothing is called {self.monitor!r}; monitor one of {', '.join(logs)}"
            )
        better = (logs[self.monitor] - self.best) * self.sign > self.min_delta
        if better:
            self.best = logs[self.monitor]
        return better


class EarlyStopping(_Watcher):
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs."""

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.restore_best_weights = patience, restore_best_weights

    def on_train_begin(self) -> None:
        self.forget()
        self.waited, self.stopped_epoch = 0, 0
        self.best_weights: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.improved(logs):
            self.waited = 0
            self.best_weights = self.model.get_weights() if self.restore_best_weights else None
            return
        self.waited += 1
        if self.waited >= max(self.patience, 1):
            self.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self) -> None:
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)


class ModelCheckpoint(_Watcher):
    """Save the model after each epoch, or only after the best so far.

    `filepath` may hold {epoch} and the names of the epoch's numbers: "weights.{epoch:02d}-{val_loss:.2f}.safetensors".
    """

    def __init__(
        self, filepath: str | Path, monitor: str = "val_loss", save_best_only: bool = False, mode: str = "auto"
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.save_best_only = str(filepath), save_best_only

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if not self.save_best_only or self.improved(logs):
            self.model.save(self._file_name({"epoch": epoch + 1, **logs}))

    def _file_name(self, fields: Mapping[str, float]) -> str:
        try:
            return self.filepath.format(**fields)
        except (LookupError, ValueError) as error:
            known = ", ".join(fields)
            raise UsageError(
                f"ModelCheckpoint: filepath {self.filepath!r}: {error}; its fields can be {known}"
            ) from None


class CSVLogger(Callback):
    """One line for each epoch in a CSV file; `append` goes on with a file that exists."""

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        self.filename, self.separator, self.append = Path(filename), separator, append

    def on_train_begin(self) -> None:
        try:
            with self.filename.open("a" if self.append else "w"):
                pass
        except OSError as error:
            raise DataError(f"{self.filename}: cannot be written ({error.strerror})") from None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        is_new = not self.filename.exists() or self.filename.stat().st_size == 0
        with self.filename.open("a", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator, lineterminator="\n")
            if is_new:
                writer.writerow(["epoch", *logs])
            writer.writerow([epoch, *(repr(value) for value in logs.values())])
