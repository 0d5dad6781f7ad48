"""How kernels share the processor: a few threads take tasks one by one until none is left.

A kernel is compiled without Python's lock, and is called once in each thread with the thread's number. A task is the
same piece of work whoever takes it, so results do not depend on the number of threads; and a thread that has lost its
core to another program takes fewer. Threads without work soon sleep.

How a kernel is shared: the caller gives it a number, sets the count of tasks to 0, hands a job to each helper and works
itself. A helper claims its job by `taken`, works, leaves an `outcome`, says `done`, and looks for the next number for
a while before it sleeps. When no task is left, the caller takes back the jobs that nobody has claimed, and waits for
the others.
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

from .compiling import compiled
from .recording import call

GRAIN = 4_000_000  # multiply-adds, about 80 microseconds: calling another thread for less brings nothing
TURNS = 200_000  # looks at what another thread does before going to sleep, about 0.1 ms: waking up takes half as long

_limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_own = threading.local()
_helpers: list[SimpleQueue] = []
_state = np.zeros(2, np.int64)  # number of the kernel that several threads run, and of its next task: helpers watch it
_busy = threading.Lock()


@intrinsic
def next_task(typingctx, tasks):
    """The number of the next task, which nobody else gets."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", start, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(tasks), generate


@intrinsic
def read(typingctx, numbers):
    """The first of the numbers as it stands now, while other threads change it."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(start, "acquire", 8)

    return types.int64(numbers), generate


@intrinsic
def write(typingctx, numbers, value):
    """Set the first of the numbers, for other threads to see after all that was written before."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[1], start, "release", 8)
        return context.get_dummy_value()

    return types.void(numbers, types.int64), generate


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


def usable_threads() -> int:
    """How many threads kernels called by this thread may use."""
    return 1 if getattr(_own, "alone", False) else _limit


def workers(work: int, tasks: int) -> int:
    """How many threads to use for so many multiply-adds in so many tasks."""
    return max(1, min(usable_threads(), tasks, work // GRAIN))


def run(kernel: Callable[..., None], team: int, *arguments: Any) -> None:
    """kernel(worker, tasks, *arguments) for each worker below `team`; `tasks` is what `next_task` counts with.

    At the same time, unless the threads are taken: then one worker finds all the tasks, and the others none.
    """
    call(_run, kernel, team, *arguments)


def _run(kernel: Callable[..., None], team: int, *arguments: Any) -> None:
    if team == 1 or not _busy.acquire(blocking=False):
        tasks = np.zeros(1, np.int64)
        for worker in range(team):
            kernel(worker, tasks, *arguments)
        return
    try:
        while len(_helpers) < team - 1:
            jobs_of_one: SimpleQueue = SimpleQueue()
            threading.Thread(target=_help, args=(jobs_of_one,), name="tinycnn", daemon=True).start()
            _helpers.append(jobs_of_one)  # only now: nobody would read the jobs of a thread that did not start
        _state[:] = _state[0] + 1, 0
        jobs = [_Job(_state[0], kernel, worker, arguments) for worker in range(1, team)]
        try:
            for job, helper in zip(jobs, _helpers, strict=False):
                helper.put(job)
            kernel(0, _state[1:], *arguments)
        finally:
            failures = [failure for failure in map(_outcome, jobs) if failure]
        if failures:
            raise failures[0]
    finally:
        _state[1] = 0  # a helper that looks now sees that nothing goes on
        _busy.release()


class _Job:
    """A worker's part of a kernel. The helper must take it first; if all is done by then, the caller takes it back."""

    def __init__(self, number: int, kernel: Callable[..., None], worker: int, arguments: tuple[Any, ...]) -> None:
        self.number = number
        self.call: tuple[Any, ...] = (kernel, worker, arguments)
        self.taken = threading.Lock()
        self.outcome: SimpleQueue = SimpleQueue()
        self.done = np.zeros(1, np.int64)


def _outcome(job: _Job) -> BaseException | None:
    """Wait for a job that a helper has begun; take back one that none has."""
    if job.taken.acquire(blocking=False):
        del job.call
        return None
    interrupt: BaseException | None = None
    while True:
        try:
            _await(job.done, TURNS)
            return job.outcome.get() or interrupt
        except KeyboardInterrupt as error:  # the helper would go on, and take tasks of the next kernel
            interrupt = error


def _help(jobs: SimpleQueue) -> None:
    while True:
        job = jobs.get()
        if job.taken.acquire(blocking=False):
            failure: BaseException | None = None
            kernel, worker, arguments = job.call
            try:
                kernel(worker, _state[1:], *arguments)
            except BaseException as error:  # it belongs to the thread that waits for the outcome
                failure = error
            del kernel, arguments, job.call  # when the caller goes on, nobody else may hold the arrays
            job.outcome.put(failure)
            del failure
        number, done = job.number, job.done
        del job
        _watch(_state, number, done, TURNS)


@compiled
def _await(done, turns):
    """Wait until a helper is done, but not for long: a thread that sleeps takes 50 microseconds to wake."""
    for _ in range(turns):
        if read(done) > 0:
            return


@compiled
def _watch(state, seen, done, turns):
    """Say that a job is done, then wait until someone takes the first task of another kernel, but not for long.

    All without Python's lock, which the caller needs now to go on, and has let go of when it takes a task: a thread
    that waits for the lock sleeps, too.
    """
    write(done, 1)
    number, tasks = state[:1], state[1:]
    for _ in range(turns):
        if read(number) != seen and read(tasks) > 0:
            return


def _after_fork() -> None:
    """A forked process has none of the threads."""
    global _busy
    _helpers.clear()
    _busy = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
