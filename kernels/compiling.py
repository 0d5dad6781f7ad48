"""Compiles a kernel once for each processor, and keeps the machine code where the next process finds it.

Numba can keep code itself, but it watches only the file in which a function stands: what is edited in another file
runs on as it was. Here every file beside this one counts, and nothing is loaded that this user did not write whole.
"""

import abc
import errno
import gc
import hashlib
import importlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.registry import cpu_target


def _private(module: str, name: str) -> Any:
    """A part of Numba that is not promised to stay where it has been from 0.61 to 0.68; None if it has moved."""
    with suppress(ImportError):
        return getattr(importlib.import_module(f"numba.core.{module}"), name, None)
    return None


_Interface: Any = _private("caching", "_Cache") or abc.ABC
CompileResult, dumps = _private("compiler", "CompileResult"), _private("serialize", "dumps")
_Library: Any = _private("codegen", "JITCodeLibrary")
_runtime: Any = _private("runtime", "rtsys")

HERE = Path(__file__).absolute().parent
GENERATIONS = 8  # folders that are kept: other checkouts, environments and processors may share the cache
DIGEST = hashlib.sha256().digest_size
OPTIONS = (  # settings of Numba that change the code it makes
    "OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "USING_SVML",
)  # fmt: skip

_njit: Any = numba.njit  # its types know no way to leave out wrappers
# Kernels make no arrays, so nobody counts who holds one: that would take a tenth longer to compile.
UNCOUNTED = {"_nrt": False} if hasattr(cpu_target.options, "_nrt") else {}
# For functions that only kernels call: a way into them from Python would take as long to compile as they do.
helper = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **UNCOUNTED)
# The same in place of each call.
inlined = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True, **UNCOUNTED)
LEVEL = 2  # of LLVM's optimisation: kernels choose their vectors themselves; level 3 takes longer, for the same speed


def compiled(function: Callable) -> Any:
    """`numba.njit` for kernels, which make no arrays: without Python's lock, and with code that is kept on disk.

    Division by zero gives what NumPy gives. A function that stands in no file beside this one, or that holds
    variables of a function around it, is compiled in each process: nothing here would notice that it changed.
    """
    kernel: Any = _njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **UNCOUNTED)(function)
    if compiler := getattr(kernel, "_compiler", None):
        compiler.compile = _quickly(compiler.compile)
    beside = Path(function.__code__.co_filename).absolute().parent == HERE
    if beside and not function.__closure__ and kernel is not function:  # NUMBA_DISABLE_JIT gives the function itself
        if obstacle := _obstacle(kernel):
            _warn(f"kernels cannot be kept on disk ({obstacle}); they are compiled in each process")
        else:
            kernel._cache = _KernelCache(function, kernel.targetoptions)
    return kernel


@contextmanager
def garbage_left() -> Iterator[None]:
    """A block in which Python collects no garbage: while Numba compiles, looking for it takes a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _quickly(compile_: Callable) -> Callable:
    """The same in less time, by all that follows here; at LEVEL, unless the user has chosen another by NUMBA_OPT."""

    def compile_quickly(*arguments: Any) -> Any:
        config: Any = numba.config
        before = config.OPT
        if "NUMBA_OPT" not in os.environ:
            config.OPT = type(before)(min(before, LEVEL))
        try:
            with garbage_left(), _imported_once(), _optimised_once():
                return compile_(*arguments)
        finally:
            config.OPT = before

    return compile_quickly


@contextmanager
def _imported_once() -> Iterator[None]:
    """A block in which Numba does not import all its parts anew for every array and intrinsic: a twentieth less time.

    It would, in case there are more of them by now. Here it looks only for what is new in those that it has.
    """
    context: Any = cpu_target.target_context
    within = "load_additional_registries" in vars(context)  # a kernel that another calls
    if within or not (hasattr(context, "load_additional_registries") and hasattr(context, "_registries")):
        yield
        return
    context.refresh()
    # Copies of the context, which compiled functions hold, keep this: they share what is found.
    context.load_additional_registries = lambda: [context.install_registry(each) for each in [*context._registries]]
    try:
        yield
    finally:
        del context.load_additional_registries


@contextmanager
def _optimised_once() -> Iterator[None]:
    """A block in which LLVM goes over what is compiled once, not three times: an eighth less time.

    The first two times are to find counts of owners that cancel out, which kernels do not have. What else they do, the
    third does too: kernels are as fast.
    """
    codegen: Any = cpu_target.target_context.codegen()
    if not (getattr(codegen, "_library_class", None) is _Library and _is_known(codegen)):
        yield
        return
    codegen._library_class = _OptimisedOnce
    try:
        yield
    finally:
        codegen._library_class = _Library


def _is_known(codegen: Any) -> bool:
    """Whether Numba has the parts that _OptimisedOnce is made of, as it has in 0.68."""
    try:
        passes, _ = codegen._module_pass_manager()
    except (AttributeError, TypeError, ValueError):
        return False
    parts = hasattr(passes, "run") and hasattr(codegen, "_data_layout")
    return bool(UNCOUNTED and parts and all(hasattr(_Library, name) for name in vars(_OptimisedOnce)))


class _OptimisedOnce(_Library or object):  # type: ignore[misc]
    """A compiled function with those it calls, as Numba keeps them."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


