"""A campaign of faults: a save in which a single call to the system fails, or before which the process dies."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tinycnn.backend import current, use_backend
from tinycnn.errors import TinycnnError
from tinycnn.models import load_checkpoint, load_model

from .common import ROOT
from .fault_flips import write_files
from .findings import Finding, Part, SkippedError

NAME = "saves"
FAULTS = {"killed": 0, "disk full": errno.ENOSPC, "failing": errno.EIO}
MOST = 50  # calls of a save
SAVE = """
import sys
from tinycnn.backend import use_backend
from tinycnn.models import load_checkpoint, load_model
use_backend("numpy")
kind, path = sys.argv[1:]
model = load_model(path) if kind == "model" else load_checkpoint(path)[0]
model.set_weights([weight + 1 for weight in model.get_weights()])
model.save(path) if kind == "model" else model.save_checkpoint(path)
"""


def run(part: Part) -> list[Finding]:
    """The campaign, over every call of a save; `count` is the number of calls of each kind and file."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise SkippedError("needs Linux and a C compiler")
    before = current().name
    use_backend("numpy")
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "faults.so"
            source = Path(__file__).with_name("fault_calls.c")
            subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
            files = dict(zip(("model", "checkpoint"), write_files(Path(folder)), strict=True))
            return [
                finding for what, number in FAULTS.items() for kind, path in files.items()
                for finding in _of_a_save(kind, path, what, number, library, part)
            ]  # fmt: skip
    finally:
        use_backend(before)


def _of_a_save(kind: str, path: Path, what: str, number: int, library: Path, part: Part) -> list[Finding]:
    old, broken, told, places = path.read_bytes(), [], [], []
    for at in range(part.skip + 1, part.skip + 1 + (part.count or MOST)):
        path.write_bytes(old)
        log = library.with_name("calls")
        log.unlink(missing_ok=True)
        environment = os.environ | {
            "LD_PRELOAD": str(library), "FAULT_PATH": str(path.parent), "FAULT_AT": str(at), "FAULT_ERRNO": str(number),
            "FAULT_LOG": str(log),
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", SAVE, kind, path], cwd=ROOT, env=environment, capture_output=True)
        calls = log.read_text().split()
        if len(calls) < at:
            break  # there is no such call any more
        places.append(calls[at - 1])
        if fault := _damage(kind, path):
            broken.append(f"{what} at call {at}, {places[-1]}: {fault}")
        left = [file.name for file in path.parent.glob(f".{path.name}.*")]
        if number and (left or b"DataError" not in done.stderr):
            told.append(f"{what} at call {at}, {places[-1]}: left {left}, said {done.stderr[-200:]!r}")
        for name in left:
            (path.parent / name).unlink()
    path.write_bytes(old)
    figures = {f"calls of a {kind}'s save": " ".join(places)}
    findings = [Finding(NAME, f"neither the old nor the new {kind} loads ({what})", len(places), broken, figures)]
    if number:
        findings.append(Finding(NAME, f"a {kind}'s save fails unsaid, or leaves a half ({what})", len(places), told))
    return findings


def _damage(kind: str, path: Path) -> str | None:
    """Why the file is neither the old nor the new one."""
    try:
        model = load_model(path) if kind == "model" else load_checkpoint(path)[0]
    except TinycnnError as error:
        return str(error)
    return None if all(np.isfinite(weight).all() for weight in model.get_weights()) else "other weights"
