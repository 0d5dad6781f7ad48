"""`python -m tinycnn.train [DATA]`: the paper's network, from a folder of photos to a model file."""

import argparse
import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import __version__, callbacks, storage
from .backend import current
from .cli import (
    MODEL_FILE,
    Parser,
    finite_or_none,
    fraction,
    positive_number,
    run,
    some_names,
    use_machine,
    whole_number,
)
from .divergence import where_it_began
from .errors import DataError, DivergenceError, StoppedError, UsageError
from .files import show
from .folders import train_and_test_folders
from .interrupts import Interrupts
from .metrics import confusion_matrix, predicted_classes
from .models import Sequential
from .optimizers import Adam
from .paper import AUGMENTATION, fish_network
from .position import Position
from .preprocessing.image import DirectoryIterator, ImageDataGenerator
from .preprocessing.scan import class_folders
from .preprocessing.settings import LARGEST_SIZE
from .report import write_report
from .run_folder import (
    CHECKPOINT,
    USUAL,
    Checkpoints,
    Every,
    HistoryFile,
    best_model,
    held,
    image_list,
    read_settings,
    resume,
    write_settings,
)
from .snapshots import FOLDER, Snapshots

SMALLEST_IMAGE = 10  # what two 3x3 convolutions and two poolings need

DESCRIPTION = """\
Train the network of the paper on images and write a run folder.

DATA holds one folder of images per class, or two such trees: one called train (training, entrenamiento)
and one called test (testing, testeo, validation, valid, val). Without DATA, 8,000 + 2,000 pictures of
clownfish and angelfish are drawn into the cache folder (TINYCNN_CACHE says where) and used.
"""
EPILOG = """\
the run folder holds
  model.safetensors       the model with its class names and image preparation: all that predicting needs
  best.safetensors        the same after the epoch with the least loss on the test images
  checkpoint.safetensors  all that --resume needs to go on, to the same bits
  history.csv             loss and accuracy of every epoch
  config.toml             every setting of this run
  images.txt              the images it learned from, each with a hash of its pixels
  metrics.json            test loss, test accuracy, epochs, images, seconds
  report.html             curves and confusion matrix
  snapshots/              the weights after every epoch, to three digits, for `tinycnn explain`
  skipped.txt             the images that could not be read, if any

"""


def parser() -> Parser:
    """The arguments of the command."""
    p = Parser("train", DESCRIPTION, EPILOG)
    p.add_argument("data", metavar="DATA", nargs="?", type=Path, help="a folder of images (default: drawn fish)")
    p.add_argument("--epochs", type=whole_number(1), default=30, help="passes over the images (default: 30)")
    p.add_argument("--batch-size", type=whole_number(1), default=32, help="images per step (default: 32)")
    p.add_argument("--steps-per-epoch", type=whole_number(1), metavar="N", help="steps per epoch (default: all images)")
    p.add_argument("--learning-rate", type=positive_number, default=0.001, help="of Adam (default: 0.001)")
    p.add_argument("--seed", type=whole_number(0), default=0, help="decides every random number (default: 0)")
    p.add_argument("--image-size", type=whole_number(1), default=64, help="side in pixels (default: 64)")
    p.add_argument("--no-augment", action="store_true", help="no shear, zoom and flip of the training images")
    p.add_argument(
        "--validation-split", type=fraction, default=0.2, metavar="SHARE",
        help="share of each class kept for testing, where DATA has no test folder (default: 0.2)",
    )  # fmt: skip
    p.add_argument("--out", type=Path, metavar="DIR", help="the run folder (default: runs/ and the time)")
    p.add_argument(
        "--snapshots", action=argparse.BooleanOptionalAction, default=True,
        help="keep the weights of every epoch for `tinycnn explain` (default: on; 2 bytes a weight)",
    )  # fmt: skip
    p.add_argument(
        "--resume", type=Path, metavar="RUN",
        help="go on with a run that was stopped; takes no other option but --epochs, --threads, --quiet, "
        "--checkpoint-every",
    )  # fmt: skip
    p.add_argument(
        "--checkpoint-every", metavar="WHEN",
        help="30s, 5steps, 1epoch, or several with commas between (default: 1epoch,30s, in less than 1%% of the time)",
    )  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    p.add_reading_options()
    p.add_machine_options()
    p.add_argument("--tf32", action="store_true", help="on a GPU: TF32 products for batches from 256 on, less exact")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(train, parser(), argv, partial_output_is_done=False)


