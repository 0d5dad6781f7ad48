"""Does the backward pass walk any graph right, and do tensors keep the types they were given?"""

import gc

import numpy as np
import pytest
from checks import check_diamond

from tinycnn import Tensor, no_grad, ops, use_backend
from tinycnn.errors import ShapeError
from tinycnn.tensor import Op

pytestmark = pytest.mark.usefixtures("planted")


@pytest.fixture(autouse=True)
def numpy_backend():
    use_backend("numpy")


def leaf(data) -> Tensor:
    return Tensor(np.array(data, np.float64), requires_grad=True)


def test_sharing():
    check_diamond()
    x = leaf([2.0, 3.0])
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]
    (x + x + x).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_each_op_is_asked_once_after_all_that_used_it():
    asked = []

    class Noted(Op):
        """x, noting when its gradient is asked for"""

        def forward(self, x, *, number):
            self.number = number
            return x + 0

        def backward(self, gy):
            asked.append((self.number, float(gy)))
            return (gy,)

    x = leaf(1.0)
    first = Noted.apply(x, number=1)
    second = Noted.apply(first, number=2)
    third = Noted.apply(second + first, number=3)
    (third * second + first).backward()
    assert asked == [(3, 1.0), (2, 3.0), (1, 5.0)]  # second: 1 from third, 2 from the product
    assert x.grad == 5


def test_reuse_of_a_part_by_two_losses():
    x = leaf(2.0)
    shared = x * x
    (shared * 3).backward()
    assert x.grad == 12
    (shared * shared).backward()
    assert x.grad == 32


def test_deep_graphs_need_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + x
    y.backward()
    assert x.grad == 5001
    del y
    gc.collect()


def test_only_leaves_that_ask_get_a_gradient_and_each_call_starts_afresh():
    x, constant = leaf([1.0, 2.0]), Tensor(np.array([3.0, 4.0]))
    inner = x * constant
    loss = inner.sum()
    for _ in range(2):
        loss.backward()
        assert x.grad.tolist() == [3, 4]
    assert inner.grad is loss.grad is constant.grad is None


def test_the_gradient_of_a_leaf_belongs_to_it_alone():
    x, gy = leaf([1.0, 2.0]), np.array([1.0, 1.0])
    y = x.reshape(1, 2).reshape(2)
    y.backward(gy)
    x.grad += 5
    assert gy.tolist() == [1, 1]
    y.backward(gy)
    assert x.grad.tolist() == [1, 1]
    x.backward(gy)
    assert x.grad is not gy


def test_no_grad_remembers_nothing_and_ends_with_its_block():
    x = leaf(2.0)
    with no_grad():
        y = x * x
        assert (y.op, y.requires_grad) == (None, False)
        with no_grad():
            pass
        assert (x * x).op is None
    assert (x * x).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * x).requires_grad


def test_backward_needs_something_to_differentiate_and_a_gradient_of_its_shape():
    with pytest.raises(ValueError, match="requires_grad=True"):
        Tensor(1.0).backward()
    y = leaf([1.0, 2.0, 3.0]) * 2
    with pytest.raises(ShapeError, match=r"\(3,\) needs `gradient`"):
        y.backward()
    for wrong in (1.0, [1.0, 2.0], np.ones((3, 1)), np.ones((1, 3))):
        with pytest.raises(ShapeError, match=r"gradient has shape .*, the tensor \(3,\)"):
            y.backward(wrong)
    x = leaf([[7.0]])
    (x * x).backward()
    assert x.grad.tolist() == [[14]]


def test_a_gradient_given_as_numbers_takes_the_type_of_the_tensor():
    x = leaf([1.0, 2.0])
    (x * 1).backward([0.1, 0.2])
    assert x.grad.tolist() == [0.1, 0.2]


def test_a_gradient_may_be_a_tensor():
    x = leaf([1.0, 2.0])
    (x * 3).backward(Tensor(np.array([0.1, 0.2])))
    assert x.grad.tolist() == [0.1 * 3, 0.2 * 3]


