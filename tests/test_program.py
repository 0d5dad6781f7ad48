"""Do kernels that run as one program give the bits that they give one by one, whoever comes, stays or fails?"""

import gc
import importlib
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool

import numba
import numpy as np
import pytest
from checks import ROOT
from hypothesis import given
from hypothesis import strategies as st
from networks import fish, photos, same_bits, using
from tinycnn.kernels import atomic, native, program, threads

from tinycnn import backend
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential

TASKS = 64


@pytest.fixture(autouse=True)
def shared(no_leaks, monkeypatch) -> Iterator[None]:
    """Two threads, whatever the machine has, and no work too little to be shared."""
    monkeypatch.setattr(backend, "_threads", None)
    with using("numba"):
        for name, value in (("_limit", 2), ("GRAIN", 1), ("FINE_GRAIN", 1)):
            monkeypatch.setattr(threads, name, value)
        yield


def padded() -> Sequential:
    """Kernels with work of NumPy's in between, which ends one program and begins another."""
    layers = [
        Conv2D(8, 3, padding="same", activation="relu", input_shape=(20, 20, 3)),
        Conv2D(16, 3, activation="relu"),
        MaxPooling2D(2),
        Conv2D(16, 3, padding="same"),
        Flatten(),
        Dense(40, activation="relu"),
        Dense(1, activation="sigmoid"),
    ]
    return Sequential(layers)


def recorded_calls(model: Sequential) -> list[list[Callable]]:
    """The functions that each graph of predictions calls."""
    graphs = model._graphs["predict"]._graphs.values()
    return [[function for function, _, _ in graph._calls] for graph in graphs]


def test_this_version_of_numba_is_known_and_a_prediction_is_one_program():
    """Fails where a new version made everything slower in silence."""
    assert native.works()
    model = fish()
    for key in range(3):
        model.predict_on_batch(photos(1, 64, key=key)[0])
    assert recorded_calls(model) == [[threads.run_program]]


@pytest.mark.parametrize("make", [fish, padded], ids=["fish", "padded"])
def test_programs_give_the_same_bits_for_any_threads_batches_and_weights(make, monkeypatch):
    model = make()
    size = model.input_shape[0]
    weights = [np.array(w) for w in model.get_weights()], [w * 0.5 for w in model.get_weights()]
    batches = [photos(count, size, key=count)[0] for count in (1, 7, 1, 3, 7, 1, 7, 1)]

    def answers() -> list[np.ndarray]:
        model._made_plan = None
        found = []
        for chosen in weights:
            model.set_weights(chosen)
            found += [model.predict_on_batch(x) for x in batches]
        return found

    monkeypatch.setattr(native, "works", lambda: False)
    threads.set_threads(1)
    wanted = answers()
    assert not any(threads.run_program in calls for calls in recorded_calls(model))
    monkeypatch.setattr(native, "works", lambda: True)
    for number in (1, 2, 4):
        threads.set_threads(number)
        assert same_bits(answers(), wanted)
        assert all(threads.run_program in calls for calls in recorded_calls(model))


def test_training_with_programs_gives_the_same_bits(monkeypatch):
    def weights() -> list[np.ndarray]:
        model = padded()
        model.compile("adam", "binary_crossentropy")
        for key in range(6):
            model.train_on_batch(*photos(5 if key == 4 else 8, 20, key=key))
        return model.get_weights()

    with_programs = weights()
    monkeypatch.setattr(native, "works", lambda: False)
    assert same_bits(with_programs, weights())


# Threads that come, stay and go


@numba.njit(nogil=True)
def _note_worker(worker, tasks, workers):
    task = threads.next_task(tasks)
    while task < workers.size:
        for _ in range(1000):
            workers[task] = worker
        task = threads.next_task(tasks)


@numba.njit(nogil=True)
def _count(worker, tasks, numbers, rounds):
    """Adds 1 to each number, the later ones after more idle work."""
    task = threads.next_task(tasks)
    while task < numbers.size:
        x = 1.0
        for i in range(rounds * task):
            x += np.sqrt(x + i)
        numbers[task] += 1 if x > 0 else 0
        task = threads.next_task(tasks)


