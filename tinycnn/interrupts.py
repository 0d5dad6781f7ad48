"""Ctrl-C and SIGTERM in training: the step in flight is finished and kept; a second signal leaves at once."""

import os
import signal
import threading
from types import TracebackType
from typing import Any

from .callbacks import Callback, Logs
from .errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts(Callback):
    """In a `with` block around `fit`, as the last of its callbacks: raises StoppedError after the step in flight."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that came
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # nobody else may ask for signals
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            os._exit(128 + number)  # whoever asks twice means it; files are whole at any time
        self.number = number

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self.look()

    def on_test_batch_end(self, batch: int) -> None:
        self.look()

    def look(self) -> None:
        """Raise StoppedError if a signal came."""
        if self.number:
            raise StoppedError(self.number)
