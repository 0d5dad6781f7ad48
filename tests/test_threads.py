"""Is each task done once, and are results the same bits for any number of threads, whoever else is running?"""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from multiprocessing.pool import ThreadPool
from queue import SimpleQueue

import numba
import numpy as np
import pytest
import threadpoolctl
from cases import PATHS
from checks import ROOT, output_gradient, run
from networks import losses_of, same_bits, training_hash, using
from tinycnn.kernels import cpu, shapes, threads

from tinycnn import Tensor, backend, ops, set_threads
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.optimizers import SGD, Adam
from tinycnn.random import generator


@pytest.fixture(autouse=True)
def restored(no_leaks, monkeypatch):
    """No work is too little to be shared; the number of threads is put back at the end."""
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(threads, "_limit", 1)
    monkeypatch.setattr(backend, "_threads", None)
    monkeypatch.setattr(backend, "_current", backend.get("numba"))
    with threadpoolctl.threadpool_limits():
        yield


# Sharing


def test_work_is_shared_by_as_many_threads_as_it_is_worth(monkeypatch):
    monkeypatch.setattr(threads, "GRAIN", 100)
    set_threads(4)
    assert threads.workers(10**9, 10**9) == 4
    assert threads.workers(10**9, 3) == 3
    assert threads.workers(10**9, 1) == threads.workers(199, 50) == threads.workers(0, 0) == 1
    assert threads.workers(250, 50) == 2
    set_threads(1)
    assert threads.workers(10**9, 10**9) == 1


def test_one_thread_is_asked_for_by_the_thread_that_says_so():
    set_threads(4)
    with ThreadPool(1) as pool:
        with threads.one_thread():
            with threads.one_thread():
                assert threads.workers(100, 100) == 1
            assert threads.workers(100, 100) == 1
            assert pool.apply(threads.workers, (100, 100)) == 4
        with pytest.raises(ZeroDivisionError), threads.one_thread():
            1 / 0  # noqa: B018
        assert threads.workers(100, 100) == 4


@numba.njit(nogil=True)
def _take(worker, tasks, times):
    task = threads.next_task(tasks)
    while task < len(times):
        times[task] += 1
        task = threads.next_task(tasks)


@pytest.mark.parametrize("team", [1, 2, 4])
def test_each_task_is_given_once(team):
    for _ in range(5):
        times = np.zeros(1_000_000, np.int8)
        threads.run(_take, team, times)
        np.testing.assert_array_equal(times, 1)


def test_every_worker_runs_at_the_same_time_in_a_thread_of_its_own():
    seen, together = {}, threading.Barrier(4)

    def kernel(worker, tasks, name):
        together.wait(timeout=60)
        seen[worker] = threading.get_ident()
        assert (name, tasks[0]) == ("a name", 0)

    for _ in range(2):
        threads.run(kernel, 4, "a name")
        assert sorted(seen) == [0, 1, 2, 3]
        assert len(set(seen.values())) == 4
        assert seen[0] == threading.get_ident()
    assert len(threads._helpers) < 16, "threads are kept"


@pytest.mark.parametrize("culprit", [0, 1, 3])
def test_an_error_in_any_worker_reaches_the_caller_when_all_are_done(culprit):
    done, together = [], threading.Barrier(4)  # a helper that comes when all is done would not be asked to begin

    def kernel(worker, tasks):
        together.wait(timeout=60)
        if worker == culprit:
            raise LookupError(f"worker {worker}")
        done.append(worker)

    for _ in range(2):
        done.clear()
        with pytest.raises(LookupError, match=f"worker {culprit}"):
            threads.run(kernel, 4)
        assert sorted(done) == sorted({0, 1, 2, 3} - {culprit})
    done.clear()
    threads.run(lambda worker, tasks: done.append(worker), 4)
    assert 0 in done


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system sends no signals to threads")
def test_an_interrupt_waits_for_the_helpers():
    """Ctrl-C ends a kernel when all its workers have ended: they would take tasks of the next one."""
    begun, ended = threading.Event(), threading.Event()

    def kernel(worker, tasks):
        if worker == 0:
            assert begun.wait(timeout=60)
            return
        begun.set()
        time.sleep(0.2)  # now the caller waits for this one
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        threads.run(kernel, 2)
    assert ended.is_set()


