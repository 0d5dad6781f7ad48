"""A GPU's work recorded once and launched as one: a small network's kernels take less time than launching each."""

from collections.abc import Callable, Sequence
from typing import Any

import cupy


class Graph:
    """What `work(*inputs)` launches, as a CUDA graph with memory of its own; a call launches it for other inputs.

    `first(*inputs)` does the same work before, at once and with its effects: it takes from CuPy's pool the memory
    that recording then finds there, and compiles what is not compiled. Its result is in `result`. `recorded` is False
    where the work uses what CuPy cannot record, such as a library's matrix product: then it must not be called.
    """

    def __init__(self, first: Callable[..., Any], work: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self.inputs = [cupy.array(array) for array in inputs]
        self._pool = cupy.cuda.MemoryPool()  # nobody else may get what the graph writes to
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        with cupy.cuda.using_allocator(self._pool.malloc), stream:
            self.result = first(*self.inputs)
            stream.synchronize()
            stream.begin_capture()
            try:
                self._outputs = work(*self.inputs)
                self.recorded = True
            except NotImplementedError:
                self.recorded = False
            finally:
                self._graph = stream.end_capture()

    def __call__(self, *inputs: Any) -> Any:
        """The outputs of the work, which the next call overwrites."""
        for mine, new in zip(self.inputs, inputs, strict=True):
            if isinstance(new, cupy.ndarray):
                mine[...] = new
            else:
                mine.set(new)
        self._graph.launch()
        return self._outputs