@numba.njit(nogil=True)
def _sum(worker, tasks, numbers, sums, workers):
    task = threads.next_task(tasks)
    while task < sums.size:
        sums[task], workers[task] = numbers.sum(), worker
        task = threads.next_task(tasks)


@numba.njit(nogil=True)
def _fill(worker, tasks, batch, filled):
    task = threads.next_task(tasks)
    while task < batch.size:
        filled[task] = batch[task]
        task = threads.next_task(tasks)


@numba.njit(nogil=True)
def _fail(worker, tasks, numbers):
    if numbers[0] > 0:
        raise ValueError


def program_of(kernels: list, batch: np.ndarray | None = None, of: program = program):
    """Kernels, their arguments, and of how many images they have how many tasks, as a program of two threads."""
    for kernel, arguments, *_ in kernels:
        kernel(0, atomic.all_tasks(), *arguments)
    assert all(of.can_join(kernel, arguments) for kernel, arguments, *_ in kernels)
    made = [of.Kernel(kernel, 2, arguments, *images) for kernel, arguments, *images in kernels]
    return of.Program(made, np.empty(0) if batch is None else batch)


@contextmanager
def apart() -> Iterator[None]:
    """A block in which this thread has one core and those that help it another: beside another busy process the system
    gives them the same one, where they take turns and never meet."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    helpers = [thread.native_id for thread in threading.enumerate() if thread.name == "tinycnn"]
    places = {threading.get_native_id(): cores[:1], **dict.fromkeys(helpers, cores[1:2])} if len(cores) > 1 else {}
    for thread, place in places.items():
        os.sched_setaffinity(thread, place)
    try:
        yield
    finally:
        for thread in places:
            os.sched_setaffinity(thread, cores)


def check_order(program=program, threads=threads, together: int = 300) -> None:
    """Each kernel finds all that the one before it has done, and each task is done once; in runs by two threads."""
    numbers, first, second, workers = np.zeros((4, TASKS), np.int64)
    kernels = [
        (_count, (numbers, 20)),
        (_sum, (numbers, first, workers)),
        (_count, (numbers, 1)),
        (_sum, (numbers, second, workers)),
    ]
    made = program_of(kernels, of=program)
    threads.run_program(made, np.empty(0))  # which starts a helper
    runs, deadline = 0, time.monotonic() + 60
    with apart():
        while runs < max(together, 1) and time.monotonic() < deadline:
            numbers[:] = 0
            threads.run_program(made, np.empty(0))
            assert numbers.tolist() == [2] * TASKS
            assert (first.tolist(), second.tolist()) == ([TASKS] * TASKS, [2 * TASKS] * TASKS)
            runs += set(workers.tolist()) == {0, 1} or not together
    assert runs >= together, "no helper came"


def check_arguments(program=program, threads=threads) -> None:
    """Each worker gets its own number, and each run its own batch."""
    workers, filled = np.zeros(TASKS, np.int64), np.zeros(TASKS)
    batches = [np.full(TASKS, float(i)) for i in range(100)]
    made = program_of([(_note_worker, (workers,)), (_fill, (batches[0], filled))], batches[0], of=program)
    seen: set[int] = set()
    threads.run_program(made, batches[0])  # which starts a helper
    deadline = time.monotonic() + 20
    with apart():
        while seen != {0, 1} and time.monotonic() < deadline:
            for batch in batches:
                threads.run_program(made, batch)
                assert filled.tolist() == batch.tolist()
                seen |= set(workers.tolist())
    assert seen == {0, 1}


IMAGES, ROWS = 75, 3  # no multiple of the parts


@numba.njit(nogil=True)
def _halve(worker, tasks, x, y, workers):
    task = threads.next_task(tasks)
    while task < len(x):
        y[task], workers[task] = x[task] / 2, worker
        task = threads.next_task(tasks)


@numba.njit(nogil=True)
def _sum_part(worker, tasks, y, sums, workers):
    task = threads.next_task(tasks)
    while task < len(sums):
        first, last = task * IMAGES // len(sums) * ROWS, (task + 1) * IMAGES // len(sums) * ROWS
        sums[task], workers[task] = y[first:last].sum(), worker
        task = threads.next_task(tasks)


@numba.njit(nogil=True)
def _add_up(worker, tasks, numbers, total):
    if threads.next_task(tasks) == 0:
        total[0] = numbers.sum()


@numba.njit(nogil=True)
def _hand_out(worker, tasks, total, y):
    task = threads.next_task(tasks)
    while task < len(y):
        y[task] = total[0]
        task = threads.next_task(tasks)


def check_stages(program=program, threads=threads) -> None:
    """Who takes a part of the batch goes through all kernels of a stage with it; kernels in between find all done."""
    number = program.parts(IMAGES)
    x, y, z, totals = np.zeros((4, IMAGES * ROWS))
    sums, total, halves, early = np.zeros(number), np.zeros(1), np.zeros(number), np.zeros(1)
    workers = [np.zeros(size, np.int64) for size in (IMAGES * ROWS, IMAGES * ROWS, number, number)]
    kernels = [
        (_halve, (x, y, workers[0]), IMAGES, IMAGES * ROWS),
        (_add_up, (x[:0], early)),
        (_sum_part, (y, sums, workers[2]), IMAGES, number),
        (_add_up, (sums, total)),
        (_halve, (y, z, workers[1]), IMAGES, IMAGES * ROWS),
        (_sum_part, (z, halves, workers[3]), IMAGES, number),
        (_hand_out, (total, totals), IMAGES, IMAGES * ROWS),
        (_halve, (total, total, workers[0][:1])),
    ]
    made = program_of(kernels, of=program)
    threads.run_program(made, np.empty(0))  # which starts a helper
    first = [i * IMAGES // number for i in range(number)]
    seen: set[int] = set()
    runs, deadline = 0, time.monotonic() + 60
    with apart():
        while (runs < 100 or seen != {0, 1}) and time.monotonic() < deadline:
            x[:], runs = np.random.default_rng(runs).integers(0, 1000, len(x)), runs + 1
            for array in (y, z, totals, sums, halves, total, *workers):
                array[:] = -1
            threads.run_program(made, np.empty(0))
            rows = np.add.reduceat(x.reshape(IMAGES, ROWS).sum(axis=1), first)
            assert (sums.tolist(), halves.tolist()) == ((rows / 2).tolist(), (rows / 4).tolist())
            assert total[0] == x.sum() / 4
            assert (totals == x.sum() / 2).all()
            by_part = np.repeat(workers[3], np.diff([*first, IMAGES]) * ROWS)
            assert (by_part[1:] == workers[0][1:]).all()  # the first was written once more, by the last kernel
            assert (by_part == workers[1]).all()
            assert (workers[3] == workers[2]).all()
            seen |= set(workers[3].tolist())
    assert seen == {0, 1}


@numba.njit(nogil=True)
def _one_long(worker, tasks, rounds, workers):
    """Two tasks, of which the first takes some 20 milliseconds."""
    task = threads.next_task(tasks)
    while task < 2:
        x = 1.0
        for i in range(rounds if task == 0 else 1):
            x += np.sqrt(x + i)
        workers[task] = worker if x > 0 else -1
        task = threads.next_task(tasks)


def check_patience(program=program, threads=threads) -> None:
    """A helper that has waited long for the caller's task takes part in what follows."""
    first, second = np.zeros(2, np.int64), np.zeros(TASKS, np.int64)
    made = program_of([(_one_long, (4_000_000, first)), (_note_worker, (second,))], of=program)
    threads.run_program(made, np.empty(0))  # which starts a helper
    stayed, deadline = False, time.monotonic() + 20
    with apart():
        while not stayed and time.monotonic() < deadline:
            threads.run_program(made, np.empty(0))
            stayed = first.tolist() == [0, 1] and set(second.tolist()) == {0, 1}
    assert stayed