def train(options: argparse.Namespace) -> None:
    """Read the images, train, test, and write the run folder; or go on with one."""
    every = USUAL if options.checkpoint_every is None else Every.parse(options.checkpoint_every)
    run = options.resume
    if run:
        options = _settings_of(run, options)
    if not SMALLEST_IMAGE <= options.image_size <= LARGEST_SIZE:
        raise UsageError(f"--image-size {options.image_size}: use {SMALLEST_IMAGE} to {LARGEST_SIZE}")
    out = run or options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    if not run:
        _check_is_free(out)
    use_machine(options)
    began = time.perf_counter()
    with contextlib.ExitStack() as until_done:
        if options.quiet:
            until_done.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if run:
            until_done.enter_context(held(out))
        training, test = _load(options)
        model = fish_network(options.image_size, len(training.class_indices), options.seed)
        model.compile(Adam(options.learning_rate), _loss(training), ["accuracy"])
        settings, images = _settings(options, training), image_list(training.fingerprints() + test.fingerprints())
        position = Position()
        if run:
            model, position = resume(out, settings, images, model)
        else:
            _make_run_folder(out)
            until_done.enter_context(held(out))
        notes = write_settings(out, settings, images)
        _list_skipped(out / "skipped.txt", training.skipped + test.skipped)
        going = f", going on after {position.step} steps of epoch {position.epoch + 1}" if run else ""
        print(
            f"Training on {training.n} images, backend {current().name} on {current().device}; "
            f"run folder: {show(out)}{going}"
        )
        checkpoints = Checkpoints(out, every, notes)
        history = _fit(model, training, test, options, Run(out, position, checkpoints))
        seconds = {"seconds": time.perf_counter() - began, "checkpoint_seconds": checkpoints.spent}
        _finish(model, training, test, history, out, seconds)


SAID_ANEW = {"resume", "epochs", "threads", "quiet", "checkpoint_every"}  # options of who goes on with a run


def _settings_of(run: Path, options: argparse.Namespace) -> argparse.Namespace:
    """The options that a run was started with, but for those that are said anew. Raises UsageError, DataError."""
    p = parser()
    given = {name for name, value in vars(options).items() if value != p.get_default(name)}
    if wrong := sorted(given - SAID_ANEW):
        names = ", ".join("DATA" if name == "data" else f"--{name.replace('_', '-')}" for name in wrong)
        raise UsageError(f"--resume {show(run)}: a run goes on with its own settings; leave out {names}")
    types = {name: type(p.get_default(name)) for name in vars(options)} | {"data": str, "steps_per_epoch": int}
    anew = given | SAID_ANEW - {"epochs"} | {"out"}
    kept = {name: value for name, value in read_settings(run).items() if name in types and name not in anew}
    for name, value in kept.items():
        if type(value) is not types[name]:
            raise DataError(f"--resume {show(run)}: config.toml says {name} = {value!r}, which is no such value")
    if "data" in kept:
        kept["data"] = Path(kept["data"])
    return argparse.Namespace(**vars(options) | kept)


class Run(NamedTuple):
    """A run folder, where its training stands, and who keeps it."""

    folder: Path
    position: Position
    checkpoints: Checkpoints


def _fit(
    model: Sequential, training: DirectoryIterator, test: DirectoryIterator, options: argparse.Namespace, run: Run
) -> callbacks.History:
    snapshots = [Snapshots(run.folder / FOLDER)] if options.snapshots else []
    kept = [HistoryFile(run.folder), best_model(run.folder, run.position.history), *snapshots, run.checkpoints]
    steps = options.steps_per_epoch or len(training)
    try:
        with np.errstate(all="ignore"), Interrupts() as interrupts:  # a diverging loss is told once
            history = model.fit(
                training,
                epochs=options.epochs,
                steps_per_epoch=options.steps_per_epoch,
                validation_data=test,
                verbose=0 if options.quiet else "auto",
                callbacks=[StopAtDivergence(), *kept, interrupts],
                start=run.position,
            )
            interrupts.look()
            return history
    except StoppedError as error:
        run.checkpoints.write()
        error.args = (f"interrupted; `tinycnn train --resume {show(run.folder)}` goes on from here",)
        raise
    except DivergenceError as error:
        at = model.position
        print("Looking for what went wrong first, from the last checkpoint ...", flush=True)
        where = where_it_began(run.folder / CHECKPOINT, training, steps, (at.epoch, max(at.step - 1, 0)))
        error.args = (f"{error}; {where}",)
        raise


class StopAtDivergence(callbacks.Callback):
    """Ends training at the first loss that is no number: nothing after it could be right."""

    def on_train_batch_end(self, batch: int, logs: callbacks.Logs) -> None:
        if not math.isfinite(logs["loss"]):
            raise DivergenceError(f"the loss is {logs['loss']} at step {batch + 1}: try a smaller --learning-rate")


