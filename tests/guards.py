"""Arrays that notice when a compiled kernel, which checks no index, reads or writes beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from tinycnn.kernels import memory

MARGIN = 256  # bytes on each side: more than a kernel's longest step past an end


class Guards:
    """Hands out arrays between two margins; what nobody has written holds no number (NaN), or 1 in whole numbers."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []

    def empty(self, shape, dtype=np.float32) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        raw = np.empty(MARGIN + size + MARGIN + memory.CACHE_LINE, np.uint8)
        start = -raw.ctypes.data % memory.CACHE_LINE
        block = raw[start : start + (size + 2 * MARGIN) // dtype.itemsize * dtype.itemsize].view(dtype)
        block[:] = self.poison(dtype)
        self.blocks.append(block)
        margin = MARGIN // dtype.itemsize
        return block[margin : len(block) - margin].reshape(shape)

    def copy(self, array: np.ndarray) -> np.ndarray:
        """An array of the same content."""
        guarded = self.empty(array.shape, array.dtype)
        guarded[...] = array
        return guarded

    @staticmethod
    def poison(dtype: np.dtype) -> float:
        return np.nan if dtype.kind == "f" else 1

    def check(self) -> None:
        """No margin has changed."""
        for block in self.blocks:
            margin = MARGIN // block.itemsize
            beside = np.concatenate([block[:margin], block[-margin:]])
            np.testing.assert_array_equal(beside, self.poison(block.dtype), "somebody wrote beside an array")


@contextmanager
def guarded() -> Iterator[Guards]:
    """Inside this block kernels get all their memory from the guards, which are checked at its end."""
    guards = Guards()
    with mock.patch.object(memory, "empty", guards.empty):
        yield guards
    guards.check()
