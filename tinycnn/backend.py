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


class Backend:
    """The kernels of one kind of array: `backend.im2col(...)` is that backend's im2col, or the reference's.

    A backend may be partial. Complex numbers, which only gradient checks use, go to the reference.
    """

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self._kernels = importlib.import_module(f".kernels.{module}", __package__)
        self._reference = importlib.import_module(".kernels.reference", __package__)
        self._memory = importlib.import_module(".kernels.memory", __package__)

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

    def asarray(self, data: Any) -> Any:
        """Data as an array of this backend, in the byte order of this machine."""
        array = np.asarray(data)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array of zeros."""
        return self._memory.zeros(shape, dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        """An array of this backend as a NumPy array."""
        return np.asarray(array)


_loaded: dict[str, Backend] = {}
_current: Backend | None = None
_threads: int | None = None


def get(name: str = "auto") -> Backend:
    """The backend called `name`; "auto" takes numba where it is installed, else numpy.

    Raises BackendError if this machine cannot run it.
    """
    if name == "auto":
        name = "numba" if importlib.util.find_spec("numba") else "numpy"
    if name not in _loaded:
        _loaded[name] = _load(name)
    return _loaded[name]


def _load(name: str) -> Backend:
    if name == "numpy":
        return Backend(name, "reference")
    if name == "numba":
        if importlib.util.find_spec("numba") is None:
            raise BackendError("backend 'numba': Numba is not installed; `pip install numba`, or use 'numpy'")
        return Backend(name, "cpu")
    if name == "cupy":
        raise BackendError("backend 'cupy': this version has no GPU kernels; use 'numba', 'numpy' or 'auto'")
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
    """Use at most `number` threads; the numba backend's results do not depend on it."""
    global _threads
    if number < 1:
        raise UsageError(f"threads: {number} is not at least 1")
    _threads = number
    if _current is not None and _current.name == "numba":
        _current.set_threads(number)


def one_thread() -> AbstractContextManager[Any]:
    """A block in which this thread uses no others: for work beside that of the thread that trains."""
    return current().one_thread() if current().has("one_thread") else nullcontext()


_inside = threading.Lock()
_blocks: list[int] = []  # one for each `matrix_threads` that is entered, in any thread
_before: list[tuple[Any, int]] = []  # what the first of them found, and the last brings back


@functools.cache
def _matrix_libraries() -> list[Any]:
    import threadpoolctl

    return [lib for lib in threadpoolctl.ThreadpoolController().lib_controllers if lib.user_api == "blas"]


@contextmanager
def matrix_threads(backend: Backend) -> Iterator[None]:
    """A block in which NumPy's matrix products use the threads that suit the backend.

    Beside compiled kernels that is one: the library's idle workers spin, and would take a core from the kernels.
    """
    number = 1 if backend.name == "numba" else _threads
    if number is None:
        yield
        return
    with _inside:
        if not _before:
            _before.extend((library, library.get_num_threads()) for library in _matrix_libraries())
            for library, _ in _before:
                library.set_num_threads(number)
        _blocks.append(number)
    try:
        yield
    finally:
        with _inside:
            _blocks.pop()
            while _before and not _blocks:
                library, threads = _before.pop()
                library.set_num_threads(threads)