def _finish(
    model: Sequential,
    training: DirectoryIterator,
    test: DirectoryIterator,
    history: callbacks.History,
    out: Path,
    seconds: dict[str, float],
) -> None:
    """Save the model, its figures and its report, and say where they are."""
    model.save(out / MODEL_FILE)
    test_loss, test_accuracy = history.history["val_loss"][-1], history.history["val_accuracy"][-1]
    figures = {
        "test_loss": finite_or_none(test_loss),
        "test_accuracy": test_accuracy,
        "epochs": len(history.epoch),
        "images": training.n,
        "test_images": test.n,
        "skipped_images": len(training.skipped) + len(test.skipped),
        **{name: round(value, 3) for name, value in seconds.items()},
    }
    storage.write_atomically(out / "metrics.json", storage.to_json(figures))
    predicted = predicted_classes(model.predict(test), model.threshold)
    matrix = confusion_matrix(test.classes, predicted, len(test.class_indices))
    write_report(out / "report.html", history.history, matrix, list(test.class_indices), figures)
    print(f"Test accuracy: {test_accuracy:.4f} ({test.n} images)")
    print(f"Model: {show(out / MODEL_FILE)}")
    print(f"Report: {show(out / 'report.html')}")


def _load(options: argparse.Namespace) -> tuple[DirectoryIterator, DirectoryIterator]:
    """The training images, augmented and shuffled, and the test images as they are."""
    train_folder, test_folder, split = _folders(options)
    shared: dict[str, Any] = {"rescale": 1 / 255, "validation_split": split}
    generator = ImageDataGenerator(**shared, **({} if options.no_augment else AUGMENTATION))
    flow: dict[str, Any] = {
        "target_size": (options.image_size, options.image_size),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "strict": options.strict,
        "max_pixels": options.max_pixels,
        "interpolation": "lanczos",  # photos are mostly larger: every pixel of them counts
    }
    class_mode = _class_mode(train_folder, test_folder)
    training = generator.flow_from_directory(
        train_folder, class_mode=class_mode, subset="training" if split else None, **flow
    )
    test = ImageDataGenerator(**shared).flow_from_directory(
        test_folder,
        class_mode=class_mode,
        subset="validation" if split else None,
        shuffle=False,
        **flow,
    )
    absent = [name for name, i in test.class_indices.items() if not (np.asarray(test.classes) == i).any()]
    if absent:
        print(f"no test image of {some_names(absent)}: add images, or raise --validation-split", file=sys.stderr)
    print("Classes: " + ", ".join(f"{show(name)} = {number}" for name, number in training.class_indices.items()))
    return training, test


def _folders(options: argparse.Namespace) -> tuple[Path, Path, float]:
    """The folder of training images, that of test images, and the share to keep for testing if they are one."""
    data = options.data
    if data is None:
        from .datasets import fish

        data = fish.make(progress=not options.quiet)
    training, test = train_and_test_folders(data)
    return (training, test, 0.0) if test else (training, training, options.validation_split)


def _class_mode(folder: Path, test_folder: Path) -> str:
    classes, test_classes = (class_folders(str(f), None) for f in (folder, test_folder))
    if len(classes) == 1:
        raise DataError(f"{show(folder)}: only one class, {show(classes[0])}; add a folder with images of another")
    if classes != test_classes:
        raise DataError(
            f"{show(test_folder)}: its classes ({some_names(test_classes)}) are not those of "
            f"{show(folder)} ({some_names(classes)})"
        )
    return "binary" if len(classes) == 2 else "categorical"


def _loss(data: DirectoryIterator) -> str:
    return f"{data.class_mode}_crossentropy"


def _check_is_free(out: Path) -> None:
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already; choose another folder, so that no run is overwritten")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"--out {out}: nothing can be written in {parent}; choose another folder")


def _make_run_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise DataError(f"--out {out}: cannot be made ({error.strerror})") from None


def _settings(options: argparse.Namespace, data: DirectoryIterator) -> dict[str, Any]:
    """Every setting that was in force, with names that text can hold."""
    chosen = {name: v for name, v in vars(options).items() if v is not None and name != "resume"}
    chosen = {name: _text(v) if isinstance(v, Path) else v for name, v in chosen.items()}
    return {
        **chosen,
        "data": _text((options.data or Path(data.directory).parent).resolve()),
        "backend": current().name,
        "classes": [_text(name) for name in data.class_indices],
        "tinycnn": __version__,
    }


def _text(name: str | Path) -> str:
    """A name as text: what is not valid UTF-8 in it is escaped."""
    return str(name).encode(errors="backslashreplace").decode()


def _list_skipped(file: Path, skipped: list[tuple[str, str]]) -> None:
    """The file that names every image left out, with the reason, where there is one."""
    if skipped:
        storage.write_atomically(file, "".join(f"{show(path)}: {reason}\n" for path, reason in skipped))


if __name__ == "__main__":
    sys.exit(main())
