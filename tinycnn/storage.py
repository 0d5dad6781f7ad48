"""Files of numbers that can be trusted: safetensors with their meaning as JSON, written whole or not at all.

Never pickle: a file from a stranger is data, and reading it runs nothing.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from . import tensorfile
from .errors import DataError, DivergenceError, ModelFileError, TinycnnError, UsageError
from .files import show

FilePath = str | os.PathLike[str]

MODEL, CHECKPOINT = "tinycnn-model", "tinycnn-checkpoint"
VERSION = "1"


def write(path: FilePath, kind: str, tensors: dict[str, np.ndarray], meaning: dict[str, Any]) -> None:
    """Write tensors, and what they mean as values that JSON can hold.

    Raises UsageError, DataError; DivergenceError for numbers that are none, since `read` would refuse them.
    """
    from safetensors.numpy import save

    path = Path(path)
    if path.suffix.lower() in (".h5", ".hdf5", ".keras", ".pkl", ".pickle"):
        raise UsageError(f"{path}: tinycnn writes safetensors; call it {path.with_suffix('.safetensors').name}")
    for name, array in tensors.items():
        if not tensorfile.is_finite(array):
            raise DivergenceError(
                f"{path}: not written: {name} holds NaN or infinity; train with a smaller learning rate"
            )
    metadata = {name: json.dumps(value) for name, value in meaning.items()} | {"format": kind, "version": VERSION}
    metadata[tensorfile.HASH_FIELD] = tensorfile.NO_HASH
    content = _in_order(save({name: np.ascontiguousarray(a) for name, a in tensors.items()}, metadata))
    write_atomically(path, tensorfile.seal(content))


def _in_order(data: bytes) -> bytes:
    """The same file with a sorted header: safetensors orders metadata at random, and equal models make equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # numbers stay aligned
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def read(path: FilePath, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and their meaning. Raises ModelFileError if the file is not of this kind, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        tensors, metadata = tensorfile.read(path)
    except (DataError, OSError) as error:
        raise ModelFileError(f"{path}: not a {kind} file, or damaged: {one_line(error)}") from None
    if metadata.get("format") != kind:
        raise ModelFileError(f"{path}: not a {kind} file (its metadata does not say so)")
    if metadata.get("version") != VERSION:
        version = show(metadata.get("version", "none")[:20])
        raise ModelFileError(f"{path}: a {kind} file of version {version}; this tinycnn reads version {VERSION}")
    with damage_named(path):
        rest = (name for name in metadata if name not in ("format", "version"))
        return tensors, {name: tensorfile.parse_json(metadata[name]) for name in rest}


@contextmanager
def damage_named(path: FilePath) -> Iterator[None]:
    """Whatever goes wrong while a file's content is put together is damage of that file: ModelFileError names it."""
    try:
        yield
    except (TinycnnError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: damaged: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """What went wrong as one short line, whatever names from a file it repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return show(text[:200]) or type(error).__name__


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
        temporary = None
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)


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
