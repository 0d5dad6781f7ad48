"""A GPU that is none, for the whole of the cupy backend: its arrays refuse to meet NumPy's, and its graphs replay.

host_cupy.py runs the kernels; this adds what a training needs around them. As with CuPy, an expression of an array of
the GPU and one of NumPy is an error, and work recorded in a graph, kernels and expressions alike, does not run before
the graph does, and then each time.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any
from unittest import mock
from weakref import WeakSet

import numpy as np
from host_cupy import HostCupy, HostKernel, HostModule

from tinycnn import backend

ABOVE = tuple(f"tinycnn.kernels.{name}" for name in ("cuda", "cuda_graph", "cuda_upload"))  # what imports CuPy


HOMES: WeakSet["HostGpu"] = WeakSet()


class Flags:
    """What CuPy knows of an array's layout."""

    def __init__(self, array: np.ndarray) -> None:
        flags = array.view(np.ndarray).flags
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class DeviceArray(np.ndarray):
    """An array in the GPU's memory."""

    @property
    def flags(self):
        return Flags(self)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        _no_host_arrays(ufunc.__name__, (*inputs, *(out or ())))
        if ufunc is np.matmul and _recording() is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        result = _expression(getattr(ufunc, method), *inputs, **options)
        if not out:
            return result
        out[0][...] = result
        return out[0]

    def __matmul__(self, other):
        return np.matmul(self, other)

    def __array_function__(self, function, types, arguments, options):
        _no_host_arrays(function.__name__, (*arguments, *options.values()))
        return _expression(function, *arguments, **options)

    def __setitem__(self, place, value) -> None:
        _no_host_arrays("assignment", (value,))
        _work(lambda: np.ndarray.__setitem__(_plain(self), _plain(place), _plain(value)))

    def __getitem__(self, place):
        _no_host_arrays("indexing", place if isinstance(place, tuple) else (place,))
        return _device(super().__getitem__(place))

    def astype(self, dtype, copy=True):
        return self if self.dtype == dtype and not copy else _expression(np.ndarray.astype, self, dtype)

    def copy(self):
        return _expression(np.ndarray.copy, self)

    def mean(self, axis=None):
        return _expression(np.mean, self, axis)

    def argmax(self, axis=None):
        return _expression(np.argmax, self, axis)

    def take(self, numbers, axis=None, out=None, mode="raise"):
        _no_host_arrays("take", (numbers,))
        return _expression(np.take, self, numbers, axis)

    def set(self, host: np.ndarray, stream: Any = None) -> None:
        assert type(host) is np.ndarray
        if stream:
            stream.home.uploads.append(host.nbytes)
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        _plain(self)[...] = host


def _recording() -> list[Any] | None:
    """The work of the graph that is being recorded."""
    return next((home.recording for home in HOMES if home.recording is not None), None)


def _work(work: Any) -> None:
    """Do it, or note it for the graph."""
    if (recording := _recording()) is None:
        work()
    else:
        recording.append((work,))


def _expression(function: Any, *arguments: Any, **options: Any) -> Any:
    """What a function makes of arrays: a new one, into which a graph writes each time."""
    arguments, options = _plain(arguments), {name: _plain(value) for name, value in options.items()}
    with np.errstate(all=None if _recording() is None else "ignore"):  # recorded from numbers that mean nothing
        result = _device(function(*arguments, **options))
    if _recording() is not None and not any(np.may_share_memory(_plain(result), a) for a in arguments if _is_array(a)):
        _work(lambda: np.copyto(_plain(result), function(*arguments, **options)))
        if result.dtype.kind == "f":
            _plain(result)[...] = np.nan
    return result


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _device(value: Any) -> Any:
    """What an expression gives is an array on the GPU, a single number too."""
    return np.asarray(value).view(DeviceArray) if isinstance(value, np.ndarray | np.generic) else value


