"""The questions that the tests ask of every case, so that planted faults (test_mutants.py) meet the very same ones."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, Case
from hypothesis import settings

from tinycnn import backend as backends
from tinycnn import gradcheck
from tinycnn.backend import Backend
from tinycnn.random import generator
from tinycnn.tensor import Op, Tensor, _recording

ROOT = Path(__file__).resolve().parent.parent
EXACT = 1e-12  # allowed in float64, relative to the largest value
BACKENDS = ("numpy", "numba")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
bounded = settings(max_examples=60, deadline=None, derandomize=True)  # deadline: the first call compiles

backends._matrix_libraries()
for _name in BACKENDS:  # loading one sets environment variables, which is no leak of the test that happens to be first
    backends.get(_name)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Restores the backend in use; fails a test that leaves any other global state changed."""
    before, backend = _global_state(), backends._current
    yield
    backends._current = backend
    leaked = [name for name, value in _global_state().items() if value != before[name]]
    assert not leaked, f"this test changed {', '.join(leaked)} and left it so"


@pytest.fixture
def planted(no_leaks, monkeypatch) -> None:
    """Ops that a test defines are known to it alone."""
    monkeypatch.setattr(Op, "registry", dict(Op.registry))


def _global_state() -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    random = [str(part) for part in np.random.get_state()]
    return {
        "Op.registry": dict(Op.registry),
        "no_grad": _recording.get(),
        "threads": backends._threads,
        "NumPy's error handling": np.geterr(),
        "NumPy's random state": random,
        "the environment": environment,
    }


def assert_near(got, wanted, tolerance: float, what: str = "value") -> None:
    """Same shape, and no element further away than `tolerance` times the largest (NaN is never near)."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}"
    largest = np.abs(wanted).max(initial=0)
    error = np.abs(got - wanted).max(initial=0)
    assert error <= tolerance * largest, f"{what}: off by {error:.3g} of {largest:.3g}, allowed {tolerance:.1e} of it"


def run(
    case: Case,
    backend: str = "numpy",
    dtype: type = np.float64,
    *,
    wanted: Sequence[bool] | None = None,
    arrays: Sequence[np.ndarray] | None = None,
) -> tuple[Tensor, list]:
    """A case's output, and the gradients of its inputs under an output gradient that float32 holds exactly."""
    arrays = [x.astype(dtype) for x in case.arrays()] if arrays is None else arrays
    wanted = [True] * len(arrays) if wanted is None else wanted
    home: Backend = backends.get(backend)
    leaves = [Tensor(x, requires_grad=want, backend=home) for x, want in zip(arrays, wanted, strict=True)]
    y = case(*leaves)
    y.backward(output_gradient(y.shape).astype(dtype))
    return y, [leaf.grad for leaf in leaves]


def output_gradient(shape: tuple[int, ...]) -> np.ndarray:
    gy = generator(0, "output gradient").uniform(-1.5, 1.5, shape)
    return np.asarray(gy, np.float32).astype(np.float64)


def check_forward(case: Case) -> None:
    """Against the case's oracle, in float64."""
    arrays = case.arrays()
    wanted = case.oracle(*arrays, **case.attributes)
    assert_near(case(*(Tensor(x, backend=backends.get("numpy")) for x in arrays)).data, wanted, EXACT)


def check_gradient(case: Case) -> None:
    """Every element of every input, against what a change of that element does."""
    backends.use_backend("numpy")
    report = gradcheck(case, *case.arrays(), method=case.method)
    assert report.elements == sum(x.size for x in case.arrays())


def check_numba(case: Case) -> None:
    """Forward and gradients as the reference's, in float64."""
    compare(run(case, "numba"), run(case), EXACT)


def check_float32(case: Case, backend: str) -> None:
    """Forward and gradients as the reference's in float64, and float32 all the way."""
    y, gradients = run(case, backend, np.float32)
    assert y.dtype == np.float32
    assert all(g.dtype == np.float32 for g in gradients)
    compare((y, gradients), run(case), case.float32_tolerance)


def compare(got: tuple[Tensor, list], wanted: tuple[Tensor, list], tolerance: float) -> None:
    assert_near(got[0].data, wanted[0].data, tolerance, "output")
    for i, (g, true) in enumerate(zip(got[1], wanted[1], strict=True)):
        assert_near(g, true, tolerance, f"gradient {i}")


