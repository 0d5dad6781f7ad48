"""A campaign of faults: the same training with other numbers of threads and beside busy neighbours, again and again."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .common import ROOT
from .fault_kills import make_images
from .findings import Finding, Part

NAME = "bits"
USUAL = 20  # repetitions of each kind
KINDS = {
    "1 thread": (1, 0), "2 threads": (2, 0), "1 thread beside a busy process": (1, 1),
    "2 beside a busy process": (2, 1), "2 beside two busy processes": (2, 2),
}  # fmt: skip
OPTIONS = ("--image-size", "32", "--batch-size", "6", "--epochs", "1", "--backend", "numba", "--quiet")


def run(part: Part) -> list[Finding]:
    """The campaign; `count` is the number of repetitions of each kind. Every training is a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        images, wanted = make_images(Path(folder) / "images"), None
        findings = []
        for about, (threads, neighbours) in KINDS.items():
            numbers, broken = part.of(USUAL), []
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
            try:
                for number in numbers:
                    found = _trained(images, Path(folder) / f"{about}{number}", threads)
                    wanted = wanted or found
                    broken += [f"{about}, repetition {number}: {found}"] if found != wanted else []
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            findings.append(Finding(NAME, f"other bits after an epoch: {about}", len(numbers), broken))
        return findings


def _trained(images: Path, out: Path, threads: int) -> str:
    """The SHA-256 of a training's model and checkpoint."""
    command = [sys.executable, "-m", "tinycnn.train", images, *OPTIONS, "--threads", str(threads), "--out", out]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ, stdout=subprocess.DEVNULL)
    names = ("model.safetensors", "checkpoint.safetensors")
    return hashlib.sha256(b"".join((out / name).read_bytes() for name in names)).hexdigest()
