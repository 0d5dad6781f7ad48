"""A campaign of faults: trainings killed at random moments, without warning, and gone on with."""

import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tinycnn.backend import current, use_backend
from tinycnn.errors import TinycnnError
from tinycnn.models import load_checkpoint, load_model
from tinycnn.random import generator
from tinycnn.train import main as train

from .findings import Finding, Part, SkippedError

NAME = "kills"
USUAL = 1000  # kills
RESUMED = 8  # every so many-th of the killed runs is gone on with, to its end
OPTIONS = ("--image-size", "12", "--batch-size", "4", "--epochs", "3", "--backend", "numpy", "--quiet")
OFTEN = ("--checkpoint-every", "1step")  # so that most of them die while they save
FILES = ("model.safetensors", "best.safetensors", "checkpoint.safetensors")


def run(part: Part) -> list[Finding]:
    """The campaign. The trainings are forks of this process: so many could not all begin by loading Python."""
    if not hasattr(os, "fork"):
        raise SkippedError("needs fork")
    before = current().name
    use_backend("numpy")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _killed(Path(folder), part)
    finally:
        use_backend(before)


def _killed(folder: Path, part: Part) -> list[Finding]:
    images = make_images(folder / "images")
    began = time.monotonic()
    assert _ended(_forked(lambda: _train(images, folder / "whole"))) == 0
    longest, wanted = time.monotonic() - began, digest(folder / "whole")
    lost, damaged, different = [], [], []
    numbers, begun, saving, resumed = part.of(USUAL), 0, 0, 0
    for number in numbers:
        out = folder / f"run{number}"
        child = _forked(lambda out=out: _train(images, out))  # type: ignore[misc]
        time.sleep(generator(0, "kill", number).uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _ended(child)
        saving += any(out.rglob(".*"))
        begun += (out / "checkpoint.safetensors").exists()
        damaged += [f"{number}: {fault}" for fault in _damage(out)]
        if number % RESUMED == 0 and (out / "config.toml").exists():
            resumed += 1
            code = _ended(_forked(lambda out=out: _resume(out)))  # type: ignore[misc]
            if code:
                lost.append(f"{number}: going on ended with {code}")
            elif digest(out) != wanted:
                different.append(f"{number}: other bytes in the end")
        shutil.rmtree(out, ignore_errors=True)
    figures = {"after the first checkpoint": begun, "with a file half-written": saving}
    return [
        Finding(NAME, "a file of a killed run does not load", len(numbers), damaged, figures),
        Finding(NAME, "a killed run cannot go on", resumed, lost),
        Finding(NAME, "it ends with other weights, moments, history or metrics", resumed, different),
    ]


def make_images(folder: Path) -> Path:
    """Pictures of two classes, 12 of each to train on and 4 to test on."""
    rng = generator(0, "killed images")
    for tree, count in (("train", 12), ("test", 4)):
        for kind in range(2):
            (folder / tree / f"kind{kind}").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (14, 14, 3)) + 50 * kind
                Image.fromarray(pixels.astype(np.uint8)).save(folder / tree / f"kind{kind}" / f"{i}.png")
    return folder


def digest(run: Path) -> str:
    """A hash of all that must not depend on what happened on the way."""
    files = [*(run / name for name in (*FILES, "history.csv")), *sorted((run / "snapshots").iterdir())]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _train(images: Path, out: Path) -> int:
    return train([str(images), *OPTIONS, *OFTEN, "--out", str(out)])


def _resume(out: Path) -> int:
    return train(["--resume", str(out), "--quiet"])


def _forked(work: Callable[[], int]) -> int:
    """The number of a process that does this work and ends with the code that it gives."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 70
    with contextlib.suppress(BaseException):
        code = work()
    os._exit(code)


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _damage(out: Path) -> list[str]:
    """Files with a final name that do not load."""
    found = []
    for name in FILES:
        try:
            if (out / name).exists():
                (load_checkpoint if name.startswith("checkpoint") else load_model)(out / name)
        except TinycnnError as error:
            found.append(str(error))
    return found