def test_a_backward_of_wrong_shape_is_named():
    class Careless(Op):
        """x in two halves, whose backward forgets the second"""

        def forward(self, x):
            return x * 1

        def backward(self, gy):
            return (gy[: len(gy) // 2],)

    with pytest.raises(ShapeError, match=r"^Careless: backward gave \(2,\) for an input of shape \(4,\)$"):
        Careless.apply(leaf([1.0, 2, 3, 4])).sum().backward()


def test_a_backward_that_forgets_an_input_is_refused():
    class Forgetful(Op):
        """a + b with a gradient for a alone"""

        def forward(self, a, b):
            return a + b

        def backward(self, gy):
            return (gy,)

    with pytest.raises(ValueError, match=r"shorter|longer"):
        Forgetful.apply(leaf(1.0), leaf(2.0)).backward()


def test_a_leaf_thawed_between_forward_and_backward_is_left_alone():
    x, w = Tensor(np.array(2.0)), leaf(3.0)
    y = x * w
    x.requires_grad = True
    y.backward()
    assert w.grad == 2


def test_a_leaf_frozen_between_forward_and_backward_gets_nothing():
    x, w = leaf(2.0), leaf(3.0)
    y = x * w
    x.requires_grad = False
    y.backward()
    assert (x.grad, float(w.grad)) == (None, 2.0)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, "float32"),
        (1.5, "float32"),
        ([1, 2.5], "float32"),
        ([[True, False]], "float32"),
        (np.arange(3), "float32"),
        (np.arange(3, dtype=np.uint8), "float32"),
        (np.zeros(2, np.float16), "float32"),
        (np.arange(3, dtype=">i2"), "float32"),
        (np.zeros(2, ">f4"), "float32"),
        (np.zeros(2, ">f8"), "float64"),
        (np.zeros(2, np.float32), "float32"),
        (np.zeros(2, np.float64), "float64"),
        (np.zeros(2, np.complex128), "complex128"),
        (np.float64(2), "float64"),
    ],
)
def test_which_type_becomes_which(data, dtype):
    assert Tensor(data).dtype == np.dtype(dtype)
    assert Tensor(Tensor(data)).dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_numbers_take_the_type_of_the_tensor_beside_them(dtype):
    x = Tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
    pair = [0.1, 0.2]
    for y in (x + 0.1, 0.1 + x, x - 1, 1 - x, x * 0.1, 2 * x, x / 3, 3 / x, x**2, -x, x + pair, x.mean()):
        assert y.dtype == dtype
    (x * 0.1).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.tolist() == [dtype(0.1)] * 2


def test_operators_and_reversed_operators():
    x = Tensor(np.array([[1.0, 2.0], [4.0, 8.0]]))
    a = x.numpy()
    assert np.array_equal((3 - x).data, 3 - a)
    assert np.array_equal((8 / x).data, 8 / a)
    assert np.array_equal((x @ x).data, a @ a)
    assert np.array_equal((a.T @ x).data, a.T @ a)
    assert np.array_equal((-x + x * 2 - x / 2).data, -a + a * 2 - a / 2)
    assert np.array_equal((x**3).data, a**3)
    assert np.array_equal(x.reshape((4,)).data, x.reshape(4).data)
    assert x.sum(axis=1, keepdims=True).shape == (2, 1)
    assert ops.exp(x).shape == x.shape


def test_small_things():
    x = leaf([[1.0, 2.0]])
    assert (x.shape, x.ndim, len(x)) == ((1, 2), 2, 1)
    assert (x.sum().item(), type(x.sum().item())) == (3.0, float)
    assert repr(x) == "Tensor([[1., 2.]], requires_grad=True)"
    assert repr(x + x) == "Tensor([[2., 4.]], op=Add)"
    assert repr(Tensor([1.0])) == "Tensor([1.])"
    assert Tensor(x.data).data is x.data, "an array is not copied"
