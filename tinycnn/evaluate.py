"""`python -m tinycnn.evaluate MODEL DATA`: how good a model is on labelled photos, class by class."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cli import ImageModel, Parser, finite_or_none, image_model, run, some_names, use_machine, whole_number
from .errors import DataError
from .files import show
from .folders import test_folder
from .losses import BinaryCrossentropy, SparseCategoricalCrossentropy
from .metrics import confusion_matrix, precision_and_recall, predicted_classes
from .models import Sequential
from .preprocessing.image import DirectoryIterator, ImageDataGenerator
from .preprocessing.scan import class_folders

DESCRIPTION = """\
Measure a model on labelled images: loss, accuracy, precision and recall of each class, confusion matrix.

MODEL is a run folder of `tinycnn train`, or a model file. DATA holds one folder of images per class, named
as the model's classes, or has such a tree in a folder called test (testing, testeo, validation, valid, val).
"""


def parser() -> Parser:
    """The arguments of the command."""
    p = Parser("evaluate", DESCRIPTION)
    p.add_argument("model", metavar="MODEL", type=Path, help="a run folder or a model file")
    p.add_argument("data", metavar="DATA", type=Path, help="a folder of images, one folder per class")
    p.add_argument("--format", choices=("text", "json"), default="text", help="of the output (default: text)")
    p.add_argument("--batch-size", type=whole_number(1), default=256, help="images at a time (default: 256)")
    p.add_reading_options()
    p.add_machine_options()
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(evaluate, parser(), argv)


def evaluate(options: argparse.Namespace) -> None:
    """Read the images, measure, print."""
    use_machine(options)
    photos = image_model(options.model)
    with contextlib.redirect_stdout(sys.stderr):  # "Found ... images" is no part of the result
        folder = test_folder(options.data)
        data = labelled_images(photos, folder, options.batch_size, options.strict, options.max_pixels)
    result = measure(photos.model, data)
    print(json.dumps(result, indent=2) if options.format == "json" else _table(result))


def labelled_images(
    photos: ImageModel, folder: Path, batch_size: int, strict: bool, max_pixels: int
) -> DirectoryIterator:
    """The images of a folder, prepared as in training. Raises DataError where its classes are not the model's."""
    _, names, settings = photos
    found = set(class_folders(str(folder), None))
    if found != set(names):
        wanted = f"the model's classes are {some_names(names)}"
        raise DataError(f"{show(folder)}: its folders are {some_names(found)}; {wanted}")
    return ImageDataGenerator(rescale=settings.rescale).flow_from_directory(
        folder,
        target_size=settings.target_size,
        color_mode=settings.color_mode,
        classes=names,
        class_mode="sparse",
        batch_size=batch_size,
        shuffle=False,
        interpolation=settings.interpolation,
        keep_aspect_ratio=settings.keep_aspect_ratio,
        apply_exif=settings.apply_exif,
        max_pixels=max_pixels,
        strict=strict,
    )


def measure(model: Sequential, data: DirectoryIterator) -> dict[str, Any]:
    """Loss, accuracy, and for each class precision, recall and count; what does not exist is None."""
    names, true, outputs = list(data.class_indices), np.asarray(data.classes), model.predict(data)
    loss = BinaryCrossentropy() if outputs.shape[1] == 1 else SparseCategoricalCrossentropy()
    matrix = confusion_matrix(true, predicted_classes(outputs, model.threshold), len(names))
    precision, recall = precision_and_recall(matrix)
    return {
        "images": len(true),
        "skipped": len(data.skipped),
        "loss": finite_or_none(loss(true, outputs)),
        "accuracy": float(np.trace(matrix) / len(true)),
        "classes": {
            name: {
                "precision": finite_or_none(precision[i]),
                "recall": finite_or_none(recall[i]),
                "images": int(matrix[i].sum()),
            }
            for i, name in enumerate(names)
        },
        "confusion_matrix": matrix.tolist(),
    }


def _table(result: dict[str, Any]) -> str:
    names = [show(name) for name in result["classes"]]
    width = max(len("class"), *map(len, names))
    lines = [
        f"images    {result['images']}" + (f" ({result['skipped']} skipped)" if result["skipped"] else ""),
        f"loss      {_decimal(result['loss'])}",
        f"accuracy  {result['accuracy']:.4f}",
        "",
        f"{'class':{width}}  precision  recall  images",
    ]
    for name, row in zip(names, result["classes"].values(), strict=True):
        lines.append(
            f"{name:{width}}  {_decimal(row['precision']):>9}  {_decimal(row['recall']):>6}  {row['images']:6}"
        )
    cell = max(5, *map(len, names))
    lines += ["", "confusion matrix: rows are the true class, columns the predicted one"]
    lines.append(" " * width + "".join(f"  {name:>{cell}}" for name in names))
    for name, row in zip(names, result["confusion_matrix"], strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {count:{cell}}" for count in row))
    return "\n".join(lines)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
