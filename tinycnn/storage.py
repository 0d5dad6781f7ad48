"""Model files: safetensors with all that predicting needs in their metadata, written whole or not at all.

Never pickle: a file from a stranger is data, and reading it runs nothing.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import optimizers
from .errors import DataError, ModelFileError, TinycnnError, UsageError

if TYPE_CHECKING:
    from .models import Sequential

MODEL, CHECKPOINT = "tinycnn-model", "tinycnn-checkpoint"
VERSION = "1"
OPTIMIZER = "optimizer."  # prefix of the names of an optimizer's arrays


def save_model(model: "Sequential", path: str | os.PathLike[str]) -> None:
    """Write architecture, weights, class names, preprocessing and threshold to `path`. Raises DataError."""
    _write(model, Path(path), _named_weights(model), {"format": MODEL})


def load_model(path: str | os.PathLike[str]) -> "Sequential":
    """The model in a file that `save_model` wrote, ready to predict.

    Raises ModelFileError if it is no such file, is damaged, or holds other weights than its architecture has.
    """
    tensors, metadata = _read(Path(path), MODEL)
    with _damage_named(path):
        model = _rebuild(metadata)
        _fill(model, tensors)
    return model


def save_checkpoint(model: "Sequential", path: str | os.PathLike[str], epoch: int) -> None:
    """Write what training needs to go on after `epoch` epochs: the model, its optimizer and the optimizer's state."""
    optimizer = model.optimizer
    state = {OPTIMIZER + name: np.ascontiguousarray(array) for name, array in optimizer.named_arrays()}
    training = {
        "epoch": epoch,
        "optimizer": type(optimizer).__name__.lower(),
        "config": optimizer.get_config(),
        "iterations": optimizer.iterations,
        "loss": model.loss.name if model.loss else None,
        "metrics": model.metrics,
        "seed": model.seed,
    }
    metadata = {"format": CHECKPOINT, "training": json.dumps(training)}
    _write(model, Path(path), _named_weights(model) | state, metadata)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple["Sequential", int]:
    """The compiled model of a checkpoint and the number of epochs it has seen: `fit(..., initial_epoch=epoch)` goes on.

    Raises ModelFileError.
    """
    tensors, metadata = _read(Path(path), CHECKPOINT)
    with _damage_named(path):
        training = json.loads(metadata["training"])
        model = _rebuild(metadata)
        model.seed = int(training["seed"])
        optimizer = optimizers.OPTIMIZERS[training["optimizer"]](**training["config"])
        model.compile(optimizer, training["loss"], training["metrics"])
        state = {
            name.removeprefix(OPTIMIZER): tensors.pop(name) for name in list(tensors) if name.startswith(OPTIMIZER)
        }
        _fill(model, tensors)
        optimizer.restore(model.weights, int(training["iterations"]), state)
    return model, int(training["epoch"])


def _write(model: "Sequential", path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    if path.suffix in (".h5", ".hdf5", ".keras", ".pkl", ".pickle"):
        raise UsageError(f"{path}: tinycnn writes safetensors; call it {path.with_suffix('.safetensors').name}")
    if not model.built:
        raise UsageError(f"{path}: the model has no weights yet; give its first layer an input_shape, or fit it")
    metadata = metadata | {
        "version": VERSION,
        "architecture": json.dumps(model.get_config()),
        "class_names": json.dumps(model.class_names),
        "preprocessing": json.dumps(model.preprocessing.to_dict() if model.preprocessing else None),
        "threshold": json.dumps(model.threshold),
    }
    write_atomically(path, save(tensors, metadata))


@contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong while a file's content is put together is damage of that file."""
    try:
        yield
    except (TinycnnError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: damaged: {error or type(error).__name__}") from None


def _rebuild(metadata: dict[str, str]) -> "Sequential":
    from .models import Sequential
    from .preprocessing.image import Preprocessing

    model = Sequential.from_config(json.loads(metadata["architecture"]))
    model.class_names = json.loads(metadata["class_names"])
    preprocessing = json.loads(metadata["preprocessing"])
    model.preprocessing = None if preprocessing is None else Preprocessing.from_dict(preprocessing)
    model.threshold = float(json.loads(metadata["threshold"]))
    if model.class_names is not None and not all(isinstance(name, str) for name in model.class_names):
        raise DataError("class names are no list of words")
    return model


def _fill(model: "Sequential", tensors: dict[str, np.ndarray]) -> None:
    wanted = {name: (array.shape, array.dtype) for name, array in _named_weights(model).items()}
    found = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise DataError(f"weights do not fit the architecture: {', '.join(wrong)}")
    model.set_weights([tensors[name] for name in wanted])


def _named_weights(model: "Sequential") -> dict[str, np.ndarray]:
    return {
        f"{layer.name}.{name}": np.ascontiguousarray(weight.numpy())
        for layer in model.layers
        for name, weight in layer.weights.items()
    }


def _read(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelFileError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise ModelFileError(f"{path}: not a {kind} file (its metadata does not say so)")
            if metadata.get("version") != VERSION:
                version = metadata.get("version")
                raise ModelFileError(f"{path}: {kind} file of version {version!r}; this tinycnn reads {VERSION}")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise ModelFileError(f"{path}: not a {kind} file ({error})") from None


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file so that, whatever happens, either the old or the new content is there, whole. Raises DataError."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def to_json(value: Any) -> str:
    """Readable JSON with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
