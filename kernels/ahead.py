"""Compiles the kernels of a piece of work before it begins, several at a time: the first run of all waits half as long.

Numba compiles one kernel at a time in a process, so other processes help: each is told of a kernel, compiles it, and
leaves it in the cache on disk (compiling.py), where this one finds it as after any earlier run.
"""

import importlib
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba.core import types

from . import compiling, threads
from .recording import Call, listed

MOST = 4  # processes, with this one: each takes a second to start, and 150 MB of memory
PATIENCE = 60  # seconds for the last kernels of other processes
WITHOUT_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows a console would flash up

Kind = tuple[str, int]  # of an argument: its numbers' type, and how many axes it has; -1 for a plain number
Wanted = tuple[Any, tuple[Any, ...], list[Kind]]  # a kernel, and its arguments' types for Numba and as kinds


def compile_ahead(work: Callable[[], Any]) -> None:
    """Compile the kernels that work() will call, unless they are on disk.

    To learn which, the work is done without them, so on undefined numbers: what it does besides calling kernels must do
    no harm when it is done once more.
    """
    is_python = Path(sys.executable or "").stem.lower().startswith(("python", "pypy"))  # not a program that embeds it
    if threads.usable_threads() == 1 or not is_python or not compiling.keeps_code():
        return
    with listed() as calls, np.errstate(all="ignore"):
        work()
    wanted = _missing(calls)
    helpers = min(threads.usable_threads(), MOST, len(wanted)) - 1
    if helpers > 0:
        with _helpers(helpers, wanted), compiling.garbage_left():
            for kernel, types_, _ in _taken(wanted.popleft):
                kernel.compile(types_)


def _missing(calls: list[Call]) -> deque[Wanted]:
    """The kernels that other processes can compile, each once, as `_long_at_the_ends` orders them."""
    found: dict[tuple[int, tuple[Any, ...]], Wanted] = {}
    for kernel, arguments in threads.kernels_of(calls):
        if hasattr(kernel, "typeof_pyval"):
            kinds = [_kind(argument) for argument in arguments]
            known = tuple(map(kernel.typeof_pyval, arguments))
            if known == tuple(map(_type, kinds)) and compiling.is_missing(kernel, known):
                found[id(kernel), known] = kernel, known, kinds
    return deque(_long_at_the_ends([*found.values()]))


def _long_at_the_ends(wanted: list[Wanted]) -> list[Wanted]:
    """The long ones in front and at the end, the short ones between them; else as they come.

    This process begins in front and others at the end: none is left with a long one when the others are done. And as
    neighbours often share what they call, few of these functions are compiled in two processes.
    """
    lengths = [_length(kernel.py_func) for kernel, *_ in wanted]
    is_long = [length * len(lengths) > sum(lengths) for length in lengths]
    long = [each for each, so in zip(wanted, is_long, strict=True) if so]
    short = [each for each, so in zip(wanted, is_long, strict=True) if not so]
    return [*long[: len(long) // 2], *short, *long[len(long) // 2 :]]


def _length(function: Callable) -> int:
    """Bytes of Python's code for a function and for the compiled ones that it calls: a measure of how long it takes."""
    reached, found = set(), [function]
    while found:
        one = found.pop()
        if one not in reached:
            reached.add(one)
            names = one.__code__.co_names
            modules = [here for here in map(one.__globals__.get, names) if isinstance(here, ModuleType)]
            scopes = one.__globals__, *map(vars, modules)
            found += [scope[name].py_func for scope in scopes for name in names if hasattr(scope.get(name), "py_func")]
    return sum(len(one.__code__.co_code) for one in reached)


def _kind(argument: Any) -> Kind:
    array = np.asarray(argument)
    return array.dtype.str, array.ndim if isinstance(argument, np.ndarray) else -1


def _type(kind: Kind) -> Any:
    """The type that Numba gives an argument of this kind: arrays are in C order, aligned and writeable."""
    numbers = numba.from_dtype(np.dtype(kind[0]))
    return numbers if kind[1] < 0 else types.Array(numbers, kind[1], "C")


@contextmanager
def _helpers(number: int, wanted: deque[Wanted]) -> Iterator[None]:
    """A block beside which other processes compile what is wanted, from the end; it ends when they have finished.

    What a process does not manage, for whatever reason, is compiled when it is called.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve; _serve()"
    command = [sys.executable, "-c", code]
    started: list[subprocess.Popen] = []
    try:
        with suppress(OSError):  # there are no more processes to be had
            for _ in range(number):
                started.append(
                    subprocess.Popen(
                        command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True, creationflags=WITHOUT_WINDOW
                    )
                )
        feeders = [threading.Thread(target=_feed, args=(process, wanted), daemon=True) for process in started]
        for feeder in feeders:
            feeder.start()
        yield
        end = time.monotonic() + PATIENCE
        for feeder in feeders:
            feeder.join(max(0, end - time.monotonic()))
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _taken(take: Callable[[], Wanted]) -> Iterator[Wanted]:
    """What `take` takes, one after the other, as long as nobody else has taken the last."""
    with suppress(IndexError):
        while True:
            yield take()


def _feed(process: subprocess.Popen, wanted: deque[Wanted]) -> None:
    """Give a process one kernel after the other, as long as it answers."""
    orders, answers = process.stdin, process.stdout
    if not (orders and answers):
        return
    with suppress(OSError, ValueError):  # the process has ended, or was stopped
        for kernel, _, kinds in _taken(wanted.pop):
            function = kernel.py_func
            print(json.dumps((function.__module__, function.__name__, kinds)), file=orders, flush=True)
            if not answers.readline():
                return


def _serve() -> None:
    """Be such a process."""
    with compiling.garbage_left():
        for line in sys.stdin:
            module, name, kinds = json.loads(line)
            getattr(importlib.import_module(module), name).compile(tuple(map(_type, kinds)))
            print("compiled", flush=True)
