"""Arrays whose memory comes back when the last view of them is gone, so that a training step takes no fresh memory.

The system gives memory page by page, at a cost of up to half a millisecond per MiB, and takes large arrays back as
soon as they are freed. Arrays made here go back to a shelf instead, and the next step finds them there.
"""

from math import prod

import numpy as np

SMALL = 32 * 1024  # bytes below which NumPy's own allocator reuses memory well enough
KEPT = 192 * 2**20  # bytes that may lie idle
ALIGNMENT = 64  # bytes: a vector that crosses a cache line costs two reads

_shelf: dict[int, list[np.ndarray]] = {}


class _Lease:
    """Lends a block to an array; NumPy keeps it alive as the array's base, and the block returns when it goes."""

    def __init__(self, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.block = block
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.str, "data": (block.ctypes.data, False),
        }  # fmt: skip

    def __del__(self) -> None:
        if _shelf is not None and idle() + self.block.nbytes <= KEPT:  # None while Python shuts down
            _shelf.setdefault(self.block.nbytes, []).append(self.block)


def empty(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """An array of undefined content, as numpy.empty."""
    dtype = np.dtype(dtype)
    size = _rounded(prod(shape) * dtype.itemsize)
    if size <= SMALL:
        return np.empty(shape, dtype)
    try:
        block = _shelf[size].pop()
    except (KeyError, IndexError):
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        block = raw[start : start + size]
    return np.asarray(_Lease(block, tuple(shape), dtype))


def zeros(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """An array of zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def ready(array: np.ndarray) -> np.ndarray:
    """The array itself if a compiled kernel can take it: in C order, aligned and writeable; else a copy that is.

    Kernels write to no input, but a read-only array would be another type to Numba, compiled for once more.
    """
    if array.flags.carray:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def idle() -> int:
    """How many bytes lie on the shelf."""
    return sum(size * len(blocks) for size, blocks in list(_shelf.items()))


def _rounded(size: int) -> int:
    """The size in steps of an eighth of its leading power of two: a ragged last batch shares few sizes, not many."""
    step = max(ALIGNMENT, 1 << max(size.bit_length() - 4, 0))
    return -(-size // step) * step