def test_a_helper_that_comes_too_late_is_not_waited_for():
    """Its core may be another program's for milliseconds."""
    begin, calls = threading.Event(), []

    class Late(SimpleQueue):
        def put(self, job):
            threading.Thread(target=lambda: (begin.wait(60), calls.append(job.taken.acquire(blocking=False)))).start()

    before = list(threads._helpers)
    threads._helpers[:] = [Late()]
    try:
        threads.run(lambda worker, tasks: calls.append(worker), 2)
    finally:
        threads._helpers[:] = before
    assert calls == [0]
    begin.set()
    while len(calls) < 2:
        time.sleep(0.001)
    assert calls == [0, False], "and it finds its job taken back"


def test_no_output_has_two_writers():
    """Winograd's last tiles overlap those before, which other threads may have, and round in another way."""
    rng = generator(0, "two writers")
    x, w = rng.standard_normal((8, 9, 9, 16), np.float32), rng.standard_normal((3, 3, 16, 400), np.float32)
    b, win = np.zeros(400, np.float32), shapes.windows((9, 9), 3)
    before = threads._limit
    try:
        threads.set_threads(1)
        alone = cpu.conv2d(x, w, b, win, False)
        threads.set_threads(2)
        for _ in range(20):
            np.testing.assert_array_equal(cpu.conv2d(x, w, b, win, False), alone)
    finally:
        threads.set_threads(before)


def test_a_kernel_inside_a_kernel_and_one_beside_another_find_their_workers():
    calls, together = [], threading.Barrier(2)

    def outer(worker, tasks):
        together.wait(timeout=60)
        threads.run(lambda inner, tasks: calls.append((worker, inner)), 3)

    threads.run(outer, 2)
    assert sorted(calls) == [(outer, inner) for outer in range(2) for inner in range(3)]


def test_nothing_stays_alive_when_the_work_is_done():
    class Thing:
        pass

    thing = Thing()
    gone = threading.Event()
    weakref.finalize(thing, gone.set)
    threads.run(lambda worker, tasks, thing: None, 4, thing)
    del thing
    assert gone.wait(timeout=60)


FORK = """
import os, sys, threading
sys.path.insert(0, "tests")
from networks import training_hash
from tinycnn.kernels import threads

threads.GRAIN = 1000
here = training_hash(2, 1, 8)
threads._busy.acquire()  # as if another thread were in a kernel
child = os.fork()
if child == 0:
    together = threading.Barrier(2)
    threads.run(lambda worker, tasks: together.wait(60), 2)
    os._exit(0 if training_hash(2, 1, 8) == here else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_has_threads_of_its_own():
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


ONE_CORE = """
import os, time
import numba, numpy as np
from tinycnn.kernels.atomic import read, wait, write
from tinycnn.kernels.compiling import compiled

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from tinycnn.kernels import threads

@compiled
def take_turns(worker, tasks, turn):
    for own in range(worker, 400, 2):
        look = 0
        while read(turn) < own:
            wait(look)
            look += 1
        write(turn, own + 1)

def seconds():
    turn = np.zeros(1, np.int64)
    start = time.process_time()
    threads.run(take_turns, 2, turn)
    return time.process_time() - start

