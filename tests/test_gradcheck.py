"""Does the gradient checker pass what is right, and name the op, the input and the element where something is not?"""

import numpy as np
import pytest

from tinycnn import Tensor, gradcheck, ops, use_backend
from tinycnn.gradcheck import GradientError
from tinycnn.random import generator
from tinycnn.tensor import Op

rng = generator(0, "test_gradcheck")


pytestmark = pytest.mark.usefixtures("planted")


@pytest.fixture(autouse=True)
def numpy_backend():
    use_backend("numpy")


def plant(backward, forward=lambda op, x: x * x) -> type[Op]:
    """An op called Planted, of one input."""

    def remember(self, x):
        self.x = x
        return forward(self, x)

    return type("Planted", (Op,), {"forward": remember, "backward": lambda self, gy: (backward(self, gy),)})


@pytest.mark.parametrize("method", ["auto", "complex", "difference"])
@pytest.mark.parametrize("directional", [False, True])
def test_right_gradients_pass(method, directional):
    a, b = rng.uniform(0.5, 2, (2, 3)), rng.uniform(0.5, 2, (3,))
    report = gradcheck(lambda a, b: ops.log(a) * b / (a + b), a, b, method=method, directional=directional)
    assert report.method == ("difference" if method == "difference" else "complex")
    assert report.error <= (1e-7 if method == "difference" else 1e-12)
    assert report.elements == (1 if directional else 9)


@pytest.mark.parametrize("method", ["complex", "difference"])
def test_one_wrong_element_is_named_with_its_op_and_input(method):
    def backward(op, gy):
        g = 2 * op.x * gy
        g[1, 2] *= 1 + 1e-5
        return g

    op = plant(backward)
    with pytest.raises(GradientError, match=rf"^Planted: input 1, element \(1, 2\): backward says .* {method} step"):
        gradcheck(lambda a, b: op.apply(a * 0 + b), rng.uniform(1, 2, (2, 3)), np.full((2, 3), 3.0), method=method)


@pytest.mark.parametrize("factor", [-1, 0, 2, 1 + 1e-9])
def test_any_wrong_factor_is_caught(factor):
    op = plant(lambda op, gy: 2 * op.x * gy * factor)
    for directional in (False, True):
        with pytest.raises(GradientError, match="Planted"):
            gradcheck(op.apply, rng.uniform(1, 2, (3, 4)), directional=directional)


def test_errors_that_cancel_in_a_sum_are_caught():
    """Each output element has a weight of its own, so wrong gradients cannot make up for each other."""
    op = plant(lambda op, gy: gy[::-1] * 2 * op.x, lambda op, x: x * x)
    with pytest.raises(GradientError):
        gradcheck(op.apply, np.array([1.0, 1.0]))


def test_a_large_input_is_checked_along_one_direction():
    x, w = rng.standard_normal((4, 64, 64, 3)), rng.standard_normal((3, 3, 3, 8))
    report = gradcheck(ops.conv2d, x, w, directional=True)
    assert report.elements == 1
    op = plant(lambda op, gy: np.where(np.arange(gy.size) == 7, 0, 2 * op.x * gy))
    with pytest.raises(GradientError, match="along a random direction"):
        gradcheck(op.apply, rng.uniform(1, 2, 100_000), directional=True)


def test_differences_take_over_where_complex_numbers_are_unknown():
    op = plant(lambda op, gy: gy / (1 + op.x * op.x), lambda op, x: np.arctan2(x, 1.0))
    report = gradcheck(op.apply, rng.uniform(-2, 2, 5))
    assert report.method == "difference"
    assert 0 < report.error < 1e-7
    with pytest.raises(TypeError):
        gradcheck(op.apply, rng.uniform(-2, 2, 5), method="complex")


def test_differences_take_over_where_a_function_makes_complex_numbers_real():
    op = plant(lambda op, gy: gy * np.sign(op.x), lambda op, x: np.abs(x))
    assert gradcheck(op.apply, np.array([1.0, -2.0])).method == "difference"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_fails(bad):
    op = plant(lambda op, gy: np.where(np.arange(gy.size) == 1, bad, 2 * op.x * gy))
    with pytest.raises(GradientError, match=r"element \(1,\): backward says (nan|inf)"):
        gradcheck(op.apply, np.array([1.0, 2.0, 3.0]))


def test_an_input_that_is_no_number_fails():
    with pytest.raises(GradientError, match="Mul"):
        gradcheck(lambda x: x * x, np.array([1.0, np.nan]))


def test_an_input_that_does_not_matter_has_the_gradient_zero():
    assert gradcheck(lambda a, b: a * 2, np.ones(2), np.ones(3)).elements == 5
    op = plant(lambda op, gy: gy, lambda op, x: x * 0)
    with pytest.raises(GradientError):
        gradcheck(op.apply, np.ones(2))


def test_the_tolerance_can_be_set_and_inputs_may_be_tensors_or_lists():
    op = plant(lambda op, gy: 2 * op.x * gy * 1.001)
    x = Tensor(np.array([1.0, 2.0], np.float32))
    assert gradcheck(op.apply, x, tolerance=0.01).error == pytest.approx(0.001)
    assert gradcheck(lambda x: x * x, [1, 2]).elements == 2
    assert x.grad is None
    assert x.data.tolist() == [1, 2]


def test_one_input_of_a_convolution_may_be_checked_alone():
    x, w = rng.standard_normal((1, 4, 4, 2)), rng.standard_normal((3, 3, 2, 3))
    assert gradcheck(lambda b: ops.conv2d(x, w, b), np.ones(3)).method == "complex"
