"""Does every op compute what it says, on any memory layout, and refuse what does not fit in one clear line?"""

import numpy as np
import pytest
from cases import CASES
from checks import (
    BACKENDS,
    EXACT,
    KINKS,
    check_float32,
    check_forward,
    compare,
    each_backend,
    every_case,
    run,
)  # fmt: skip

from tinycnn import ops
from tinycnn.errors import ShapeError
from tinycnn.tensor import Op, Tensor


def test_every_op_has_a_case():
    ops_that_run = {name for name, op in Op.registry.items() if op.forward is not Op.forward}
    assert {case.op for case in CASES} == ops_that_run
    assert len({case.name for case in CASES}) == len(CASES)


@every_case
def test_forward_agrees_with_the_oracle(case):
    check_forward(case)


@every_case
def test_float32_is_near_float64(case):
    check_float32(case, "numpy")


@each_backend
@pytest.mark.parametrize("check", KINKS)
def test_kinks(check, backend):
    check(backend)


def _misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = raw[1:].view(x.dtype).reshape(x.shape)
    odd[...] = x
    return odd


def _read_only(x):
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran": lambda x: x.copy("F"),
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x,
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1] if x.ndim else x,
    "read-only": _read_only,
    "misaligned": _misaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_any_memory_layout_gives_the_same_and_inputs_stay_as_they_were(case, layout):
    wanted = run(case)
    for backend in BACKENDS:
        arrays = [LAYOUTS[layout](x.copy()) for x in case.arrays()]
        compare(run(case, backend, arrays=arrays), wanted, EXACT)
        for x, before in zip(arrays, case.arrays(), strict=True):
            np.testing.assert_array_equal(x, before)


@each_backend
@every_case
def test_backward_changes_neither_the_output_nor_its_gradient(case, backend):
    y, _ = run(case, backend)
    gy, before = np.full(y.shape, 0.5), y.numpy().copy()
    for _ in range(2):
        y.backward(gy)
    np.testing.assert_array_equal(y.numpy(), before)
    assert (gy == 0.5).all()


