"""Does every backend give what the reference gives, and does choosing one work in clear words?"""

import os
import subprocess
import sys

import numpy as np
import pytest
from checks import ROOT, check_float32, check_numba, every_case
from gpu_stand_in import importable

import tinycnn
from tinycnn import Tensor, backend, ops, set_threads, use_backend
from tinycnn.errors import BackendError, UsageError


@every_case
def test_numba_agrees_with_numpy(case):
    check_numba(case)


@every_case
def test_numba_in_float32_is_near_float64(case):
    check_float32(case, "numba")


def test_the_backend_in_use_is_that_of_new_tensors():
    for name in ("numpy", "numba"):
        assert use_backend(name) is backend.current() is backend.get(name) is Tensor(1.0).backend
    with importable(None):
        assert use_backend("auto").name == "numba"
    assert repr(backend.get("numpy")) == "<backend numpy>"


def test_a_result_stays_on_the_backend_of_its_inputs():
    x = Tensor([1.0, 2.0], backend=backend.get("numpy"))
    use_backend("numba")
    assert (x * 2 + np.ones(2)).backend is x.backend
    assert Tensor(x).backend is x.backend


@pytest.mark.parametrize("name", ["cupy", "torch", ""])
def test_a_backend_that_cannot_run_is_refused_in_one_line_and_changes_nothing(name):
    before = use_backend("numpy")
    with importable(None), pytest.raises(BackendError, match=f"^backend '{name}'.*(use|choose) .*numpy.*$") as caught:
        use_backend(name)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert backend.current() is before


def test_two_backends_do_not_mix():
    a, b = (Tensor([1.0, 2.0], backend=backend.get(name)) for name in ("numpy", "numba"))
    with pytest.raises(BackendError, match=r"^Add: .*numpy and numba"):
        a + b


def test_complex_numbers_and_missing_kernels_go_to_the_reference(monkeypatch):
    numba, numpy = backend.get("numba"), backend.get("numpy")
    assert numba.for_dtype(np.dtype(np.complex128)) is numpy
    assert numba.for_dtype(np.dtype(np.float32)) is numba
    assert numba.im2col is not numpy.im2col
    monkeypatch.delattr("tinycnn.kernels.cpu.im2col")
    assert numba.im2col is numpy.im2col
    assert not numba.has("im2col")
    with pytest.raises(AttributeError, match="no_such_kernel"):
        numba.no_such_kernel  # noqa: B018


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_of_threads_below_one_is_refused(number):
    with pytest.raises(UsageError, match=f"threads: {number} "):
        set_threads(number)


@pytest.mark.parametrize(("value", "words"), [("numpy", "numpy"), ("nonsense", "backend 'nonsense' is unknown")])
def test_the_environment_names_the_backend_of_a_new_process(value, words):
    code = "import tinycnn.backend as b\ntry: print(b.current().name)\nexcept ValueError as error: print(error)"
    environment = {**os.environ, "TINYCNN_BACKEND": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith(words), done.stderr


def test_numpy_scalars_and_arrays_meet_tensors_on_both_sides():
    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    for y in (np.ones(2, np.float32) - x, x - np.ones(2, np.float32), np.float32(1) - x, x - np.float32(1)):
        assert isinstance(y, Tensor)
        assert y.dtype == np.float32
        assert y.requires_grad
    assert isinstance(np.ones((2, 2), np.float32) @ ops.dense(x.reshape(1, 2), np.eye(2)).reshape(2, 1), Tensor)
    assert tinycnn.Tensor is Tensor
