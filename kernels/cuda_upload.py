"""Rows of an array on their way to the GPU, through memory that it reads by itself while Python goes on."""

import threading
from math import prod
from typing import Any

import cupy
import numpy as np


class Uploads:
    """Two buffers in turn: while the GPU reads one, the next rows are gathered in the other."""

    def __init__(self) -> None:
        self._buffers: list[Any] = [None, None]
        self._events: list[Any] = [None, None]
        self._turn = 0
        self._lock = threading.Lock()

    def __call__(self, array: np.ndarray, rows: np.ndarray) -> Any:
        """array[rows] as an array of the GPU, for rows from 0 to the last."""
        with self._lock:
            return self._send(array, rows)

    def _send(self, array: np.ndarray, rows: np.ndarray) -> Any:
        self._turn = 1 - self._turn
        if self._events[self._turn] is not None:
            self._events[self._turn].synchronize()  # what was sent from this buffer has arrived
        shape = (len(rows), *array.shape[1:])
        gathered = self._buffer(prod(shape) * array.itemsize).view(array.dtype).reshape(shape)
        np.take(array, rows, axis=0, out=gathered, mode="clip")  # "raise" would gather in fresh memory first
        sent = cupy.empty(shape, array.dtype)
        stream = cupy.cuda.get_current_stream()
        sent.set(gathered, stream)
        self._events[self._turn] = stream.record()
        return sent

    def _buffer(self, size: int) -> np.ndarray:
        """So many bytes of this turn's buffer, which grows where it must."""
        buffer = self._buffers[self._turn]
        if buffer is None or buffer.size < size:
            memory = cupy.cuda.alloc_pinned_memory(max(size, 1))
            buffer = self._buffers[self._turn] = np.frombuffer(memory, np.uint8)
        return buffer[:size]