def _obstacle(kernel: Any) -> str:
    """Why no kernel can be kept, empty if they can."""
    parts = hasattr(kernel, "_cache") and hasattr(CompileResult, "_reduce") and hasattr(CompileResult, "_rebuild")
    if not parts or not dumps or _Interface is abc.ABC or _KernelCache.__abstractmethods__:
        return f"Numba {numba.__version__} works in another way than those known here"
    if not SOURCES:
        return f"the source files in {HERE} cannot be read"
    if _hash_of_sources() != SOURCES:  # what was imported is neither the old state nor the new one
        return f"the source files in {HERE} have changed since this process started"
    return ""


def cache_folder() -> Path:
    """Where this user's kernels lie: in TINYCNN_CACHE, or where the drawn fish lie (see datasets/fish.py).

    Raises RuntimeError if the user has no home folder.
    """
    if chosen := os.environ.get("TINYCNN_CACHE"):
        return Path(chosen) / "kernels"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinycnn" / "kernels"


def is_missing(kernel: Any, types: tuple[Any, ...]) -> bool:
    """Whether a kernel would have to be compiled for arguments of these types, and would then be kept on disk."""
    cache = getattr(kernel, "_cache", None)
    return isinstance(cache, _KernelCache) and types not in kernel.overloads and not cache.holds(types)


def keeps_code() -> bool:
    """Whether code can be kept on disk now."""
    try:
        generation = cache_folder() / _generation(cpu_target.target_context.codegen())
        _make_room(generation)
        with tempfile.TemporaryFile(dir=generation):
            return True
    except Exception:  # whatever is wrong is told when a kernel has been compiled
        return False


class _KernelCache(_Interface):
    """What Numba asks for a kernel's code before it compiles, and gives the code to afterwards. Never raises.

    Numba calls it under its own lock, so one thread at a time.
    """

    def __init__(self, function: Callable, options: dict[str, Any]) -> None:
        self.name = function.__name__
        place = function.__module__, function.__qualname__, function.__code__.co_firstlineno
        self.identity = repr((place, sorted(options.items())))

    @property
    def cache_path(self) -> str | None:
        """Numba's interface: for its statistics."""
        return None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for arguments of these types, None if it has to be compiled."""
        found = None
        try:
            path = self._path(sig, target_context.codegen())
            if content := _read(path):
                _make_ready(target_context)
                found = CompileResult._rebuild(target_context, *pickle.loads(content))
                _mark_as_used(path.parent)
        except _DamageError as damage:
            _warn(f"kernel cache {damage} is damaged; its kernel is compiled again")
        except Exception as error:  # whatever is wrong with the disk or with Numba's private parts, kernels must run
            _warn_of_cache("read", error)
        if found is None:
            _announce()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep code that was just compiled."""
        try:
            if data.library.has_dynamic_globals or any(not loop.can_cache for loop in data.lifted):
                raise TypeError(f"{self.name} holds an address of this process")
            _write(self._path(sig, data.codegen), dumps(data._reduce()))
        except Exception as error:
            _warn_of_cache("written", error)

    def holds(self, sig: Any) -> bool:
        """Whether there is a file for these types."""
        try:
            return self._path(sig, cpu_target.target_context.codegen()).exists()
        except Exception:  # as above: kernels must run
            return False

    def _path(self, sig: Any, codegen: Any) -> Path:
        types = repr(tuple(getattr(sig, "args", sig)))
        if " at 0x" in types:  # its address does not tell one function from another
            raise TypeError(f"{self.name} takes a function")
        key = hashlib.sha256(f"{self.identity} {types}".encode()).hexdigest()[:32]
        return cache_folder() / _generation(codegen) / f"{self.name}-{key}"

    def enable(self) -> None:
        """Numba's interface; there is nothing to enable."""

    def disable(self) -> None:
        """Numba's interface; there is nothing to disable."""

    def flush(self) -> None:
        """Numba's interface; a file is replaced when its kernel is compiled again."""


