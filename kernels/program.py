"""Noted kernels as one program: threads run them one after the other, and need neither Python nor its lock in between.

A small network's kernels take 5 to 100 microseconds each; handing one to another thread through Python takes 50. Here
the caller opens a program on a *board* that idle threads look at. Whoever finds one there runs its steps, of which each
is a kernel whose tasks all take one by one. Whoever comes late, or not at all, is not missed.

Between two steps everybody waits for the tasks that others still have: who enters a step adds 1 to its count of threads
`inside`, and takes it off again when no task is left. The caller waits until it is 0: then all tasks are done, for one
who enters now finds none. Then the caller says that the step is `over`, which the others wait for.

Kernels that work image by image need not wait for each other: several are one *stage*, whose tasks are parts of the
batch, and who takes a part goes through all its kernels with it. If it is small, it is still in the core's cache then.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from . import memory, native
from .atomic import ALL, add, all_tasks, looks, next_task, read, wait, write
from .compiling import compiled, helper

LINE = memory.CACHE_LINE // native.WORD  # words: what threads change lies apart
# Words of a step: number of the next task, and where they end; threads in the kernel; whether it is over; whether it
# failed; then what stays: the kernel's entry, how many threads may run it, and where the arguments of each lie (see
# native.py). STAGE: how many steps of its stage are left, this one included. In a stage of several the first step's
# tasks are parts of the batch. Of each FIRST is where a table lies: for each part the kernel's first task; and COUNTS
# where a line for each worker lies, with the two numbers that `next_task` reads.
TASK, END, INSIDE, OVER, FAILED, STEP = 0, 1, LINE, 2 * LINE, 2 * LINE + 2, 4 * LINE
ENTRY, TEAM, ROWS, LENGTH, STAGE, FIRST, COUNTS = range(3 * LINE, 3 * LINE + 7)
# Words of the board: the number of the open program, 0 for none; its steps' address and number, and how many threads
# may join; and from THREADS on a line for each thread: whether it is in a program, and PRESENT words on, whether
# it looks at the board at all.
OPEN, PLACE, COUNT, MAY_JOIN, THREADS, PRESENT = 0, LINE, LINE + 1, LINE + 2, 2 * LINE, 1
MOST = 64  # threads
FAULT, STAYED, OCCUPIED = 1, 2, 4  # bits: a kernel failed; a helper has not left; nor the one before, nothing was done
LEAVING = looks(10_000)  # at a thread that has nothing left to do
PATIENCE = looks(100_000_000)  # at a step that others are busy with: who goes leaves them all that follows

PARTS = 16  # of a batch, whose gradients are summed by themselves first, then in order
FEW = 4  # images that fit in a core's cache, with what several kernels make of them


class Kernel(NamedTuple):
    """A call of a kernel: by at most how many threads, and with what.

    If its tasks are numbered image by image, of how many `images`, and how many `tasks` there are: equally many for
    each image, or the i-th for the i-th of `parts(images)`.
    """

    function: Callable[..., None]
    team: int
    arguments: tuple[Any, ...]
    images: int = 0
    tasks: int = 0

    def first_tasks(self, number: int) -> np.ndarray:
        """For each of so many parts of the batch its first task, and at last the number of tasks."""
        if self.tasks < self.images:  # one for each part
            return np.arange(number + 1)
        return np.arange(number + 1) * self.images // number * (self.tasks // self.images)


def parts(images: int) -> int:
    """In how many parts gradients of weights are summed up, for any threads; i begins at image i * images // parts."""
    return min(images, PARTS)


