"""Reads safetensors files from strangers: nothing in them is believed, every byte is accounted for and hashed.

The safetensors library, which writes them, maps a file into memory (where it shrinks meanwhile, the process dies),
takes headers of 100 MB and names that occur twice, and has no hash, so that damaged numbers load as if nothing were.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np

from .errors import DataError
from .files import open_regular

MAX_HEADER = 2**20  # bytes: thousands of layers
MAX_AXES = 8
HASH_FIELD = "sha256"  # of the whole file with zeros in place of this hash
NO_HASH = "0" * 64
TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip


@dataclass
class _Entry:
    """What a header says of one tensor."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # in the data behind the header
    end: int


def seal(content: bytes) -> bytes:
    """The file with its hash in place of NO_HASH, which its metadata must hold as HASH_FIELD."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end]
    digest = hashlib.sha256(content).hexdigest()
    return content[:8] + header.replace(_field(NO_HASH), _field(digest), 1) + content[end:]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a file. Raises DataError for the first thing that is wrong; OSError.

    It takes as much memory as the tensors, and a few times the header, which is at most 1 MiB.
    """
    with open(path, "rb", buffering=0, opener=open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        start = _read(file, 8)
        length = int.from_bytes(start, "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise DataError(f"its header would be {length} bytes of a file of {size}; at most {MAX_HEADER} are read")
        header = _read(file, length)
        entries, metadata = _parse(header, size - 8 - length)
        digest = metadata.pop(HASH_FIELD, "")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DataError("it holds no hash of its content: changed, or written by another program")
        found = hashlib.sha256(start + header.replace(_field(digest), _field(NO_HASH)))
        tensors = {entry.name: _read_tensor(file, entry, found) for entry in entries}
    if found.hexdigest() != digest:
        raise DataError("damaged: its content is not what was written, its SHA-256 is another")
    for name, array in tensors.items():
        if not is_finite(array):
            raise DataError(f"{name} holds NaN or infinity")
    return tensors, metadata


def _field(digest: str) -> bytes:
    return f'"{HASH_FIELD}":"{digest}"'.encode()


def _read(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    while len(content) < size:
        more = file.read(size - len(content))
        if not more:
            raise DataError("it is cut short")
        content += more
    return content


def _read_tensor(file: BinaryIO, entry: _Entry, found: Any) -> np.ndarray:
    array = np.empty(entry.shape, entry.dtype)
    place = array.reshape(-1).view(np.uint8).data
    at = 0
    while at < len(place):
        count = file.readinto(place[at:])  # type: ignore[attr-defined]
        if not count:
            raise DataError("it is cut short")
        at += count
    found.update(place)
    return array


def _parse(header: bytes, room: int) -> tuple[list[_Entry], dict[str, str]]:
    """The tensors in the order of their data, which is `room` bytes, and the metadata."""
    if header[:1] != b"{":
        raise DataError("it does not begin as a safetensors file")
    try:
        content = parse_json(header.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"its header is no JSON ({str(error)[:100]})") from None
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataError("its metadata is no table of text")
    entries = sorted((_entry(name, value, room) for name, value in content.items()), key=lambda e: (e.start, e.end))
    ends = [0, *(entry.end for entry in entries)]
    if [entry.start for entry in entries] != ends[:-1] or ends[-1] != room:
        raise DataError("its tensors overlap, leave bytes out, or do not end where the file does")
    return entries, metadata


def _entry(name: str, value: Any, room: int) -> _Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise DataError("a tensor of its header does not say dtype, shape and data_offsets, and no more")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in TYPES:
        raise DataError(f"a tensor of its header has a number type that is none of {', '.join(TYPES)}")
    if not _are_counts(shape, room) or len(shape) > MAX_AXES or not _are_counts(offsets, room) or len(offsets) != 2:
        raise DataError("a tensor of its header has a shape or a place that cannot be")
    dtype, (start, end) = np.dtype(TYPES[code]), offsets
    if prod(shape) * dtype.itemsize != end - start:
        raise DataError("a tensor of its header has a shape that does not fit its bytes")
    return _Entry(name, dtype, tuple(shape), start, end)


def _are_counts(values: Any, most: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)


def parse_json(text: str) -> Any:
    """JSON as its definition has it: no NaN, no infinity, no name twice in a table. Raises ValueError."""
    return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite, found without memory for an answer to each."""
    if array.dtype.kind != "f" or not array.size:
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.min()) and np.isfinite(array.max()))