def _no_host_arrays(what: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if type(value) is np.ndarray:
            raise TypeError(f"{what}: an array of NumPy's, of shape {value.shape}, meets one of the GPU")


class HostGpu(HostCupy):
    """CuPy with a GPU. `uploads` notes the bytes that each copy to the GPU took."""

    ndarray = DeviceArray

    def __init__(self, cache: Any) -> None:
        super().__init__(cache)
        self.__spec__ = ModuleSpec("cupy", None)
        HOMES.add(self)
        self.uploads: list[int] = []
        self.devices, self.driver, self.free = 1, 13000, 2**30
        self.recording: list[Any] | None = None
        self.graphs: list[Graph] = []
        runtime = SimpleNamespace(
            CUDARuntimeError=RuntimeError,
            getDeviceCount=self._count,
            driverGetVersion=lambda: self.driver,
            getDeviceProperties=lambda device: {"name": b"a stand-in"},
            memGetInfo=lambda: (self.free, 2**31),
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            Device=lambda: SimpleNamespace(id=0),
            MemoryPool=lambda: SimpleNamespace(malloc=None),
            using_allocator=_nothing,
            Stream=lambda non_blocking: Stream(self),
            get_current_stream=lambda: Stream(self),
            alloc_pinned_memory=bytearray,
        )

    def _count(self) -> int:
        if not self.driver:
            raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return self.devices

    def get_default_memory_pool(self) -> SimpleNamespace:
        return SimpleNamespace(free_all_blocks=lambda: None)

    def empty(self, shape, dtype=np.float32) -> DeviceArray:
        return super().empty(shape, dtype).view(DeviceArray)

    def zeros(self, shape, dtype) -> DeviceArray:
        return np.zeros(shape, dtype).view(DeviceArray)

    def full(self, shape, value, dtype) -> DeviceArray:
        _no_host_arrays("full", (value,))
        return np.full(shape, value, dtype).view(DeviceArray)

    def array(self, data) -> DeviceArray:
        return np.array(self.asarray(data)).view(DeviceArray)

    def asarray(self, data, dtype=None) -> DeviceArray:
        if not isinstance(data, DeviceArray):
            self.uploads.append(np.asarray(data).nbytes)
            data = np.array(data).view(DeviceArray)
        return data if dtype is None else data.astype(dtype, copy=False)

    def ascontiguousarray(self, data) -> DeviceArray:
        assert isinstance(data, DeviceArray)
        return np.array(_plain(data), order="C", copy=None, ndmin=0).view(DeviceArray)

    def asnumpy(self, data) -> np.ndarray:
        assert self.recording is None, "a graph cannot wait for the GPU"
        return np.array(_plain(data))

    def dot(self, a, b, out) -> None:
        if self.recording is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        np.dot(_plain(a), _plain(b), out=_plain(out))

    def RawModule(self, **options) -> HostModule:  # noqa: N802
        module = super().RawModule(**options)
        module.get_function = lambda name: GraphedKernel(module, name)  # type: ignore[method-assign]
        return module


class GraphedKernel(HostKernel):
    """A kernel that a graph may record in place of running it."""

    def __call__(self, grid, block, arguments) -> None:
        home: Any = self.module.home
        assert all(isinstance(a, DeviceArray | np.generic) for a in arguments), "an array of NumPy's in a launch"
        if home.recording is None:
            super().__call__(grid, block, arguments)
        else:
            home.recording.append((super().__call__, grid, block, arguments))


class Stream:
    def __init__(self, home: HostGpu) -> None:
        self.home = home

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def synchronize(self) -> None:
        assert self.home.recording is None

    def record(self) -> "Stream":
        return self

    def begin_capture(self) -> None:
        self.home.recording = []

    def end_capture(self) -> "Graph":
        recorded, self.home.recording = self.home.recording, None
        assert recorded
        self.home.graphs.append(Graph(recorded))
        return self.home.graphs[-1]


class Graph:
    def __init__(self, recorded: list[Any]) -> None:
        self.recorded, self.launches = recorded, 0
        self.kernels = sum(len(work) > 1 for work in recorded)  # those of the .cu files

    def launch(self) -> None:
        self.launches += 1
        for kernel, *arguments in self.recorded:
            kernel(*arguments)


@contextmanager
def _nothing(*_: Any) -> Iterator[None]:
    yield


@contextmanager
def importable(home: HostCupy | None) -> Iterator[None]:
    """Inside this block `import cupy` finds this (None: nothing), and the cupy backend has not been loaded yet."""
    loaded = {name: known for name, known in backend._loaded.items() if name != "cupy"}
    before = {name: sys.modules.pop(name, None) for name in ("cupy", *ABOVE)}
    sys.modules["cupy"] = home  # type: ignore[assignment]
    try:
        with mock.patch.dict(backend._loaded, loaded, clear=True):
            yield
    finally:
        for name, known in before.items():
            sys.modules.pop(name, None)
            if known:
                sys.modules[name] = known