print(min(seconds() for _ in range(5)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system ties no process to a core")
def test_a_thread_that_waits_leaves_its_core_to_the_one_that_it_waits_for():
    done = subprocess.run(
        [sys.executable, "-c", ONE_CORE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    # Seconds of the processor for 400 turns: who keeps the core has it for milliseconds each time.
    assert float(done.stdout) < 0.2


# The same bits

NUMBERS = 2, 4  # there may be fewer cores: then threads take turns


@pytest.mark.parametrize("case", PATHS, ids=lambda case: case.name)
def test_every_path_gives_the_same_bits_with_one_thread_and_with_several(case):
    def results(number):
        set_threads(number)
        y, gradients = run(case, "numba", np.float32)
        return [y.data, *gradients]

    alone = results(1)
    assert all(same_bits(results(number), alone) for number in NUMBERS)


@pytest.mark.parametrize("image", [(9, 7, 3), (33, 31, 3)], ids=str)
def test_plain_ops_give_the_same_bits_with_one_thread_and_with_several(image):
    def results(number):
        set_threads(number)
        return [*_block(image), *_steps()]

    alone = results(1)
    assert all(same_bits(results(number), alone) for number in NUMBERS)


def _block(image: tuple[int, int, int]) -> list[np.ndarray]:
    """Convolution, ReLU, pooling and a dense layer: output and all gradients."""
    rng = generator(0, "threads")
    height, width, channels = image
    rows = (height - 2) // 2 * ((width - 2) // 2) * 32
    sizes = (5, *image), (3, 3, channels, 32), (32,), (rows, 24), (24,)
    x, w, b, v, c = leaves = [Tensor(rng.standard_normal(s).astype(np.float32), requires_grad=True) for s in sizes]
    with backend.matrix_threads(backend.current()):
        y = ops.dense(ops.flatten(ops.max_pool2d(ops.relu(ops.conv2d(x, w, b)))), v, c)
        y.backward(output_gradient(y.shape).astype(np.float32))
    return [y.data, *(leaf.grad for leaf in leaves)]


def _steps() -> list[np.ndarray]:
    """What the kernels of the optimizers and of the augmentation leave behind."""
    rng = generator(0, "steps")
    w, g, m, v = (rng.random((300, 170), np.float32) for _ in range(4))
    cpu.adam_update(w, g, m, v, 0.01, 0.9, 0.999, 1e-7)
    cpu.sgd_update(w, g, m, 0.01, 0.9, True)
    images, maps = rng.random((3, 20, 20, 3), np.float32), rng.normal(size=(3, 2, 3))
    return [w, m, v, cpu.warp(images, maps, "reflect", 0.0, 1.0)]


def test_training_gives_the_same_bits_with_any_number_of_threads():
    assert len({training_hash(number, 3, 8) for number in (1, 2, 3, 4)}) == 1


def test_two_trainings_at_once_give_the_bits_of_each_alone():
    alone = [training_hash(2, 3, size) for size in (8, 5)]
    with ThreadPool(2) as pool:
        assert pool.starmap(training_hash, [(2, 3, 8), (2, 3, 5)]) == alone


def test_training_gives_the_same_bits_beside_busy_threads_of_numpy_and_torch():
    torch = pytest.importorskip("torch")
    alone, stop = training_hash(2, 3, 8), threading.Event()

    def company():
        square, image, filters = np.ones((300, 300), np.float32), torch.ones(1, 8, 32, 32), torch.ones(8, 8, 3, 3)
        while not stop.is_set():
            square @ square
            torch.nn.functional.conv2d(image, filters)

    with ThreadPool(1) as pool, threadpoolctl.threadpool_limits(2):
        pool.apply_async(company)
        beside = training_hash(2, 3, 8)
        stop.set()
    assert beside == alone


@pytest.mark.slow
def test_a_hundred_steps_of_the_fish_network_give_the_same_bits(monkeypatch):
    monkeypatch.undo()  # the usual share of work
    monkeypatch.setattr(backend, "_threads", None)
    monkeypatch.setattr(threads, "_limit", 1)
    assert training_hash(1, 100) == training_hash(2, 100)


# Fused and plain


def deep() -> Sequential:
    """Every fused op that has weights, and every kind of convolution that the kernels tell apart."""
    layers = [
        Conv2D(16, 3, padding="same", activation="relu", input_shape=(20, 20, 3)),
        MaxPooling2D(2),
        Conv2D(20, 3, activation="relu"),
        Conv2D(16, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Conv2D(8, 2, strides=2),
        Flatten(),
        Dense(40, activation="relu"),
        Dense(1, activation="sigmoid"),
    ]
    return Sequential(layers)


@pytest.mark.parametrize(
    ("optimizer", "tolerance"), [(Adam, 1e-4), (lambda: SGD(0.05, 0.9), 1e-5)], ids=["Adam", "SGD"]
)
def test_fused_and_plain_training_stay_together(optimizer, tolerance):
    """Adam makes a whole step of a gradient so small that it is mostly rounding."""
    results = []
    for fuse in (True, False):
        with using("numba"):
            model = deep()
            model.compile(optimizer(), "binary_crossentropy", fuse=fuse)
            losses = losses_of(model.train_on_batch, 20, 20)
        results.append([losses, *model.get_weights()])
    for fused, plain in zip(*results, strict=True):
        assert np.abs(fused - plain).max() <= tolerance * np.abs(plain).max()