def pooled(x, backend: str, **attributes) -> tuple[np.ndarray, np.ndarray]:
    """Max-pooling of one grey image (rows of numbers), and its gradient under ones."""
    leaf = Tensor(np.array(x, np.float64)[None, :, :, None], requires_grad=True, backend=backends.get(backend))
    y = Op.registry["MaxPool2D"].apply(leaf, **attributes)
    y.backward(np.ones(y.shape))
    return y.data[0, :, :, 0], leaf.grad[0, :, :, 0]


def check_ties(backend: str) -> None:
    """Of equal numbers the first in row-major order wins, and gets the whole gradient."""
    y, gx = pooled([[0, 2, 1, 1], [2, 2, 1, 1], [-3, -4, -5, -6], [-4, -3, -6, -5]], backend)
    assert y.tolist() == [[2, 1], [-3, -5]]
    assert gx.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def check_padding_never_wins(backend: str) -> None:
    """The padding of a pool is lower than any number, not zero."""
    y, gx = pooled([[-1, -2], [-3, -4]], backend, size=2, strides=1, padding=1)
    assert y.tolist() == [[-1, -1, -2], [-1, -1, -2], [-3, -3, -4]]
    assert gx.tolist() == [[4, 2], [2, 1]]


def check_pool_nan(backend: str) -> None:
    """NaN beats any number, wherever it stands in the window; the first of several gets the gradient."""
    nan = np.nan
    y, gx = pooled([[1, nan, nan, 9], [2, 3, 5, nan], [1, 2, nan, 3], [3, nan, 4, 5]], backend)
    assert np.isnan(y).all()
    assert gx.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]


def check_relu_at_zero(backend: str) -> None:
    """The derivative at 0, of either sign, is 0; NaN passes through."""
    x = Tensor(np.array([-1.0, -0.0, 0.0, 2.0, np.nan]), requires_grad=True, backend=backends.get(backend))
    y = Op.registry["ReLU"].apply(x)
    y.backward(np.full(5, 3.0))
    np.testing.assert_array_equal(y.data, [0, 0, 0, 2, np.nan])
    assert x.grad[:4].tolist() == [0, 0, 0, 3]


def check_clip_at_one(backend: str) -> None:
    """A probability of 1 counts as 1 - 1e-7, and the clip passes no gradient."""
    p = Tensor(np.array([1.0, 0.25]), requires_grad=True, backend=backends.get(backend))
    loss = Op.registry["BinaryCrossEntropy"].apply(p, np.array([0.0, 0.0]))
    loss.backward()
    assert_near(loss.data, -(np.log(1e-7) + np.log(0.75)) / 2, 1e-8)
    assert_near(p.grad, [0, 2 / 3], EXACT)


def check_diamond() -> None:
    """A tensor used by several ops gets the sum of their gradients, once all of them are known."""
    x = Tensor(np.array(3.0), requires_grad=True)
    y = x * x
    z = (y + x) * y  # x ** 4 + x ** 3
    z.backward()
    assert x.grad == 4 * 3**3 + 3 * 3**2
    z.backward()
    assert x.grad == 135, "a second call starts afresh"


def check_shared_buffer() -> None:
    """A weight that several ops use gets the sum of their gradients, with a buffer as without, each time."""
    home = backends.get("numba")
    rng = generator(0, "shared")
    x, w = (Tensor(rng.integers(-4, 5, s).astype(np.float32), backend=home) for s in ((3, 4), (4, 4)))
    w.requires_grad = True

    def gradient() -> np.ndarray:
        dense = Op.registry["DenseBias"].apply
        dense(dense(dense(x, w), w), w).backward(np.ones((3, 4), np.float32))
        return w.grad.copy()

    wanted = gradient()
    w.grad_buffer = np.full((4, 4), np.nan, np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(gradient(), wanted)
        assert w.grad is w.grad_buffer
    dense = Op.registry["DenseBias"].apply(x, w)
    assert dense.op.gradient_buffer(1) is w.grad_buffer, "it is lent again in the next pass"
    w.buffer_lent = False


KINKS = (check_ties, check_padding_never_wins, check_pool_nan, check_relu_at_zero, check_clip_at_one)
