"""How kernels share the processor: a few threads take tasks one by one until none is left.

A kernel is compiled without Python's lock, and is called once in each thread with the thread's number. A task is the
same piece of work whoever takes it, so results do not depend on the number of threads; and a thread that has lost its
core to another program takes fewer. Threads without work sleep.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

GRAIN = 2_000_000  # multiply-adds, about 40 microseconds: waking another thread for less brings nothing

_limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_own = threading.local()
_helpers: list[SimpleQueue] = []
_busy = threading.Lock()


def set_threads(number: int) -> None:
    """Use at most so many threads from now on."""
    global _limit
    _limit = number


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside this block, kernels called by this thread run in it alone."""
    before, _own.alone = getattr(_own, "alone", False), True
    try:
        yield
    finally:
        _own.alone = before


def workers(work: int, tasks: int) -> int:
    """How many threads to use for so many multiply-adds in so many tasks."""
    return 1 if getattr(_own, "alone", False) else max(1, min(_limit, tasks, work // GRAIN))


def run(kernel: Callable[..., None], team: int, *arguments: Any) -> None:
    """kernel(worker, tasks, *arguments) for each worker below `team`; `tasks` is what `next_task` counts with.

    At the same time, unless the threads are taken: then one worker finds all the tasks, and the others none.
    """
    arguments = (np.zeros(1, np.int64), *arguments)
    if team == 1 or not _busy.acquire(blocking=False):
        for worker in range(team):
            kernel(worker, *arguments)
        return
    try:
        while len(_helpers) < team - 1:
            _helpers.append(SimpleQueue())
            threading.Thread(target=_help, args=(_helpers[-1],), name="tinycnn", daemon=True).start()
        outcomes: SimpleQueue = SimpleQueue()
        for worker in range(1, team):
            _helpers[worker - 1].put((kernel, worker, arguments, outcomes))
        try:
            kernel(0, *arguments)
        finally:
            failures = [error for error in (outcomes.get() for _ in range(1, team)) if error]
        if failures:
            raise failures[0]
    finally:
        _busy.release()


def _help(jobs: SimpleQueue) -> None:
    while True:
        kernel, worker, arguments, outcomes = jobs.get()
        failure: BaseException | None = None
        try:
            kernel(worker, *arguments)
        except BaseException as error:  # it belongs to the thread that waits for the outcome
            failure = error
        del kernel, arguments  # when the caller goes on, nobody else may hold the arrays
        outcomes.put(failure)
        del outcomes, failure


def _after_fork() -> None:
    """A forked process has none of the threads."""
    global _busy
    _helpers.clear()
    _busy = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@intrinsic
def next_task(typingctx, tasks):
    """The number of the next task, which nobody else gets."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", start, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(tasks), generate
