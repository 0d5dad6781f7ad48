"""Do other processes compile what this one will call, does nothing depend on it, and are they gone afterwards?"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from checks import ROOT
from networks import training_hash
from tinycnn.kernels import ahead, compiling, cpu, program, threads

from tinycnn import backend
from tinycnn.layers import Flatten
from tinycnn.models import Sequential
from tinycnn.ops import Reshape


@pytest.fixture(autouse=True)
def restored(no_leaks, monkeypatch):
    monkeypatch.setattr(threads, "_limit", 2)
    monkeypatch.setattr(backend, "_threads", None)
    monkeypatch.setattr(backend, "_current", backend.get("numba"))


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """The processes that were started."""
    found, real = [], subprocess.Popen

    def popen(*arguments, **options):
        found.append(real(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return found


def python(script: str, cache) -> list:
    """What a script prints as JSON, in a process with two threads and this cache."""
    environment = os.environ | {"TINYCNN_CACHE": str(cache), "TINYCNN_NUM_THREADS": "2", "TINYCNN_BACKEND": "numba"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


ALL_BY_ANOTHER = """
import json, time
import numpy as np
from tinycnn.kernels import ahead, compiling, cpu, recording

x = np.zeros((2, 3), np.float32)
with recording.listed() as calls:
    cpu.logistic(x)
    cpu.logistic(x.astype(np.float64))
wanted = ahead._missing(calls)
names = [kernel.py_func.__name__ for kernel, *_ in wanted]
with ahead._helpers(1, wanted):
    while wanted:
        time.sleep(0.01)
y = cpu.logistic(x)
print(json.dumps([names, len(ahead._missing(calls)), sum(cpu._logistic.stats.cache_hits.values()), y.tolist()]))
"""


def test_another_process_compiles_and_this_one_finds_the_code(tmp_path):
    names, missing, hits, y = python(ALL_BY_ANOTHER, tmp_path)
    # The long ones at the ends; float32 and float64 apart.
    assert names == ["_watch", "_logistic", "_logistic", "_await", "conduct"]
    assert (missing, hits) == (0, 1)
    assert y == [[0.5] * 3] * 2


TOGETHER = """
import json
from tinycnn.kernels import program, threads

for kernel, arguments in threads.kernels_of([]):
    kernel.compile(tuple(map(kernel.typeof_pyval, arguments)))
print(json.dumps([len(kernel.signatures) for kernel in (program._walk, program._stage, program.join)]))
"""


@pytest.mark.slow
def test_what_two_kernels_share_is_compiled_once(tmp_path):
    """Where one calls it with a plain 0, that is a type of its own to Numba."""
    assert python(TOGETHER, tmp_path) == [1, 1, 1]


FIRST_RUN = """
import json
import numpy as np
from tinycnn.kernels import ahead
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential

kernels, missing = [], ahead._missing

def noted(calls):
    wanted = missing(calls)
    kernels.append([kernel for kernel, *_ in wanted])
    return wanted

