"""A campaign of faults: a model file and a checkpoint, cut at every place, and with every single bit changed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinycnn.backend import current, use_backend
from tinycnn.errors import ModelFileError
from tinycnn.layers import Dense, Flatten
from tinycnn.models import Sequential, load_checkpoint, load_model
from tinycnn.preprocessing.image import Preprocessing

from .findings import Finding, Part

NAME = "flips"
LEAST = 3000  # bytes of a file


def run(part: Part) -> list[Finding]:
    """The campaign; `count` is the number of cases of each kind and file."""
    before = current().name
    use_backend("numpy")
    try:
        with tempfile.TemporaryDirectory() as folder:
            model, checkpoint = write_files(Path(folder))
            kinds = [("model file", model, load_model), ("checkpoint", checkpoint, load_checkpoint)]
            return [finding for kind in kinds for finding in _of_a_file(*kind, part)]
    finally:
        use_backend(before)


def write_files(folder: Path) -> tuple[Path, Path]:
    """A model file and a checkpoint of a trained model, each of at least 3 KB."""
    model = Sequential([Flatten(input_shape=(5, 5, 3)), Dense(8, "relu"), Dense(1, "sigmoid")], seed=1)
    model.compile("adam", "binary_crossentropy", ["accuracy"])
    x = np.random.default_rng(0).random((6, 5, 5, 3), np.float32)
    model.train_on_batch(x, np.arange(6) % 2)
    model.class_names, model.preprocessing = ["angelfish", "clownfish"], Preprocessing((5, 5), rescale=1 / 255)
    files = folder / "model.safetensors", folder / "checkpoint.safetensors"
    model.save(files[0])
    model.save_checkpoint(files[1])
    assert all(file.stat().st_size >= LEAST for file in files)
    return files


def _of_a_file(name: str, path: Path, load: Callable[[Path], Any], part: Part) -> list[Finding]:
    whole = path.read_bytes()
    load(path)
    kinds: dict[str, tuple[int, Callable[[int], bytes]]] = {
        f"a {name} loads that was cut": (len(whole), lambda i: whole[:i]),
        f"a {name} loads with one bit changed": (8 * len(whole), lambda i: flipped(whole, i)),
        f"a {name} loads with one byte too many": (
            len(whole) + 1,
            lambda i: whole[:i] + bytes([i % 256]) + whole[i:],
        ),
    }
    findings = []
    for never, (every, change) in kinds.items():
        numbers = part.sample(every)
        outcomes = {i: outcome(path, change(i), load) for i in numbers}
        broken = [f"{i} of {every}: {what}" for i, what in outcomes.items() if what != "refused"]
        findings.append(Finding(NAME, never, len(numbers), broken))
    return findings


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(path: Path, content: bytes, load: Callable[[Path], Any]) -> str:
    """ "refused", "loaded", or the exception that should not have come."""
    path.write_bytes(content)
    try:
        load(path)
    except ModelFileError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "loaded"
