"""Arrays whose memory comes back when the last view of them is gone, so that a training step takes no fresh memory.

The system gives memory page by page, at a cost of up to half a millisecond per MiB, and takes large arrays back as
soon as they are freed. Arrays made here go back to a shelf instead, and the next step finds them there.
"""

import os
from math import prod
from threading import RLock

import numpy as np

from .recording import call, new

SMALL = 32 * 1024  # bytes below which NumPy's own allocator reuses memory well enough
KEPT = 2**30  # bytes that may lie idle: as many as a step has used, and no more than this
CACHE_LINE = 64  # bytes that a cache reads at once; arrays begin at one, as a vector across two costs two reads


class Shelf(dict[int, list[tuple[int, np.ndarray]]]):
    """Blocks that lie idle, by their size, each with its address; and how many bytes they are together."""

    def __init__(self) -> None:
        self.idle = 0
        self.lock = RLock()  # one that lets its own thread in: an array can go at any moment, inside `take` too

    def put(self, size: int, block: tuple[int, np.ndarray]) -> None:
        with self.lock:
            while self and size <= KEPT < self.idle + size:
                oldest = next(iter(self))  # the size that was asked for longest ago
                if self[oldest]:
                    self[oldest].pop()
                    self.idle -= oldest
                else:
                    del self[oldest]
            if size <= KEPT:
                self.idle += size
                self.setdefault(size, []).append(block)

    def take(self, size: int) -> tuple[int, np.ndarray]:
        """A block of that size: an idle one, or fresh memory."""
        with self.lock:
            if blocks := self.pop(size, None):
                self[size] = blocks  # now the newest
                self.idle -= size
                return blocks.pop()
        raw = np.empty(size + CACHE_LINE, np.uint8)
        return raw.ctypes.data + -raw.ctypes.data % CACHE_LINE, raw


_shelf = Shelf()

if hasattr(os, "register_at_fork"):  # the thread that held the lock did not come along
    os.register_at_fork(after_in_child=lambda: setattr(_shelf, "lock", RLock()))


class _Lease:
    """Lends a block to an array; NumPy keeps it alive as the array's base, and the block returns when it goes."""

    def __init__(self, size: int, block: tuple[int, np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.size, self.block = size, block
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.str, "data": (block[0], False),
        }  # fmt: skip

    def __del__(self) -> None:
        if _shelf is not None:  # None while Python shuts down
            _shelf.put(self.size, self.block)


def empty(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """An array of undefined content, as numpy.empty."""
    dtype = np.dtype(dtype)
    size = _rounded(prod(shape) * dtype.itemsize)
    if size <= SMALL:
        return new(np.empty(shape, dtype))
    return new(np.asarray(_Lease(size, _shelf.take(size), tuple(shape), dtype)))


def zeros(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """An array of zeros."""
    array = empty(shape, dtype)
    call(array.fill, 0)
    return array


def ready(array: np.ndarray) -> np.ndarray:
    """The array itself if a compiled kernel can take it: in C order, aligned and writeable; else a copy that is.

    Kernels write to no input, but a read-only array would be another type to Numba, compiled for once more.
    """
    if array.flags.carray:
        return array
    copy = empty(array.shape, array.dtype)
    call(np.copyto, copy, array)
    return copy


def idle() -> int:
    """How many bytes lie on the shelf."""
    return _shelf.idle


def _rounded(size: int) -> int:
    """The size in steps of an eighth of its leading power of two: a ragged last batch shares few sizes, not many."""
    step = max(CACHE_LINE, 1 << max(size.bit_length() - 4, 0))
    return -(-size // step) * step
