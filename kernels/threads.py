"""How kernels share the processor: a few threads take tasks one by one until none is left.

A kernel is compiled without Python's lock, and is called once in each thread with the thread's number. A task is the
same piece of work whoever takes it, so results do not depend on the number of threads; and a thread that has lost its
core to another program takes fewer. Threads without work soon sleep.

How a kernel is shared: the caller gives it a number, sets the count of tasks to 0, hands a job to each helper and works
itself. A helper claims its job by `taken`, works, leaves an `outcome`, says `done`, and looks for the next number for
a while before it sleeps. When no task is left, the caller takes back the jobs that nobody has claimed, and waits for
the others. Between kernels the helpers also look whether a whole program of them is open (program.py).
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

from . import native, program
from .atomic import ALL, all_tasks, looks, next_task, read, wait, write  # noqa: F401 - kernels find next_task here
from .compiling import compiled
from .program import Kernel, Program, parts  # noqa: F401 - of a batch, for those that sum gradients up
from .recording import Call, call, is_recording

GRAIN = 4_000_000  # multiply-adds, about 80 microseconds: calling another thread for less brings nothing
FINE_GRAIN = 100_000  # the same where calls are noted, to be joined into a program: threads are there already
LOOKS = looks(200_000)  # at what another thread does before going to sleep: waking takes a quarter of that

_limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Own(threading.local):
    """Whether a thread's kernels run in it alone."""

    alone = False


_own = _Own()
_helpers: list[SimpleQueue] = []
# Number of the kernel that several threads run, and of its next task, which helpers watch; then where its tasks end.
_state = np.array([0, 0, ALL], np.int64)
_board = program.new_board()
_runs = 0  # of programs: each has a number of its own
_held: list[Program] = []  # those that a helper may be in, with their arrays
_busy = threading.Lock()


