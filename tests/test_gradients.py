"""Is every gradient right, element by element, and is none computed that nobody asked for?"""

import numpy as np
import pytest
from checks import EXACT, assert_near, check_gradient, every_case, output_gradient, run

from tinycnn import Tensor, gradcheck, ops, use_backend
from tinycnn.random import generator


@every_case
def test_every_element_of_every_gradient(case):
    check_gradient(case)


@every_case
def test_an_input_alone_gets_its_gradient_and_the_others_none(case):
    _, together = run(case)
    for i, g in enumerate(together):
        wanted = [j == i for j in range(len(together))]
        y, alone = run(case, wanted=wanted)
        assert [x is not None for x in alone] == wanted
        assert_near(alone[i], g, EXACT)
        if y.op.name != case.op:
            continue  # a fused op without a kernel here: its parts were asked, each in its own rows
        computed = [x is not None for x in y.op.backward(output_gradient(y.shape))]
        assert computed == wanted, f"backward computed {computed}, wanted {wanted}"


@every_case
def test_no_input_asks_so_nothing_is_remembered(case):
    y = case(*map(Tensor, case.arrays()))
    assert (y.op, y.requires_grad) == (None, False)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_whole_network_end_to_end(backend):
    """Convolution to loss in one expression: the shape of the fish network, on a thumbnail."""
    use_backend(backend)
    rng = generator(0, "network")
    x, filters, bias = rng.standard_normal((2, 6, 6, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
    w, b = rng.standard_normal((16, 1)), rng.standard_normal(1)

    def loss(x, filters, bias, w, b):
        pooled = ops.max_pool2d(ops.relu(ops.conv2d(x, filters, bias)))
        return ops.binary_cross_entropy(ops.sigmoid(ops.dense(ops.flatten(pooled), w, b)), np.array([[1.0], [0.0]]))

    report = gradcheck(loss, x, filters, bias, w, b)
    assert report.method == "complex"
    assert report.elements == sum(a.size for a in (x, filters, bias, w, b))
