"""Times whole trainings from image files: decoding, augmenting, waiting and training together, epoch by epoch."""

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .common import say
from .pipelines import PIPELINES
from .results import Cell, Row, megabytes, report
from .rounds import absence
from .worker import PeerFailedError, Worker

PICTURE_SIDE = 256


def draw_pictures(folder: Path, count: int) -> None:
    """`count` JPEG files in two class folders: a warm disc or a cold square, somewhere, on smooth and fine noise."""
    for label, kind in enumerate(("disc", "square")):
        (folder / kind).mkdir(parents=True)
        for i in range(label, count, 2):
            _picture(kind, i).save(folder / kind / f"{i:05d}.jpg", quality=90)


def _picture(kind: str, i: int) -> Any:
    from PIL import Image, ImageDraw

    from tinycnn.random import generator

    rng = generator(0, "benchmark pictures", i)
    size = (PICTURE_SIDE, PICTURE_SIDE)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
    picture = Image.blend(smooth, fine, 0.15)
    x, y = rng.integers(10, PICTURE_SIDE // 2, 2).tolist()
    side = int(rng.integers(PICTURE_SIDE // 4, PICTURE_SIDE // 2 - 10))
    strong, weak = rng.integers(150, 256), rng.integers(0, 120)
    box, draw = (x, y, x + side, y + side), ImageDraw.Draw(picture)
    if kind == "disc":
        draw.ellipse(box, fill=(int(strong), int(weak), 60))
    else:
        draw.rectangle(box, fill=(60, int(weak), int(strong)))
    return picture


def run(pipeline: str, folder: str, epochs: int, batch: int, threads: int) -> dict[str, Any]:
    """Inside a worker: run one pipeline; its epochs as JSON can hold them."""
    return {"epochs": [asdict(epoch) for epoch in PIPELINES[pipeline][1](folder, epochs, batch, threads)]}


def measure(folder: Path, peers: list[str], threads: int, epochs: int, batch: int = 32) -> list[Row]:
    """One row for each pipeline of these peers: `rounds` are the epochs after the first, `figures` the rest."""
    rows = []
    for name, (peer, _) in PIPELINES.items():
        if peer in peers:
            rows.append(Row(name, problem=absence(peer)))
            if rows[-1].problem:
                continue
            say(f"  {name}")
            try:
                with Worker(peer, threads) as worker:
                    arguments = {"pipeline": name, "folder": str(folder), "epochs": epochs, "batch": batch}
                    answer = worker.ask("epochs", **arguments)["epochs"]
                    _fill(rows[-1], answer, worker.ask("memory")["bytes"])
            except PeerFailedError as error:
                rows[-1].problem = str(error)
                say(f"  {name}: {error}")
    return rows


def _fill(row: Row, epochs: list[dict[str, Any]], memory: int) -> None:
    first, *later = epochs
    row.rounds = [epoch["seconds"] for epoch in later]
    row.figures = {
        "first": first["seconds"],
        "loss": epochs[-1]["loss"],
        "accuracy": epochs[-1]["accuracy"],
        "bytes": memory + max(epoch["children"] for epoch in epochs),
    }
    if later and all(epoch["waiting"] is not None for epoch in later):
        row.figures["waiting"] = statistics.median(epoch["waiting"] / epoch["seconds"] for epoch in later)
    if not epochs[-1]["loss"] < first["loss"]:
        row.problem = f"wrong: has learned nothing, loss {first['loss']:.3f}, then {epochs[-1]['loss']:.3f}"


def tell(title: str, rows: list[Row]) -> str:
    """The table in seconds for each epoch after the first."""
    columns: dict[str, Cell] = {
        "s/epoch": lambda row: f"{row.seconds:.2f}",
        "first epoch": lambda row: f"{row.figures['first']:.2f}",
        "waiting": lambda row: f"{row.figures['waiting']:.0%}" if "waiting" in row.figures else "-",
        "MB": lambda row: megabytes(row.figures["bytes"]),
        "accuracy": lambda row: f"{row.figures['accuracy']:.3f}",
    }
    return report(title, rows, columns)