def set_threads(number: int) -> None:
    """Use at most so many threads from now on."""
    global _limit
    _limit = number


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside this block, kernels called by this thread run in it alone."""
    before, _own.alone = _own.alone, True
    try:
        yield
    finally:
        _own.alone = before


def usable_threads() -> int:
    """How many threads kernels called by this thread may use."""
    return 1 if _own.alone else _limit


def workers(work: int, tasks: int) -> int:
    """How many threads to use for so many multiply-adds in so many tasks."""
    grain = FINE_GRAIN if is_recording() and native.works() else GRAIN
    return max(1, min(usable_threads(), tasks, work // grain))


def run(kernel: Callable[..., None], team: int, *arguments: Any) -> None:
    """kernel(worker, tasks, *arguments) for each worker below `team`; `tasks` is what `next_task` counts with.

    At the same time, unless the threads are taken: then one worker finds all the tasks, and the others none.
    """
    call(_run, kernel, team, *arguments)


def run_by_image(kernel: Callable[..., None], team: int, images: int, tasks: int, *arguments: Any) -> None:
    """The same for a kernel whose tasks are numbered image by image: see Kernel.

    All that such a task writes belongs to its images, and of what others like it write, its results depend on nothing
    that belongs to other images. So in a program a few images may go through several such kernels at once.
    """
    call(_run_by_image, kernel, team, images, tasks, *arguments)


def _run_by_image(kernel: Callable[..., None], team: int, images: int, tasks: int, *arguments: Any) -> None:
    _run(kernel, team, *arguments)


def _run(kernel: Callable[..., None], team: int, *arguments: Any) -> None:
    if team == 1 or not _busy.acquire(blocking=False):
        tasks = all_tasks()
        for worker in range(team):
            kernel(worker, tasks, *arguments)
        return
    try:
        _start_helpers(team)
        _state[:2] = _state[0] + 1, 0
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


def _start_helpers(team: int) -> None:
    while len(_helpers) < team - 1:
        jobs: SimpleQueue = SimpleQueue()
        worker = len(_helpers) + 1
        threading.Thread(target=_help, args=(jobs, worker), name="tinycnn", daemon=True).start()
        _helpers.append(jobs)  # only now: nobody would read the jobs of a thread that did not start


def joined(calls: Sequence[Call], batch: np.ndarray) -> list[Call]:
    """The same calls, where kernels that follow each other are one program, for batches like this one."""
    found: list[Call] = []
    kernels: list[Kernel] = []
    for function, arguments in calls:
        kernel = _kernel(function, arguments)
        if kernel and program.can_join(kernel.function, kernel.arguments):
            kernels.append(kernel)
            continue
        found += _one_program(kernels, batch)
        kernels = []
        found.append((function, arguments))
    return found + _one_program(kernels, batch)


def _kernel(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Kernel | None:
    """The kernel that a noted call runs, if it runs one."""
    if function is _run:
        kernel, team, *others = arguments
        return Kernel(kernel, team, tuple(others))
    if function is _run_by_image:
        kernel, team, images, tasks, *others = arguments
        return Kernel(kernel, team, tuple(others), images, tasks)
    return None


def kernels_of(calls: Sequence[Call]) -> list[tuple[Callable[..., None], tuple[Any, ...]]]:
    """The kernels among these calls, with all their arguments; and those by which threads come together."""
    made = (_kernel(*each) for each in calls)
    found = [(kernel.function, (0, _state[1:], *kernel.arguments)) for kernel in made if kernel]
    number, steps = np.zeros(1, np.int64), np.zeros((1, program.STEP), np.int64)
    together = (_watch, (1, _state, 0, number, _board, LOOKS)), (_await, (number, LOOKS))
    batch = np.zeros(1, np.float32)
    return [*found, *together, (program.conduct, (_board, 0, 1, steps, number, number, batch))]


def _one_program(kernels: list[Kernel], batch: np.ndarray) -> list[Call]:
    return [(run_program, (Program(kernels, batch), batch.reshape(-1)))] if kernels else []


def run_program(made: Program, batch: np.ndarray) -> None:
    """Run the kernels of a program for a flat batch: with helpers, unless they are taken or have not left another."""
    global _runs
    outcome = program.OCCUPIED
    if made.team > 1 and _busy.acquire(blocking=False):
        try:
            _wake(made.team)
            _runs += 1
            _held.append(made)  # before it runs: an interrupt may come right after
            outcome = program.conduct(_board, _runs, made.team, *made.shared.numbers, batch)
            if not outcome & (program.OCCUPIED | program.STAYED) and (len(_held) == 1 or not _anybody_inside()):
                _held.clear()
        finally:
            _busy.release()
    if outcome == program.OCCUPIED:
        outcome = program.conduct(_board, 0, 1, *made.alone.numbers, batch)
    if outcome & program.FAULT:
        raise RuntimeError("a kernel failed")


def _anybody_inside() -> bool:
    """Whether a helper is in a program, be it one before the last."""
    return bool(_board[program.THREADS :: program.LINE].any())


def _wake(team: int) -> None:
    """Call the helpers that do not look at the board. Nobody waits for them."""
    _start_helpers(team)
    for worker, jobs in enumerate(_helpers[: team - 1], 1):
        if not _board[program.THREADS + worker * program.LINE + program.PRESENT] and jobs.empty():
            jobs.put(None)


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
            _await(job.done, LOOKS)
            return job.outcome.get() or interrupt
        except KeyboardInterrupt as error:  # the helper would go on, and take tasks of the next kernel
            interrupt = error


def _help(jobs: SimpleQueue, worker: int) -> None:
    while True:
        job = jobs.get()
        number, done = int(_state[0]), np.zeros(1, np.int64)
        if job is not None and job.taken.acquire(blocking=False):
            failure: BaseException | None = None
            kernel, place, arguments = job.call
            try:
                kernel(place, _state[1:], *arguments)
            except BaseException as error:  # it belongs to the thread that waits for the outcome
                failure = error
            del kernel, arguments, job.call  # when the caller goes on, nobody else may hold the arrays
            job.outcome.put(failure)
            del failure
        if job is not None:
            number, done = job.number, job.done
        del job
        _watch(worker, _state, number, done, _board, LOOKS)


@compiled
def _await(done, most):
    """Wait until a helper is done, but not for long: a thread that sleeps takes 50 microseconds to wake."""
    for look in range(most):
        if read(done) > 0:
            return
        wait(look)


@compiled
def _watch(worker, state, seen, done, board, most):
    """Say that a job is done, then wait until someone takes the first task of another kernel, but not for long.

    All without Python's lock, which the caller needs now to go on, and has let go of when it takes a task: a thread
    that waits for the lock sleeps, too. Meanwhile join the programs that open.
    """
    write(done, 1)
    number, tasks = state[:1], state[1:]
    present = board[program.THREADS + min(worker, program.MOST) * program.LINE + program.PRESENT :]
    look, last = 0, np.int64(0)  # not an int of its own type, for which `join` would be compiled once more
    write(present, 1)
    while look < most and (read(number) == seen or read(tasks) == 0):
        joined = program.join(worker, board, last)
        look, last = look + 1 if joined == last else 0, joined
        wait(look)
    write(present, 0)


def _after_fork() -> None:
    """A forked process has none of the threads."""
    global _busy
    _helpers.clear()
    _held.clear()
    _board[:] = 0
    _busy = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
