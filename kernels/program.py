"""Noted kernels as one program: threads run them one after the other, and need neither Python nor its lock in between.

A small network's kernels take 5 to 100 microseconds each; handing one to another thread through Python takes 50. Here
the caller opens a program on a *board* that idle threads look at. Whoever finds one there runs its steps, of which each
is a kernel whose tasks all take one by one. Whoever comes late, or not at all, is not missed.

Between two kernels everybody waits for the tasks that others still have: who enters a kernel adds 1 to the step's count
of threads `inside`, and takes it off again when no task is left. The caller waits until it is 0: then all tasks are
done, for one who enters now finds none. Then the caller says that the step is `over`, which the others wait for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from . import memory, native
from .atomic import add, looks, read, wait, write
from .compiling import compiled

LINE = 8  # words of a cache line: what threads change lies apart
# Words of a step: number of the next task; threads in the kernel; whether it is over; whether it failed; then what
# stays: the kernel's entry, how many threads may run it, and where the arguments of each lie (see native.py).
TASK, INSIDE, OVER, FAILED, ENTRY, TEAM, ROWS, LENGTH, STEP = 0, LINE, 2 * LINE, 18, 24, 25, 26, 27, 4 * LINE
# Words of the board: the number of the open program, 0 for none; its steps' address and number, and how many threads
# may join; and from THREADS on a line for each thread: whether it is in a program, and PRESENT words on, whether
# it looks at the board at all.
OPEN, PLACE, COUNT, MAY_JOIN, THREADS, PRESENT = 0, LINE, LINE + 1, LINE + 2, 2 * LINE, 1
MOST = 64  # threads
FAULT, STAYED, OCCUPIED = 1, 2, 4  # bits: a kernel failed; a helper has not left; nor the one before, nothing was done
LEAVING = looks(10_000)  # at a thread that has nothing left to do
PATIENCE = looks(1_000_000)  # at a step that others are busy with

Kernel = tuple[Callable[..., None], int, tuple[Any, ...]]  # with the size of its team, and its arguments


class Program:
    """Kernels in order. Each run puts a batch in the place of the one with which they were noted.

    The arrays that it works on belong to it, so it runs once at a time.
    """

    def __init__(self, kernels: Sequence[Kernel], batch: np.ndarray) -> None:
        self.team = min(max(team for _, team, _ in kernels), MOST)
        self.shared, self.alone = Steps(kernels, batch, self.team), Steps(kernels, batch, 1)


class Steps:
    """A program as numbers, for a team of so many."""

    def __init__(self, kernels: Sequence[Kernel], batch: np.ndarray, team: int) -> None:
        self.steps = memory.zeros((len(kernels), STEP), np.int64)
        self.arrays: list[Any] = []  # keeps alive what has its address in the rows; not the batch
        rows: list[int] = []
        batches: list[int] = []
        for step, (kernel, limit, arguments) in zip(self.steps, kernels, strict=True):
            task = step[TASK : TASK + 1]
            step[ENTRY], step[TEAM] = native.entry(kernel, (0, task, *arguments)), min(limit, team)
            step[ROWS] = len(rows)
            for worker in range(step[TEAM]):
                for argument in (worker, task, *arguments):
                    if is_in(argument, batch):
                        batches.append(len(rows) + native.ADDRESS)
                    rows += native.words(argument)
            step[LENGTH] = (len(rows) - step[ROWS]) // step[TEAM] * native.WORD
            self.arrays += [argument for argument in arguments if not is_in(argument, batch)]
        self.numbers = self.steps, np.array(rows, np.int64), np.array(batches, np.int64)
        self.steps[:, ROWS] = self.numbers[1].ctypes.data + self.steps[:, ROWS] * native.WORD


def can_join(kernel: Callable[..., None], arguments: tuple[Any, ...]) -> bool:
    """Whether a call that was made can be a part of a program."""
    return native.works() and native.entry(kernel, (0, np.zeros(1, np.int64), *arguments)) != 0


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
    steps[:, :ENTRY] = 0
    if team > 1:
        board[PLACE], board[COUNT], board[MAY_JOIN] = steps.ctypes.data, len(steps), team
        write(board[OPEN:], number)
    _walk(0, steps)
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
        _walk(worker, numba.carray(native.as_pointer(board[PLACE]), (board[COUNT], STEP)))
    write(inside, 0)
    return number


@compiled
def _walk(worker, steps):
    """Do a worker's part of all steps: the caller is worker 0."""
    for step in steps:
        inside, over = step[INSIDE:], step[OVER:]
        if worker < step[TEAM] and read(over) == 0:
            add(inside, 1)
            if native.call_entry(step[ENTRY], step[ROWS] + worker * step[LENGTH]) != 0:
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