def parts_of(stage: Sequence[Kernel]) -> int:
    """In how many parts the batch goes through a stage: those of the gradients, or so that each is a FEW images."""
    images = stage[0].images
    summed = any(kernel.tasks < images for kernel in stage)
    return parts(images) if summed else max(parts(images), -(-images // FEW))


class Program:
    """Kernels in order. Each run puts a batch in the place of the one with which they were noted.

    The arrays that it works on belong to it, so it runs once at a time.
    """

    def __init__(self, kernels: Sequence[Kernel], batch: np.ndarray) -> None:
        self.team = min(max(kernel.team for kernel in kernels), MOST)
        self.alone = Steps(kernels, batch, 1)
        self.shared = Steps(kernels, batch, self.team) if self.team > 1 else self.alone


class Steps:
    """A program as numbers, for a team of so many."""

    def __init__(self, kernels: Sequence[Kernel], batch: np.ndarray, team: int) -> None:
        self.steps = memory.zeros((len(kernels), STEP), np.int64)
        self.arrays: list[Any] = []  # keeps alive what has its address in the rows; not the batch
        rows: list[int] = []
        batches: list[int] = []
        steps = iter(self.steps)
        for stage in stages(kernels, team):
            for place, kernel in enumerate(stage):
                step, limit = next(steps), min(kernel.team, team)
                if len(stage) == 1:
                    step[END], tasks = ALL, [step[TASK : END + 1]] * limit
                else:
                    step[END] = parts_of(stage)
                    first, lines = kernel.first_tasks(step[END]), memory.zeros((limit, LINE), np.int64)
                    step[FIRST], step[COUNTS] = first.ctypes.data, lines.ctypes.data
                    tasks = [line[: END + 1] for line in lines]
                    self.arrays += [first, lines]
                step[ENTRY] = native.entry(kernel.function, (0, tasks[0], *kernel.arguments))
                step[TEAM], step[ROWS], step[STAGE] = limit, len(rows), len(stage) - place
                for worker in range(limit):
                    for argument in (worker, tasks[worker], *kernel.arguments):
                        if is_in(argument, batch):
                            batches.append(len(rows) + native.ADDRESS)
                        rows += native.words(argument)
                step[LENGTH] = (len(rows) - step[ROWS]) // limit * native.WORD
                self.arrays += [argument for argument in kernel.arguments if not is_in(argument, batch)]
        self.numbers = self.steps, np.array(rows, np.int64), np.array(batches, np.int64)
        self.steps[:, ROWS] = self.numbers[1].ctypes.data + self.steps[:, ROWS] * native.WORD


def stages(kernels: Sequence[Kernel], team: int) -> list[list[Kernel]]:
    """The kernels in an order of the same effect, in stages: several that work image by image, or a single one.

    What stands between kernels of a stage is done before it, if it has no array in common with them or with what is
    done after it; else after it. A kernel that needs one of these begins a new stage.
    """
    found: list[list[Kernel]] = []
    before: list[list[Kernel]] = []
    stage: list[Kernel] = []
    after: list[list[Kernel]] = []
    for kernel in kernels:
        fits = kernel.team >= team and parts(kernel.images) >= 2 * team
        fits &= not stage or kernel.images == stage[0].images
        must_follow = _meets(kernel, chain(*after))
        if fits and not must_follow:
            stage.append(kernel)
        elif fits:
            found += [*before, stage, *after]
            before, stage, after = [], [kernel], []
        else:
            (after if must_follow or _meets(kernel, stage) else before).append([kernel])
    return [*found, *before, *([stage] if stage else []), *after]


def _meets(kernel: Kernel, others: Iterable[Kernel]) -> bool:
    """Whether a kernel has an array in common with one of the others, or a part of one, be it only to read."""
    mine = _bounds(kernel)
    return any(a < end and start < b for other in others for start, end in _bounds(other) for a, b in mine)


def _bounds(kernel: Kernel) -> list[tuple[int, int]]:
    """Where the arrays of a kernel begin and end in memory."""
    arrays = (a for a in kernel.arguments if isinstance(a, np.ndarray) and a.size)
    return [np.lib.array_utils.byte_bounds(array) for array in arrays]


def can_join(kernel: Callable[..., None], arguments: tuple[Any, ...]) -> bool:
    """Whether a call that was made can be a part of a program."""
    return native.works() and native.entry(kernel, (0, all_tasks(), *arguments)) != 0


def new_board() -> np.ndarray:
    """A board on which no program is open."""
    return memory.zeros((THREADS + (MOST + 1) * LINE,), np.int64)


def is_in(argument: Any, batch: np.ndarray) -> bool:
    """Whether an argument is the batch, or a part of it."""
    return isinstance(argument, np.ndarray) and np.may_share_memory(argument, batch)


@compiled
def conduct(board, number, team, steps, rows, batches, batch):
    """Run all steps for a batch (flat), as the one who is waited for; in a team, others may join by this number."""
    for worker in range(1, team):
        if read(board[THREADS + worker * LINE :]) > 0:
            return OCCUPIED
    for place in batches:
        rows[place] = batch.ctypes.data
    for step in steps:
        step[TASK] = step[INSIDE] = step[OVER] = step[FAILED] = 0
    if team > 1:
        board[PLACE], board[COUNT], board[MAY_JOIN] = steps.ctypes.data, len(steps), team
        write(board[OPEN:], number)
    _walk(np.int64(0), steps)  # a plain 0 is of a type of its own to Numba: it would be compiled twice
    if team > 1:  # else it may be another's program that is open
        write(board[OPEN:], 0)
    outcome = 0
    for worker in range(1, team):  # they are leaving: nothing is left to do
        look = 0
        while look < LEAVING and read(board[THREADS + worker * LINE :]) > 0:
            wait(look)
            look += 1
        outcome |= STAYED if look == LEAVING else 0
    for step in steps:
        outcome |= FAULT if step[FAILED] else 0
    return outcome


@compiled
def join(worker, board, seen):
    """Run what is open on the board, if it is not the program seen last; returns the number of the one seen."""
    number = read(board[OPEN:])
    if number == seen or number == 0 or worker >= MOST:
        return seen
    inside = board[THREADS + worker * LINE :]
    write(inside, 1)
    # Still open? Then its caller, who closes it and then looks who is inside, will see this thread.
    if read(board[OPEN:]) == number and worker < board[MAY_JOIN]:
        _walk(worker, native.words_at(board[PLACE], board[COUNT] * STEP).reshape(-1, STEP))
    write(inside, 0)
    return number


@compiled
def _walk(worker, steps):
    """Do a worker's part of all steps: the caller is worker 0."""
    at = 0
    while at < len(steps):
        step = steps[at]
        inside, over = step[INSIDE:], step[OVER:]
        if worker < step[TEAM] and read(over) == 0:
            add(inside, 1)
            if step[STAGE] > 1:
                failed = _stage(worker, steps[at : at + step[STAGE]])
            else:
                failed = native.call_entry(step[ENTRY], step[ROWS] + worker * step[LENGTH])
            if failed != 0:
                write(step[FAILED:], 1)
            add(inside, -1)
        if worker == 0:
            look = 0
            while read(inside) > 0:
                wait(look)
                look += 1
            write(over, 1)
        look = 0
        while read(over) == 0:
            if look == PATIENCE:  # the caller has lost its core, or works on alone: nobody waits for this thread
                return
            wait(look)
            look += 1
        at += step[STAGE]


@helper
def _stage(worker, steps):
    """Take parts of the batch, and go through all these steps with each."""
    failed, part = 0, next_task(steps[0])
    while part < steps[0, END]:
        for step in steps:
            first = native.words_at(step[FIRST] + part * native.WORD, 2)
            tasks = native.words_at(step[COUNTS] + worker * LINE * native.WORD, 2)
            tasks[0], tasks[1] = first[0], first[1]
            failed |= native.call_entry(step[ENTRY], step[ROWS] + worker * step[LENGTH])
        part = next_task(steps[0])
    return failed
