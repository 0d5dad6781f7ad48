"""Decodes every image of a data set once, in several threads, into one uint8 array."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

import numpy as np

from ..errors import DataError
from ..files import show
from .load import pillow_warnings_hidden, reason
from .settings import Preprocessing

MEMORY_LIMIT = 2 * 2**30  # bytes; a larger array lives in a temporary file
PROGRESS_FROM = 500  # images


def decode_files(
    paths: Sequence[str], settings: Preprocessing, max_pixels: int, progress: bool | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """All images as uint8 (N, H, W, C), and why each unreadable one was left blank: {index: reason}.

    progress: show a bar on stderr; None: if there are at least 500 images and stderr is a terminal.
    """
    images = _allocate((len(paths), *settings.image_shape))
    failed: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            images[index] = settings.read_uint8(paths[index], max_pixels)
        except Exception as error:  # a damaged file can make a decoder raise anything
            failed[index] = reason(error)

    if progress is None:
        progress = len(paths) >= PROGRESS_FROM and sys.stderr.isatty()
    with pillow_warnings_hidden(), ThreadPool(min(16, os.cpu_count() or 1)) as pool:
        done = pool.imap_unordered(decode, range(len(paths)), chunksize=4)
        if progress:
            from tqdm import tqdm

            done = tqdm(done, total=len(paths), desc="Reading images", unit="image", file=sys.stderr)
        for _ in done:
            pass
    return images, dict(sorted(failed.items()))


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    if size <= MEMORY_LIMIT:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="tinycnn-") as file:  # the map keeps the file alive
        _reserve(file.fileno(), size)
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on disk now: writing to a map of a full disk would kill the process later."""
    folder = tempfile.gettempdir()
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        elif shutil.disk_usage(folder).free < size:
            raise OSError("no space left")
    except OSError as error:
        raise DataError(
            f"no room for {size / 2**30:.1f} GiB of decoded images in {show(folder)}: {error.strerror or error}; "
            "set TMPDIR to a folder on a larger disk, or use a smaller target_size"
        ) from error
