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
from typing import Any

import numpy as np
import tomli_w

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
from .errors import DataError, DivergenceError, UsageError
from .files import show
from .folders import train_and_test_folders
from .layers import Conv2D, Dense, Flatten, MaxPooling2D
from .metrics import confusion_matrix, predicted_classes
from .models import Sequential
from .optimizers import Adam
from .preprocessing.image import DirectoryIterator, ImageDataGenerator
from .preprocessing.scan import class_folders
from .preprocessing.settings import LARGEST_SIZE
from .report import write_report

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
  checkpoint.safetensors  weights and optimizer after the last finished epoch
  history.csv             loss and accuracy of every epoch
  config.toml             every setting of this run
  metrics.json            test loss, test accuracy, epochs, images, seconds
  report.html             curves and confusion matrix
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
    p.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    p.add_reading_options()
    p.add_machine_options()
    p.add_argument("--tf32", action="store_true", help="on a GPU: TF32 products for batches from 256 on, less exact")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(train, parser(), argv, partial_output_is_done=False)


def train(options: argparse.Namespace) -> None:
    """Read the images, train, test, and write the run folder."""
    if not SMALLEST_IMAGE <= options.image_size <= LARGEST_SIZE:
        raise UsageError(f"--image-size {options.image_size}: use {SMALLEST_IMAGE} to {LARGEST_SIZE}")
    out = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    _check_is_free(out)
    use_machine(options)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) if options.quiet else contextlib.nullcontext():
        training, test = _load(options)
        model = fish_network(options.image_size, len(training.class_indices), options.seed)
        model.compile(Adam(options.learning_rate), _loss(training), ["accuracy"])
        _make_run_folder(out)
        storage.write_atomically(out / "config.toml", tomli_w.dumps(_settings(options, training)))
        _list_skipped(out / "skipped.txt", training.skipped + test.skipped)
        print(
            f"Training on {training.n} images, backend {current().name} on {current().device}; run folder: {show(out)}"
        )
        history = _fit(model, training, test, options, out)
        _finish(model, training, test, history, out, time.perf_counter() - began)


def fish_network(image_size: int, classes: int, seed: int = 0) -> Sequential:
    """The paper's network (its figures 5 and 6); with more than two classes it ends in a softmax."""
    outputs, last = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    return Sequential(
        [
            Conv2D(32, (3, 3), activation="relu", input_shape=(image_size, image_size, 3)),
            MaxPooling2D(pool_size=(2, 2)),
            Conv2D(32, (3, 3), activation="relu"),
            MaxPooling2D(pool_size=(2, 2)),
            Flatten(),
            Dense(128, activation="relu"),
            Dense(outputs, activation=last),
        ],
        seed=seed,
    )


def _fit(
    model: Sequential, training: DirectoryIterator, test: DirectoryIterator, options: argparse.Namespace, out: Path
) -> callbacks.History:
    log, checkpoint = callbacks.CSVLogger(out / "history.csv"), Checkpoint(out / "checkpoint.safetensors")
    with np.errstate(all="ignore"):  # a diverging loss is told once, by StopAtDivergence
        return model.fit(
            training,
            epochs=options.epochs,
            steps_per_epoch=options.steps_per_epoch,
            validation_data=test,
            verbose=0 if options.quiet else "auto",
            callbacks=[StopAtDivergence(), log, checkpoint],
        )


class StopAtDivergence(callbacks.Callback):
    """Ends training at the first loss that is no number: nothing after it could be right."""

    def on_train_batch_end(self, batch: int, logs: callbacks.Logs) -> None:
        if not math.isfinite(logs["loss"]):
            raise DivergenceError(f"the loss is {logs['loss']} at step {batch + 1}: try a smaller --learning-rate")


class Checkpoint(callbacks.Callback):
    """Keeps the state of training after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_end(self, epoch: int, logs: callbacks.Logs) -> None:
        self.model.save_checkpoint(self.path, epoch + 1)


def _finish(
    model: Sequential,
    training: DirectoryIterator,
    test: DirectoryIterator,
    history: callbacks.History,
    out: Path,
    seconds: float,
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
        "seconds": round(seconds, 3),
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
    augmentation: dict[str, Any] = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}
    shared: dict[str, Any] = {"rescale": 1 / 255, "validation_split": split}
    generator = ImageDataGenerator(**shared, **({} if options.no_augment else augmentation))
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
    chosen = {name: _text(v) if isinstance(v, Path) else v for name, v in vars(options).items() if v is not None}
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