ahead._missing = noted
model = Sequential([
    Conv2D(8, 3, activation="relu", input_shape=(10, 10, 3)), MaxPooling2D(2), Flatten(),
    Dense(1, activation="sigmoid"),
])
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
x = np.linspace(-1, 1, 4 * 300, dtype=np.float32).reshape(4, 10, 10, 3)
found = [model.train_on_batch(x, np.array([0, 1, 1, 0])) for _ in range(3)]
found.append(model.predict_on_batch(x).ravel().tolist())
by_others = sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels[0])
print(json.dumps([found, [len(wanted) for wanted in kernels], by_others]))
"""


@pytest.mark.slow
def test_the_first_run_of_all_gives_the_bits_of_the_second(tmp_path):
    first, wanted, by_others = python(FIRST_RUN, tmp_path)
    second, wanted_later, _ = python(FIRST_RUN, tmp_path)
    assert wanted[0] > 5
    assert 0 < by_others < wanted[0]
    assert wanted_later == [0, 0]
    assert first == second


@numba.njit
def _inner(x):
    return x + 1


@numba.njit
def _outer(x):
    return _inner(x) * _inner(x - 1)


@numba.njit
def _both(x):
    return _inner(x) + _outer(x)


def test_the_length_of_a_kernel_counts_once_what_it_calls():
    inner, outer, both = (len(each.py_func.__code__.co_code) for each in (_inner, _outer, _both))
    assert ahead._length(_outer.py_func) == outer + inner
    assert ahead._length(_both.py_func) == both + outer + inner
    # By its module's name as well: `_watch` calls `join`, and that what `conduct` calls.
    assert ahead._length(threads._watch.py_func) > ahead._length(program._walk.py_func) > 3 * inner


def test_long_kernels_are_at_the_ends_in_order(monkeypatch):
    monkeypatch.setattr(ahead, "_length", lambda function: function)
    wanted = [(SimpleNamespace(py_func=length), (), []) for length in (3, 90, 5, 80, 2, 70, 100, 1)]
    found = [kernel.py_func for kernel, *_ in ahead._long_at_the_ends(wanted)]
    assert found == [90, 80, 3, 5, 2, 1, 70, 100]
    assert ahead._long_at_the_ends([]) == []


def test_work_is_looked_at_without_its_kernels(monkeypatch):
    monkeypatch.setattr(ahead, "_missing", lambda calls: deque())
    w = np.ones(5, np.float32)
    done = []

    def work():
        cpu.adam_update(w, np.ones(5, np.float32), w.copy(), w.copy(), 0.1, 0.9, 0.999, 1e-7)
        done.append(np.log(w - w))  # undefined numbers may be anything

    ahead.compile_ahead(work)
    assert len(done) == 1
    assert (w == 1).all()
    with np.errstate(divide="ignore"):
        work()
    assert not (w == 1).any()


def test_training_gives_the_same_bits_without(monkeypatch):
    prepared = training_hash(2, 3, 8)
    monkeypatch.delattr(cpu, "compile_ahead")
    assert training_hash(2, 3, 8) == prepared


class _Flat(Reshape):
    """An op of somebody else."""


@pytest.mark.parametrize("foreign", [False, True])
def test_only_work_that_is_all_ours_is_done_once_more(foreign, monkeypatch):
    class Mine(Flatten):
        def steps(self):
            (step,) = super().steps()
            return [type(step)(_Flat, (), {"shape": (-1, 4)})] if foreign else [step]

    asked = []
    monkeypatch.setattr(cpu, "compile_ahead", asked.append)
    model = Sequential([Mine(input_shape=(2, 2))])
    for _ in range(2):
        assert model.predict_on_batch(np.ones((3, 2, 2), np.float32)).shape == (3, 4)
    assert len(asked) == (not foreign)


# Faults


def wanted_kernels() -> deque:
    """One kernel, as if it were missing."""
    return deque([(cpu._logistic, (), [("<f4", 1)])])


def test_a_process_that_ends_at_once_is_not_waited_for(monkeypatch, started, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    begun = time.monotonic()
    with ahead._helpers(2, wanted_kernels()):
        pass
    assert time.monotonic() - begun < 30
    assert len(started) == 2


def test_a_process_that_cannot_be_started_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    wanted = wanted_kernels()
    with ahead._helpers(2, wanted):
        assert len(wanted) == 1


def test_a_process_that_says_nothing_is_given_up(monkeypatch, started, tmp_path):
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 300\n")
    silent.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr(ahead, "PATIENCE", 0.3)
    begun = time.monotonic()
    with ahead._helpers(4, wanted_kernels() * 4):
        pass
    assert time.monotonic() - begun < 0.9, "they are waited for together"
    assert None not in [process.poll() for process in started]


def test_an_interrupt_ends_the_other_processes(started):
    with pytest.raises(KeyboardInterrupt), ahead._helpers(1, wanted_kernels()):
        raise KeyboardInterrupt
    assert started[0].poll() is not None


@pytest.mark.parametrize("why", ["nothing", "one thread", "no cache", "no Python", "not Python", "one kernel"])
def test_nothing_is_started_that_could_not_help(why, monkeypatch, started, tmp_path):
    monkeypatch.setenv("TINYCNN_CACHE", str(tmp_path))
    compiled: list = []
    kernel = type("Kernel", (), {"compile": compiled.append, "py_func": cpu.logistic})
    wanted = deque([(kernel, (), [])] * (1 if why == "one kernel" else 2))
    monkeypatch.setattr(ahead, "_missing", lambda calls: wanted)
    if why == "one thread":
        threads.set_threads(1)
    if why == "no cache":
        (tmp_path / "kernels").write_text("in the way")
    if why in ("no Python", "not Python"):
        monkeypatch.setattr(sys, "executable", "" if why == "no Python" else "/usr/bin/blender")
    ahead.compile_ahead(lambda: None)
    assert len(started) == (why == "nothing")
    assert len(compiled) in ((1, 2) if why == "nothing" else (0,))


def test_a_folder_for_code_is_made_only_where_code_can_be_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYCNN_CACHE", str(tmp_path))
    assert compiling.keeps_code()
    assert list((tmp_path / "kernels").iterdir())
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    monkeypatch.setenv("TINYCNN_CACHE", os.devnull)
    assert not compiling.keeps_code()
