"""A GPU's work recorded once and launched as one: a small network's kernels take less time than launching each."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import cupy


class Graph:
    """What `work(*inputs)` launches, as a CUDA graph with memory of its own; a call launches it for other inputs.

    Making it does the work once for real: that compiles kernels and fills the graph's memory; `result` is what it
    gave. `recorded` is False where recording failed, as with a library's matrix product, which CuPy refuses to record,
    or for lack of memory; then there is nothing to call.
    """

    MOST = 2**22  # numbers of a batch: with more, the GPU is busy for longer than launching takes

    def __init__(self, work: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self.inputs = [cupy.array(array) for array in inputs]
        self._pool = cupy.cuda.MemoryPool()  # nobody else may get what the graph writes to
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        cupy.get_default_memory_pool().free_all_blocks()  # what lies idle there may be what is missing here
        with cupy.cuda.using_allocator(self._pool.malloc), stream:
            self.result = work(*self.inputs)
            stream.synchronize()
            self.recorded = self._record(work, stream)

    def _record(self, work: Callable[..., Any], stream: Any) -> bool:
        """Whether that succeeded; the work has been done in any case, so no error may escape."""
        stream.begin_capture()
        try:
            self._outputs = work(*self.inputs)
        except Exception:
            with suppress(Exception):  # that the recording is broken is known
                stream.end_capture()
            return False
        self._graph = stream.end_capture()
        return True

    def __call__(self, *inputs: Any) -> Any:
        """The outputs of the work, which the next call overwrites."""
        for mine, new in zip(self.inputs, inputs, strict=True):
            mine[...] = new
        self._graph.launch()
        return self._outputs
