"""`python -m tinycnn.predict MODEL PATH...`: what photos show, by a model file that knows how to prepare them."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .cli import ImageModel, Parser, finite_or_none, image_model, run, use_machine, whole_number
from .errors import DataError
from .files import csv_name, csv_path, show
from .metrics import predicted_classes
from .preprocessing.decode import decode_files
from .preprocessing.image import MAX_PIXELS, list_images
from .preprocessing.settings import to_float

DESCRIPTION = """\
Say which class each image shows, and how probable the model finds it.

MODEL is a run folder of `tinycnn train`, or a model file. PATH is an image, or a folder whose images are
all taken, those of its folders too. Images that cannot be read are skipped and listed on standard error.

No name can pass for anything else: in text, and in csv on a terminal, what does not print is escaped. In csv
a path that a spreadsheet would take for a formula has ./ before it, a class name an apostrophe (also one that
begins with an apostrophe: taking one away always gives the name).
"""

FEW = 64  # images; while Numba is loaded, NumPy is done with 260 of 64x64 pixels, or with 70 of 128x128


class Prediction(NamedTuple):
    """One image: its path, the name of its class, and the probability of that class."""

    path: str
    class_name: str
    probability: float


def parser() -> Parser:
    """The arguments of the command."""
    p = Parser("predict", DESCRIPTION)
    p.add_argument("model", metavar="MODEL", type=Path, help="a run folder or a model file")
    p.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="images, or folders of images")
    p.add_argument("--format", choices=("text", "csv", "json"), default="text", help="of the output (default: text)")
    p.add_argument("--batch-size", type=whole_number(1), default=256, help="images at a time (default: 256)")
    p.add_reading_options()
    p.add_machine_options(auto=f"takes numpy for up to {FEW} images, and the best there is for more")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(predict, parser(), argv)


def predict(options: argparse.Namespace) -> None:
    """Read the images batch by batch and print what they show."""
    files = [str(file) for path in options.paths for file in list_images(path)]
    if not files:
        raise DataError(f"{options.paths[0]}: no images here")
    if options.backend == "auto" and len(files) <= FEW:
        options.backend = "numpy"
    use_machine(options)
    model = image_model(options.model)
    write = {"text": _write_text, "csv": _write_csv, "json": _write_json}[options.format]
    write(list(predictions(model, files, options.batch_size, options.strict, options.max_pixels)))


def predictions(
    photos: ImageModel, files: list[str], batch_size: int = 256, strict: bool = False, max_pixels: int = MAX_PIXELS
) -> Iterator[Prediction]:
    """What each readable file shows. Raises DataError if none is, or with `strict` if one is not."""
    (model, names, preprocessing), skipped = photos, 0
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        images, failed = decode_files(batch, preprocessing, max_pixels, progress=False)
        for i, reason in failed.items():
            skipped += 1
            if strict:
                raise DataError(f"{show(batch[i])}: {reason}")
            print(f"skipped {show(batch[i])}: {reason}", file=sys.stderr)
        good = [i for i in range(len(batch)) if i not in failed]
        if good:
            outputs = model.predict(to_float(images[good], preprocessing.rescale))
            chosen = predicted_classes(outputs, model.threshold)
            for i, output, number in zip(good, outputs, chosen, strict=True):
                probability = output[number] if len(output) > 1 else output[0] if number else 1 - output[0]
                yield Prediction(batch[i], names[number], float(probability))
    if skipped == len(files):
        raise DataError(f"none of the {skipped} images could be read")


def _write_text(rows: list[Prediction]) -> None:
    width = max(len(show(row.path)) for row in rows)
    for row in rows:
        print(f"{show(row.path):{width}}  {show(row.class_name)}  {row.probability:.4f}")


def _write_csv(rows: list[Prediction]) -> None:
    clean = show if sys.stdout and sys.stdout.isatty() else str
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", "probability"])
    writer.writerows((clean(csv_path(r.path)), clean(csv_name(r.class_name)), f"{r.probability:.6f}") for r in rows)
    print(text.getvalue(), end="")


def _write_json(rows: list[Prediction]) -> None:
    items = [
        {"path": row.path, "class": row.class_name, "probability": finite_or_none(row.probability)} for row in rows
    ]
    print(json.dumps(items, indent=2))


if __name__ == "__main__":
    sys.exit(main())