def _make_ready(target_context: Any) -> None:
    """Load what kept code relies on: not all that Numba compiles with, which takes half a second and more."""
    if hasattr(_runtime, "initialize"):
        _runtime.initialize(target_context)
    else:
        target_context.refresh()


def _hash_of_sources() -> str:
    """One hash of all modules beside this one, empty if they cannot be read."""
    whole, names = hashlib.sha256(), []
    try:
        for file in sorted(HERE.glob("*.py")):
            if file.stem.isidentifier():  # no editor's scratch file
                content = file.read_bytes()
                whole.update(f"{file.name} {len(content)}\n".encode() + content)
                names.append(file.name)
    except OSError:
        return ""
    return whole.hexdigest() if Path(__file__).name in names else ""


SOURCES = _hash_of_sources()


def _generation(codegen: Any) -> str:
    """The name of the folder for all that compiled code depends on, besides the kernel and its argument types."""
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.version
    options = [getattr(numba.config, name, None) for name in OPTIONS]
    everything = SOURCES, versions, codegen.magic_tuple(), options  # the tuple names the processor and its features
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:32]


class _DamageError(Exception):
    """A file does not hold what was written to it."""


def _read(path: Path) -> bytes:
    """The content of a kept file, empty if there is none. Raises OSError, _DamageError.

    The content is a pickle, which can run anything: it is given to nobody unless this user alone can have written it.
    """
    with suppress(FileNotFoundError):
        _refuse_unless_private(path.parent.parent, path.parent.parent.stat())
        with open(path, "rb") as file:
            _refuse_unless_private(path, os.fstat(file.fileno()))
            digest, content = file.read(DIGEST), file.read()
        if digest != _digest(path, content):
            raise _DamageError(_printable(path))
        return content
    return b""


def _write(path: Path, content: bytes) -> None:
    """Put a file in its place, whole or not at all. Raises OSError."""
    generation = path.parent
    _make_room(generation)
    handle, temporary = tempfile.mkstemp(dir=generation, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(_digest(path, content) + content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _make_room(generation: Path) -> None:
    """Make the folder for kernels of a generation, unless it is there. Raises OSError."""
    top = generation.parent
    top.mkdir(0o700, parents=True, exist_ok=True)
    _refuse_unless_private(top, top.stat())
    if not generation.exists():
        generation.mkdir(0o700, exist_ok=True)
        _remove_old_generations(top)


def _digest(path: Path, content: bytes) -> bytes:
    """The hash in front of a file's content; a file that got another's name has the wrong one."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode() + content).digest()


def _refuse_unless_private(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are private by inheritance
        return
    if status.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"{path.name} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(errno.EPERM, f"others can write to {path.name}; chmod go-w would mend that")


def _mark_as_used(generation: Path) -> None:
    with suppress(OSError):
        os.utime(generation)


def _remove_old_generations(top: Path) -> None:
    """Leave the folders that were used last."""
    with suppress(OSError):  # another process may be doing the same
        found = [folder for folder in top.iterdir() if re.fullmatch("[0-9a-f]{32}", folder.name)]
        for old in sorted(found, key=lambda folder: folder.stat().st_mtime)[:-GENERATIONS]:
            shutil.rmtree(old, ignore_errors=True)


def _warn_of_cache(done: str, error: Exception) -> None:
    try:
        folder = f" {_printable(cache_folder())}"
    except RuntimeError:
        folder, error = "", RuntimeError("no home folder; TINYCNN_CACHE can name another")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    reason = " ".join(reason.split())
    _warn(f"kernel cache{folder} cannot be {done} ({reason}); kernels are compiled in each process")


def _printable(path: Path) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


_told: set[str] = set()  # what this process has said


def _announce() -> None:
    _tell_once(
        "compiling", f"compiling kernels for this processor ({'' if 'fault' in _told else 'once; '}about 10 s) ..."
    )


def _warn(line: str) -> None:
    """Tell the first fault; those that follow are mostly its consequences."""
    _tell_once("fault", line)


def _tell_once(what: str, line: str) -> None:
    if what not in _told and sys.stderr:  # None where it was closed
        _told.add(what)
        with suppress(OSError, ValueError):
            print(f"tinycnn: {line}", file=sys.stderr, flush=True)