BAD = [
    ("Add", [(2, 3), (4,)], {}, "(2, 3) and (4,)"),
    ("Sub", [(2, 3), (2, 4)], {}, "(2, 3) and (2, 4)"),
    ("Mul", [(2,), (3,)], {}, "(2,) and (3,)"),
    ("Div", [(2,), (3,)], {}, "(2,) and (3,)"),
    ("MatMul", [(2, 3), (2, 3)], {}, "(2, 3) and (2, 3)"),
    ("MatMul", [(3,), (3, 2)], {}, "(3,) @ (3, 2)"),
    ("MatMul", [(2, 2, 3), (4, 3, 2)], {}, "(2, 2, 3) and (4, 3, 2)"),
    ("Sum", [(2, 3)], {"axis": 2}, "(2, 3)"),
    ("Mean", [(2, 3)], {"axis": (0, 0)}, "(2, 3)"),
    ("Reshape", [(2, 3)], {"shape": (4, 2)}, "(2, 3)"),
    ("Dense", [(2, 3), (4, 5)], {}, "(2, 3) and (4, 5)"),
    ("Dense", [(2, 2, 2), (2, 5)], {}, "(2, 2, 2) and (2, 5)"),
    ("Dense", [(2, 3), (3, 5), (4,)], {}, "bias of shape (4,)"),
    ("Dense", [(2, 3), (3, 5), (1, 5)], {}, "must be (5,)"),
    ("Conv2D", [(4, 4, 3), (3, 3, 3, 2)], {}, "(4, 4, 3) and (3, 3, 3, 2)"),
    ("Conv2D", [(1, 4, 4, 3), (3, 3, 2, 2)], {}, "(1, 4, 4, 3) and (3, 3, 2, 2)"),
    ("Conv2D", [(1, 4, 4, 3), (3, 3, 3, 2), (3,)], {}, "bias of shape (3,)"),
    ("Conv2D", [(1, 4, 2, 1), (3, 3, 1, 1)], {}, "window 3x3 is larger than its input 4x2"),
    ("Conv2D", [(1, 4, 4, 1), (3, 3, 1, 1)], {"dilation": 2}, "dilated to 5x5"),
    ("Conv2D", [(1, 4, 4, 1), (3, 3, 1, 1)], {"strides": 0}, "strides 0"),
    ("Conv2D", [(1, 4, 4, 1), (3, 3, 1, 1)], {"padding": "full"}, "'full'"),
    ("Conv2D", [(1, 4, 4, 1), (3, 3, 1, 1)], {"padding": 3}, "padding 3"),
    ("MaxPool2D", [(4, 4, 1)], {}, "(4, 4, 1)"),
    ("MaxPool2D", [(1, 2, 2, 1)], {"size": 3}, "window 3x3 is larger than its input 2x2"),
    ("MaxPool2D", [(1, 2, 2, 1)], {"size": (2, 2, 2)}, "(2, 2, 2)"),
    ("BinaryCrossEntropy", [(3, 1), (3,)], {}, "(3, 1) and (3,)"),
    ("CategoricalCrossEntropy", [(3,), (3,)], {}, "(3,) and (3,)"),
    ("CategoricalCrossEntropy", [(3, 2), (3, 1)], {}, "(3, 2) and (3, 1)"),
    ("SigmoidBinaryCrossEntropy", [(3, 1), (3,)], {}, "(3, 1) and (3,)"),
    ("SoftmaxCategoricalCrossEntropy", [(3,), (3,)], {}, "(3,) and (3,)"),
    ("Flatten", [()], {}, "()"),
    ("Conv2D", [(1, 4, 4, 1), (3, 3, 1, 1)], {"strides": 1.5}, "strides 1.5"),
    ("MaxPool2D", [(1, 4, 4, 1)], {"size": None}, "window None"),
    ("MaxPool2D", [(1, 4, 4, 1)], {"padding": ((0.5, 1), (1, 1))}, "0.5"),
]


@pytest.mark.parametrize(("op", "shapes", "attributes", "words"), BAD, ids=lambda value: str(value))
def test_wrong_shapes_are_named_in_one_line(op, shapes, attributes, words):
    with pytest.raises(ShapeError) as caught:
        Op.registry[op].apply(*(Tensor(np.ones(shape)) for shape in shapes), **attributes)
    message = str(caught.value)
    assert message.startswith(f"{op}: ")
    assert words in message
    assert "\n" not in message


def test_an_empty_batch_passes_through_a_convolution():
    x, w = Tensor(np.ones((0, 4, 4, 2)), requires_grad=True), Tensor(np.ones((3, 3, 2, 5)), requires_grad=True)
    y = ops.conv2d(x, w, np.zeros(5))
    assert y.shape == (0, 2, 2, 5)
    y.backward(np.ones(y.shape))
    assert x.grad.shape == x.shape
    assert not w.grad.any()


def test_convolution_and_dense_layer_treat_types_alike():
    """A bias of a wider type widens the result; only the weights being complex is no obstacle."""
    x, w, b = np.ones((1, 2, 2, 1), np.float32), np.ones((2, 2, 1, 1), np.float32), np.ones(1)
    assert ops.conv2d(x, w, b).dtype == ops.dense(x.reshape(1, 4), w.reshape(4, 1), b).dtype == np.float64
    assert ops.conv2d(x, w, np.array([1j])).data.item() == 4 + 1j


def test_extreme_inputs_neither_overflow_nor_lose_their_sign():
    z = np.array([-1e4, -800.0, 0.0, 800.0, 1e4])
    np.testing.assert_array_equal(ops.sigmoid(z).data, [0, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(ops.softmax(z[None]).data, [[0, 0, 0, 0, 1]])