CHECKS = {"order": check_order, "arguments": check_arguments, "stages": check_stages, "patience": check_patience}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_kernels_keep_their_order_and_their_arguments(check):
    check()


@given(st.integers(1, 400), st.integers(1, 5))
def test_the_tasks_of_a_part_are_those_of_its_images(images, each):
    number = program.parts(images)
    by_image = program.Kernel(_halve, 1, (), images, images * each).first_tasks(number)
    assert by_image.tolist() == [part * images // number * each for part in range(number + 1)]
    if each == 1:
        by_part = program.Kernel(_sum_part, 1, (), images, number).first_tasks(number)
        assert by_part.tolist() == list(range(number + 1))
    whole, summed = program.Kernel(_halve, 1, (), images, images), program.Kernel(_sum_part, 1, (), images, number)
    sizes = np.diff(whole.first_tasks(program.parts_of([whole])))
    assert sizes.sum() == images
    assert 1 <= sizes.min() <= sizes.max() <= program.FEW
    assert images <= program.PARTS or program.parts_of([whole, summed]) == program.PARTS


@given(st.lists(st.tuples(st.sampled_from([0, 0, 20, 20, 33]), st.sets(st.integers(0, 5), min_size=1, max_size=3))))
def test_kernels_with_a_common_array_keep_their_order(kinds):
    arrays = np.zeros((6, 2))
    kernels = [
        program.Kernel(_halve, 2, (number, *(arrays[i] for i in chosen)), images, images)
        for number, (images, chosen) in enumerate(kinds)
    ]
    stages = program.stages(kernels, 2)
    assert sorted(kernel.arguments[0] for stage in stages for kernel in stage) == list(range(len(kernels)))
    assert all(len(stage) == 1 or {k.images for k in stage} in ({20}, {33}) for stage in stages)
    place = {kernel.arguments[0]: at for at, kernel in enumerate(k for stage in stages for k in stage)}
    for later, (_, mine) in enumerate(kinds):
        assert all(place[earlier] < place[later] for earlier in range(later) if mine & kinds[earlier][1])


FAULTS = {
    "the caller does not wait for tasks in hand": ("order", "while read(inside) > 0:", "while False:"),
    "a helper does not wait for the caller": ("order", "while read(over) == 0:", "while False:"),
    "every worker takes the caller's arguments": (
        "arguments", "failed = native.call_entry(step[ENTRY], step[ROWS] + worker * step[LENGTH])",
        "failed = native.call_entry(step[ENTRY], step[ROWS])",
    ),
    "the first batch for ever": ("arguments", "rows[place] = batch.ctypes.data", "pass"),
    "tasks counted on from the run before": ("order", "step[TASK] = step[INSIDE]", "step[INSIDE]"),
    "threads count parts' tasks with the same numbers": (
        "stages", "step[COUNTS] + worker * LINE * native.WORD", "step[COUNTS]",
    ),
    "a helper leaves after a moment": ("patience", "PATIENCE = looks(100_000_000)", "PATIENCE = looks(1_000_000)"),
    "the first part for ever": ("stages", "step[FIRST] + part * native.WORD", "step[FIRST]"),
    "a kernel before what it needs": ("stages", "must_follow or _meets(kernel, stage)", "must_follow"),
    "a kernel of a stage before what it needs": (
        "stages", "must_follow = _meets(kernel, chain(*after))", "must_follow = False",
    ),
    "parts end where others do": ("stages", "* self.images // number * (", "* self.images * ("),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault, tmp_path):
    """In a process of its own, whose kernels are another package."""
    check, old, new = FAULTS[fault]
    shutil.copytree(ROOT / "kernels", tmp_path / "faulty", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "faulty" / "program.py"
    source = file.read_text()
    assert source.count(old) == 1
    file.write_text(source.replace(old, new))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", tmp_path)))}
    command = [sys.executable, "-c", f"import test_program; test_program.ask_faulty({check!r})"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("passes without the fault\n"), done.stderr
    assert done.stdout.endswith("caught\n") or done.returncode < 0, f"nobody notices: {fault}"


def ask_faulty(check: str) -> None:
    """For a process that finds the kernels with the fault under the name `faulty`."""
    CHECKS[check]()
    print("passes without the fault", flush=True)
    try:
        CHECKS[check](importlib.import_module("faulty.program"), importlib.import_module("faulty.threads"))
    except AssertionError:
        print("caught", flush=True)


def test_nobody_waits_for_a_helper_that_never_comes(monkeypatch):
    monkeypatch.setattr(threads, "_wake", lambda team: None)
    time.sleep(0.01)  # those of other tests have fallen asleep
    for _ in range(100):
        check_order(together=0)


def test_a_helper_that_has_not_left_is_not_waited_for_and_keeps_its_arrays():
    numbers = np.zeros(TASKS, np.int64)
    made = program_of([(_count, (numbers, 1))])
    gone = weakref.ref(made)
    inside = threads._board[program.THREADS + program.LINE :][:1]
    real = program.conduct

    def stays(*arguments) -> int:
        outcome = real(*arguments)
        inside[0] = 1  # as if its core had become another program's in the last moment
        return outcome | program.STAYED

    program.conduct = stays
    try:
        threads.run_program(made, np.empty(0))
        program.conduct = real
        before, numbers[:] = threads._runs, 0
        threads.run_program(made, np.empty(0))
        assert threads._runs == before + 1
        assert numbers.tolist() == [1] * TASKS
        del made
        gc.collect()
        assert gone() is not None
    finally:
        program.conduct, inside[0] = real, 0
    threads.run_program(program_of([(_count, (numbers, 1))]), np.empty(0))
    gc.collect()
    assert gone() is None


def test_an_interrupt_leaves_the_threads_free_and_the_arrays_alive(monkeypatch):
    numbers = np.zeros(TASKS, np.int64)
    made = program_of([(_count, (numbers, 1))])
    real = program.conduct

    def interrupted(*arguments) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(program, "conduct", interrupted)
        with pytest.raises(KeyboardInterrupt):
            threads.run_program(made, np.empty(0))
    assert made in threads._held
    assert not threads._busy.locked()
    check_order()
    assert not threads._held


def test_a_kernel_that_fails_is_told_and_the_next_run_is_right():
    numbers = np.zeros(TASKS, np.int64)
    made = program_of([(_fail, (numbers,))])
    for first in (1, 0, 1):
        numbers[0] = first
        if first:
            with pytest.raises(RuntimeError, match="a kernel failed"):
                threads.run_program(made, np.empty(0))
        else:
            threads.run_program(made, np.empty(0))


def test_two_callers_at_once_get_their_own_answers():
    def answers(seed: int) -> list[np.ndarray]:
        model = fish()
        x = [photos(1, 64, key=seed + key)[0] for key in range(3)]
        return [model.predict_on_batch(x[i % 3]) for i in range(60)]

    alone = [answers(seed) for seed in (1, 2)]
    with ThreadPool(2) as pool:
        for these, those in zip(pool.map(answers, (1, 2)), alone, strict=True):
            assert same_bits(these, those)


def test_one_who_works_alone_leaves_another_program_open():
    numbers = np.zeros(TASKS, np.int64)
    made = program_of([(_count, (numbers, 1))])
    open_ = threads._board[program.OPEN :][:1]
    with threads._busy:
        open_[0] = 10**9
        try:
            threads.run_program(made, np.empty(0))
            assert open_[0] == 10**9
        finally:
            open_[0] = 0
    assert numbers.tolist() == [2] * TASKS


def test_a_model_that_is_gone_leaves_no_arrays():
    model = fish()
    for key in range(4):
        model.predict_on_batch(photos(1, 64, key=key)[0])
    gone = [weakref.ref(weight.data) for weight in model.weights]
    del model
    end = time.monotonic() + 30
    while True:  # a helper that lost its core may still be in the program, which then has to stay
        threads.run_program(program_of([(_count, (np.zeros(4, np.int64), 1))]), np.empty(0))
        gc.collect()
        if all(weight() is None for weight in gone):
            return
        assert time.monotonic() < end


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_runs_programs():
    code = """
import os, sys
sys.path.insert(0, "tests")
import test_program
from tinycnn.kernels import threads

test_program.check_order()
threads._busy.acquire()  # as if another thread were in a program
threads._board[:] = 1
child = os.fork()
if child == 0:
    test_program.check_order()
    os._exit(0)
print(os.waitpid(child, 0)[1])
os._exit(0)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


def test_what_is_no_compiled_kernel_or_no_word_has_no_entry():
    numbers = np.zeros(TASKS, np.int64)
    assert not program.can_join(lambda worker, tasks: None, ())
    assert not program.can_join(_sum, (numbers.astype(np.int8), numbers, numbers)), "not compiled for these types"
    assert not native.entry(_sum, (0, numbers, numbers, numbers, 1j))
    with pytest.raises(TypeError):
        native.words("a word")
