"""The errors a user can meet, so that a command prints one line and exits with a documented code."""

from .kernels.shapes import ShapeError

__all__ = [
    "BackendError",
    "DataError",
    "DivergenceError",
    "ModelFileError",
    "ShapeError",
    "StoppedError",
    "TinycnnError",
    "UsageError",
]  # fmt: skip


class TinycnnError(Exception):
    """Base of the errors below; `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(TinycnnError, ValueError):
    """An argument has a value that cannot be used."""

    exit_code = 2


class BackendError(UsageError):
    """A backend was asked for that this machine cannot run."""


class DataError(TinycnnError, ValueError):
    """A folder, image, array or label does not fit."""

    exit_code = 3


class DivergenceError(TinycnnError):
    """Training ended in numbers that are no numbers."""

    exit_code = 4


class StoppedError(TinycnnError):
    """A signal asked training to end; `exit_code` is 128 and its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


class ModelFileError(DataError):
    """A file is no tinycnn model, or is damaged."""
