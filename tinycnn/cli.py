"""What the commands share: how they read arguments, choose a backend, report an error in one line, and exit."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from . import backend
from .errors import DataError, ModelFileError, ShapeError, TinycnnError, UsageError
from .files import show
from .models import Sequential, load_model
from .preprocessing.image import MAX_PIXELS, Preprocessing

EXIT_CODES = """\
exit codes:
  0    done
  1    out of memory
  2    an argument, backend or size that cannot be used
  3    data or a model file that is missing, damaged or does not fit
  4    the loss became infinite or no number
  130  interrupted (143 by SIGTERM, in training)
  141  the reader of the output went away
"""
MODEL_FILE = "model.safetensors"


def some_names(names: Iterable[str]) -> str:
    """The first few names for a message, safe to print."""
    listed = sorted(names)
    return ", ".join(map(show, listed[:5])) + (", ..." if len(listed) > 5 else "") or "none"


class Parser(argparse.ArgumentParser):
    """argparse, with an error of one line instead of the whole usage."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"tinycnn {command}",
            description=description,
            epilog=epilog + EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"{self.prog}: {show(message)} (--help shows the usage)\n")

    def add_machine_options(self, auto: str = "takes the best there is") -> None:
        """--backend and --threads; `auto` says what the command makes of --backend auto."""
        self.add_argument(
            "--backend", default=os.environ.get("TINYCNN_BACKEND", "auto"), choices=("auto", *backend.NAMES),
            help="what computes: numba is the fast one on a CPU, numpy the reference, cupy an NVIDIA GPU; auto, the "
            f"default unless TINYCNN_BACKEND names another, {auto}",
        )  # fmt: skip
        self.add_argument("--threads", type=whole_number(1), help="how many threads to use (default: every core)")

    def add_reading_options(self) -> None:
        """--strict and --max-pixels"""
        self.add_argument("--strict", action="store_true", help="an image that cannot be read is an error, not skipped")
        self.add_argument(
            "--max-pixels", type=whole_number(1), default=MAX_PIXELS, metavar="N",
            help=f"an image that claims more is refused before it is decoded (default: {MAX_PIXELS})",
        )  # fmt: skip


def use_machine(arguments: argparse.Namespace) -> None:
    """Apply --backend and --threads."""
    if arguments.threads:
        backend.set_threads(arguments.threads)
    if getattr(arguments, "tf32", False):
        backend.allow_tf32()
    backend.use_backend(arguments.backend)


def run(
    command: Callable[[argparse.Namespace], None],
    parser: Parser,
    argv: Sequence[str] | None,
    partial_output_is_done: bool = True,
) -> int:
    """Run a command; what a user can mend becomes one line on standard error and an exit code.

    `partial_output_is_done`: a reader that goes, such as `head`, has seen enough, and the command has done its work.
    """
    for stream in (sys.stdout, sys.stderr):  # a file name need not be valid text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = parser.parse_args(argv)
    try:
        with np.errstate(all="ignore"):  # a model's numbers may overflow: the results say so
            command(arguments)
        if sys.stdout:  # None where it was closed
            sys.stdout.flush()
        return 0
    except (TinycnnError, ShapeError) as error:
        code = error.exit_code if isinstance(error, TinycnnError) else UsageError.exit_code
        return _fail(parser, str(error), code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if partial_output_is_done else _fail(parser, "stopped: nobody reads the output any more", 141)
    except KeyboardInterrupt:
        return _fail(parser, "interrupted", 130)
    except MemoryError:
        return _fail(parser, "out of memory; try a smaller --batch-size or --image-size, or fewer images", 1)
    except OSError as error:
        return _fail(parser, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), DataError.exit_code)


def _fail(parser: Parser, message: str, code: int) -> int:
    print(f"{parser.prog}: {show(message)}", file=sys.stderr)
    return code


def whole_number(least: int) -> Callable[[str], int]:
    """An argument type: a whole number of at least `least`."""
    return _number(int, lambda n: n >= least, f"a whole number of at least {least}")


def positive_number(text: str) -> float:
    """An argument type: a number above 0."""
    return _number(float, lambda n: 0 < n < float("inf"), "a number above 0")(text)


def fraction(text: str) -> float:
    """An argument type: a number between 0 and 1, both excluded."""
    return _number(float, lambda n: 0 < n < 1, "a number between 0 and 1")(text)


def _number(kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def finite_or_none(value: float) -> float | None:
    """The number for JSON, which knows no NaN and no infinity: None stands for them."""
    return float(value) if math.isfinite(value) else None


class ImageModel(NamedTuple):
    """A model, and what it takes to use it on image files."""

    model: Sequential
    class_names: list[str]
    preprocessing: Preprocessing


def image_model(path: Path) -> ImageModel:
    """The model of a run folder or a model file.

    Raises DataError if it does not know how to prepare images, ModelFileError if it cannot take or name them so.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise DataError(f"{path}: no {MODEL_FILE} in this folder; name a run folder or a model file")
    model = load_model(file)
    names, preparation = model.class_names, model.preprocessing
    if preparation is None or names is None:
        raise DataError(f"{file}: the model does not say how to prepare images; train it on an image folder")
    outputs, shape = model.output_shape, preparation.image_shape
    wanted = 2 if outputs == (1,) else outputs[0]  # classes
    if model.input_shape != shape or len(outputs) != 1 or len(names) != wanted:
        raise ModelFileError(
            f"{file}: its images of shape {shape} and {len(names)} classes do not fit its model, "
            f"which takes {model.input_shape} and gives {outputs}"
        )
    return ImageModel(model, names, preparation)
