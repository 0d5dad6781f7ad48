"""`python -m tinycnn.explain [MODEL] [IMAGE]`: one photo's decision as a page to look into, down to every number."""

import argparse
import csv
import subprocess
import sys
import time
import tomllib
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .cli import MODEL_FILE, ImageModel, Parser, image_model, run
from .errors import DataError, TinycnnError, UsageError
from .explanation import Subject, explain_photo
from .files import show
from .folders import train_and_test_folders
from .losses import BinaryCrossentropy, SparseCategoricalCrossentropy
from .models import Sequential, load_checkpoint
from .optimizers import Adam
from .preprocessing.decode import decode_files
from .preprocessing.image import MAX_PIXELS, list_images
from .preprocessing.settings import to_float
from .snapshots import Snapshot, read_snapshot, snapshot_files
from .storage import write_atomically
from .webpage import webpage

QUICK_TRAIN, QUICK_TEST = 600, 120  # drawn fish to train on, where there is no run yet
QUICK_EPOCHS = 6
LOOKED_AT = 60  # test images, of which the least certain is taken where no image is named

DESCRIPTION = """\
Write one HTML page that shows how a network decides about one photo: every feature map, every product and
sum, every gradient, the step of learning that this photo would cause, and the network at past epochs.
It opens from the disk, in any current browser, without a network.

MODEL is a run folder of `tinycnn train`, or a model file. Without it, the newest run in runs/ is taken;
where there is none, a small network is trained first on drawn fish (up to a minute). Without IMAGE, it is
the test image of which that run is least certain. Only a run folder knows Adam's state and past epochs.
"""


def parser() -> Parser:
    """The arguments of the command."""
    p = Parser("explain", DESCRIPTION)
    p.add_argument("model", metavar="MODEL", nargs="?", type=Path, help="a run folder or a model file")
    p.add_argument("image", metavar="IMAGE", nargs="?", type=Path, help="the photo")
    p.add_argument(
        "--label", metavar="CLASS",
        help="what the photo shows (default: the name of its folder if that is a class, else what the model says)",
    )  # fmt: skip
    p.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: explain.html in the run folder, or here)"
    )
    p.add_argument("--open", action="store_true", help="show the page in the browser")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(explain, parser(), argv)


def explain(options: argparse.Namespace) -> None:
    """Find the model and the photo, work everything out, and write the page."""
    backend.use_backend("numpy")  # one photo, and op by op
    path = options.model or _newest_run() or _quick_run()
    photos = image_model(path)
    folder = path if path.is_dir() else path.parent
    settings = _settings(folder) if path.is_dir() or path.name == MODEL_FILE else {}
    image = options.image or _least_certain(photos, settings)
    label = options.label
    if label is None and image.absolute().parent.name in photos.class_names:
        label = image.absolute().parent.name
    output = options.output or (path if path.is_dir() else Path()) / "explain.html"
    if output.is_dir():
        raise UsageError(f"--output {output}: is a folder; name a file")
    began = time.perf_counter()
    subject = Subject(
        *photos,
        photo=image,
        label=label,
        optimizer=_optimizer(folder / "checkpoint.safetensors", photos.model) if settings else None,
        snapshots=_snapshots(folder, photos.model) if settings else [],
        history=_history(folder / "history.csv") if settings else {},
        augmented=not settings["no_augment"] if "no_augment" in settings else None,
        run=path.absolute().name,
    )
    told = explain_photo(subject)
    page = webpage(told.meta, told.arrays)
    write_atomically(output, page.encode(errors="backslashreplace"))
    print(f"{show(output)}: {len(page) / 2**20:.1f} MiB, {time.perf_counter() - began:.1f} s")
    if options.open:
        webbrowser.open(output.absolute().as_uri())


def _newest_run() -> Path | None:
    """The run folder in runs/ whose model is the newest."""
    found = sorted(Path("runs").glob(f"*/{MODEL_FILE}"), key=lambda file: file.stat().st_mtime)
    return found[-1].parent if found else None


def _quick_run() -> Path:
    """A run on a few drawn fish, made by `tinycnn train`."""
    from .datasets import fish

    print("no run in runs/: training a small one on drawn fish", file=sys.stderr)
    data, out = fish.make(train=QUICK_TRAIN, test=QUICK_TEST), Path("runs") / time.strftime("%Y%m%d-%H%M%S-quick")
    command = [sys.executable, "-m", "tinycnn.train", str(data), "--epochs", str(QUICK_EPOCHS), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as training:
        for line in training.stdout or ():  # the command's own output is the page alone
            print(line, end="", file=sys.stderr)
    if training.returncode:
        raise TinycnnError("training ended without a model")
    return out


def _settings(folder: Path) -> dict[str, Any]:
    """The run's config.toml; empty where there is none."""
    try:
        return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / 'config.toml'}: cannot be read ({error})") from None


def _least_certain(photos: ImageModel, settings: dict[str, Any]) -> Path:
    """Of the run's first test images, the one with the largest loss: the most to learn from."""
    if "data" not in settings or not Path(settings["data"]).is_dir():
        raise UsageError("name an IMAGE: the photos that this model was trained on are not known, or no longer there")
    training, test = train_and_test_folders(Path(settings["data"]))
    every = [list_images((test or training) / name) for name in photos.class_names]
    share = -(-LOOKED_AT // len(every))
    files = [file for of_class in every for file in of_class[:share]]
    images, failed = decode_files([str(f) for f in files], photos.preprocessing, MAX_PIXELS, progress=False)
    true = np.array([number for number, of_class in enumerate(every) for _ in of_class[:share]])
    outputs = photos.model.predict(to_float(images, photos.preprocessing.rescale), verbose=0)
    loss = BinaryCrossentropy() if outputs.shape[1] == 1 else SparseCategoricalCrossentropy()
    losses = [-1 if i in failed else loss(true[i : i + 1], outputs[i : i + 1]) for i in range(len(files))]
    return files[int(np.argmax(losses))]


def _optimizer(file: Path, model: Sequential) -> Adam | None:
    """Adam as the run left it, where its checkpoint belongs to these weights."""
    if not file.is_file():
        return None
    trained, _ = load_checkpoint(file)
    same = trained.get_config()["layers"] == model.get_config()["layers"] and all(
        np.array_equal(a, b) for a, b in zip(trained.get_weights(), model.get_weights(), strict=True)
    )
    return trained.optimizer if same and isinstance(trained.optimizer, Adam) else None


def _snapshots(folder: Path, model: Sequential) -> list[Snapshot]:
    """The snapshots that fit the model."""
    shapes = [weight.shape for weight in model.weights]
    read = map(read_snapshot, snapshot_files(folder))
    return [shot for shot in read if [w.shape for w in shot.weights] == shapes]


def _history(file: Path) -> dict[str, list[float]]:
    """The columns of history.csv, without the number of the epoch."""
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {}) if name != "epoch"}
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
