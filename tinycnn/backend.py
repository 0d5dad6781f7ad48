"""Where arrays live and which kernels work on them: numpy, numba or cupy, chosen by name at run time.

Nothing is imported until it is used: `import tinycnn` loads neither numba nor cupy.
"""

import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from .errors import BackendError, UsageError

NAMES = ("numpy", "numba", "cupy")
MOST_THREADS = 4096  # a sane limit, below that of the libraries
GPU_SHARE = 0.5  # of a GPU's free memory that a data set may take


class Backend:
    """The kernels of one kind of array: `backend.im2col(...)` is that backend's im2col, or the reference's.

    A backend may be partial. Complex numbers, which only gradient checks use, go to the reference.
    """

    device = "the CPU"
    asynchronous = False  # whether it works while Python goes on
    graph: Any = None  # what records work to do it again at once, where there is such a thing

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self._kernels = importlib.import_module(f".kernels.{module}", __package__)
        self._reference = importlib.import_module(".kernels.reference", __package__)
        self._memory = importlib.import_module(".kernels.memory", __package__)
        self.graph = getattr(self._kernels, "Graph", None)
        self.notes_calls = self.has("Graph")  # whether its kernels do, see kernels/recording.py
        # How many threads kernels may use that are called now.
        self.threads: Callable[[], int] = getattr(self._kernels, "usable_threads", lambda: 1)

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return get, (self.name,)  # a copy of a model works with the same backend

    def has(self, kernel: str) -> bool:
        """Whether this backend has a kernel of its own by that name."""
        return hasattr(self._kernels, kernel)

    def __getattr__(self, kernel: str) -> Callable[..., Any]:
        if kernel.startswith("__"):
            raise AttributeError(kernel)
        return getattr(self._kernels if self.has(kernel) else self._reference, kernel)

    def for_dtype(self, dtype: np.dtype) -> "Backend":
        """This backend, or numpy for the number types that only the reference knows."""
        return self if dtype in (np.float32, np.float64) else get("numpy")

    def holds(self, data: Any) -> bool:
        """Whether data is an array of this backend, and of no class derived from it."""
        return type(data) is np.ndarray

    def asarray(self, data: Any) -> Any:
        """Data as an array of this backend, in the byte order of this machine."""
        array = np.asarray(data)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def stored(self, array: np.ndarray) -> Any:
        """The array where this backend reads rows of it fastest, if there is room; else as it is."""
        return array

    def rows(self, stored: Any, numbers: np.ndarray) -> Any:
        """Rows of what `stored` gave, as an array of this backend."""
        return np.asarray(stored[numbers])

    def number(self, value: float, place: Any, dtype: Any) -> Any:
        """A number as kernels take one that changes from step to step; `place` is what the step before got."""
        if not self.graph:
            return value
        place = self.zeros((1,), dtype) if place is None else place
        place.fill(value)
        return place

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros."""
        return self._memory.zeros(shape, dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        """An array of this backend as a NumPy array."""
        return np.asarray(array)


class GpuBackend(Backend):
    """Arrays in the memory of an NVIDIA GPU, and kernels that run there while Python goes on."""

    asynchronous = True

    def __init__(self) -> None:
        if _tf32:
            os.environ["CUPY_TF32"] = "1"  # CuPy looks when it makes its first matrix product
        self.cupy = _cupy()
        super().__init__("cupy", "cuda")
        name = self.cupy.cuda.runtime.getDeviceProperties(self.cupy.cuda.Device().id)["name"]
        self.device = name.decode(errors="replace")
        self.graph = importlib.import_module(".kernels.cuda_graph", __package__).Graph
        self._upload = importlib.import_module(".kernels.cuda_upload", __package__).Uploads()

    def for_dtype(self, dtype: np.dtype) -> Backend:
        if dtype not in (np.float32, np.float64):
            raise BackendError(f"backend 'cupy' knows no numbers of type {dtype}; use backend 'numpy'")
        return self

    def holds(self, data: Any) -> bool:
        return isinstance(data, self.cupy.ndarray)

    def asarray(self, data: Any) -> Any:
        return data if self.holds(data) else self.cupy.asarray(super().asarray(data))

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.cupy.zeros(shape, dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        return self.cupy.asnumpy(array)

    def stored(self, array: np.ndarray) -> Any:
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        return self.asarray(array) if array.nbytes < free * GPU_SHARE else array

    def rows(self, stored: Any, numbers: np.ndarray) -> Any:
        if self.holds(stored):
            return stored.take(self.asarray(numbers), axis=0)
        return self._upload(stored, numbers)


def _cupy() -> Any:
    """CuPy, on a machine where it finds a GPU. Raises BackendError, which says what is missing."""
    try:
        import cupy
    except ImportError as error:
        reason = "CuPy is not installed" if error.name == "cupy" else f"CuPy cannot be loaded ({error})"
        raise _no_gpu(f"{reason}; `pip install cupy-cuda13x` (or cupy-cuda12x, as the driver's CUDA is)") from None
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        missing = cupy.cuda.runtime.driverGetVersion() == 0
        raise _no_gpu("no NVIDIA driver; install one" if missing else f"the GPU does not answer ({error})") from None
    if not devices:
        raise _no_gpu("the driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)")
    return cupy


def _no_gpu(reason: str) -> BackendError:
    return BackendError(f"backend 'cupy': {reason}; or use 'numba', 'numpy' or 'auto'")


_loaded: dict[str, Backend] = {}
_current: Backend | None = None
_threads: int | None = None
_tf32 = False


def get(name: str = "auto") -> Backend:
    """The backend called `name`; "auto" takes cupy where a GPU answers, else numba, else numpy.

    Raises BackendError if this machine cannot run it.
    """
    if name == "auto":
        name = _best()
    if name not in _loaded:
        _loaded[name] = _load(name)
    return _loaded[name]


def _best() -> str:
    if importlib.util.find_spec("cupy"):
        try:
            get("cupy")
            return "cupy"
        except BackendError:
            pass
    return "numba" if importlib.util.find_spec("numba") else "numpy"


def _load(name: str) -> Backend:
    if name == "numpy":
        return Backend(name, "reference")
    if name == "numba":
        if importlib.util.find_spec("numba") is None:
            raise BackendError("backend 'numba': Numba is not installed; `pip install numba`, or use 'numpy'")
        return Backend(name, "cpu")
    if name == "cupy":
        return GpuBackend()
    raise BackendError(f"backend {name!r} is unknown; use one of {', '.join(NAMES)} or auto")


def use_backend(name: str) -> Backend:
    """Make `name` ("numpy", "numba", "cupy" or "auto") the backend of tensors made from now on."""
    global _current
    _current = get(name)
    if _threads is None and (wanted := os.environ.get("TINYCNN_NUM_THREADS")):
        if not wanted.isdecimal():
            raise UsageError(f"TINYCNN_NUM_THREADS: {wanted!r} is not a whole number")
        set_threads(int(wanted))
    if _current.name == "numba" and _threads is not None:
        set_threads(_threads)
    return _current


def current() -> Backend:
    """The backend in use: the last `use_backend`, else TINYCNN_BACKEND, else "auto"."""
    return _current if _current is not None else use_backend(os.environ.get("TINYCNN_BACKEND", "auto"))


def set_threads(number: int) -> None:
    """Use at most `number` threads; results do not depend on it. Only the numba backend uses more than one."""
    global _threads
    if not 1 <= number <= MOST_THREADS:
        raise UsageError(f"threads: {number} is not from 1 to {MOST_THREADS}")
    _threads = number
    if _current is not None and _current.name == "numba":
        _current.set_threads(number)


def allow_tf32() -> None:
    """Let a GPU's matrix products round their factors to TF32's 10 bits: faster, three digits less. From now on."""
    global _tf32
    if "cupy" in _loaded:
        raise UsageError("TF32: say so before the cupy backend is first used")
    _tf32 = True


def one_thread() -> AbstractContextManager[Any]:
    """A block in which this thread uses no others: for work beside that of the thread that trains."""
    return current().one_thread() if current().has("one_thread") else nullcontext()


_inside = threading.Lock()
_entered = 0  # blocks of `matrix_threads`, in any thread
_before: list[tuple[Any, int]] = []  # what the first of them found, and the last brings back


@functools.cache
def _matrix_libraries() -> list[Any]:
    import threadpoolctl

    return [lib for lib in threadpoolctl.ThreadpoolController().lib_controllers if lib.user_api == "blas"]


@contextmanager
def matrix_threads(backend: Backend) -> Iterator[None]:
    """A block in which NumPy's matrix products, where the backend uses these, are made by one thread.

    With several, a library may cut sums where their number says, and so change bits; and its idle workers spin, which
    takes a core from compiled kernels.
    """
    global _entered
    if backend.asynchronous:
        yield
        return
    with _inside:
        if not _entered:
            _before.extend((library, library.get_num_threads()) for library in _matrix_libraries())
            for library, _ in _before:
                library.set_num_threads(1)
        _entered += 1
    try:
        yield
    finally:
        with _inside:
            _entered -= 1
            while _before and not _entered:
                library, threads = _before.pop()
                library.set_num_threads(threads)
