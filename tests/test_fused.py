"""Does every fused op mean what it says it stands for, also where the plain ops run out of digits?"""

import numpy as np
import pytest
from cases import CASES
from checks import EXACT, assert_near, output_gradient, run

from tinycnn import Tensor, fused, ops, use_backend
from tinycnn.fused import (
    FUSIONS,
    ConvBias,
    ConvReLU,
    ConvReLUMaxPool2D,
    DenseBias,
    DenseReLU,
    FusedOp,
    SigmoidBinaryCrossEntropy,
    SoftmaxCategoricalCrossEntropy,
    Step,
)
from tinycnn.tensor import Op

FUSED_CASES = [case for case in CASES if issubclass(Op.registry[case.op], FusedOp)]


pytestmark = pytest.mark.usefixtures("planted")


@pytest.fixture(autouse=True)
def numpy_backend():
    use_backend("numpy")


def test_the_table_of_fusions_is_complete():
    assert {case.op for case in FUSED_CASES} == {op.name for op in FUSIONS}
    assert all(op.__doc__ and op.parts for op in FUSIONS)


@pytest.mark.parametrize("case", FUSED_CASES, ids=lambda case: case.name)
def test_fused_equals_plain(case):
    y, gradients = run(case)
    leaves = [Tensor(x, requires_grad=True) for x in case.arrays()]
    plain = Op.registry[case.op].plain(*leaves, **case.attributes)
    assert_near(y.data, plain.data, EXACT)
    plain.backward(output_gradient(y.shape))
    for g, x in zip(gradients, leaves, strict=True):
        assert_near(g, x.grad, EXACT)


WITH_KERNEL = [case for case in FUSED_CASES if Op.registry[case.op].kernel]


@pytest.mark.parametrize("case", WITH_KERNEL, ids=lambda case: case.name)
def test_the_kernel_runs_where_it_fits(case):
    """Else the comparisons with the reference would compare the plain ops with themselves."""
    op = Op.registry[case.op]
    without = case.attributes.get("dilation") or case.attributes.get("pool_padding")
    assert run(case, "numba", np.float32)[0].op.name == (op.parts[-1].name if without else op.name)
    for backend, dtype in (("numba", np.float64), ("numpy", np.float64), ("numpy", np.float32)):
        assert run(case, backend, dtype)[0].op.name == op.parts[-1].name


@pytest.mark.parametrize(("size", "name"), [((127, 1), "ConvReLUMaxPool2D"), ((128, 1), "MaxPool2D")])
def test_a_pool_has_no_more_taps_than_a_winner_can_name(size, name):
    use_backend("numba")
    x = np.zeros((1, 130, 2, 1), np.float32)
    x[0, size[0] - 1] = 3  # the last tap
    leaf = Tensor(x, requires_grad=True)
    y = ConvReLUMaxPool2D.apply(leaf, np.ones((1, 1, 1, 1), np.float32), pool_size=size)
    assert y.op.name == name
    y.backward(np.ones(y.shape, np.float32))
    assert leaf.grad.sum() == leaf.grad[0, size[0] - 1].sum() == 2


def test_fused_convolution_stops_what_relu_stops_and_keeps_nan():
    use_backend("numba")
    x = np.zeros((1, 3, 3, 1), np.float32)
    w = Tensor(np.ones((2, 2, 1, 1), np.float32), requires_grad=True)
    zero = Tensor(x, requires_grad=True)
    ConvReLUMaxPool2D.apply(zero, w).backward([[[[1.0]]]])
    assert not zero.grad.any()
    assert not w.grad.any()
    x[0, 2, 2] = np.nan
    for size, wanted in ((1, [[0, 0], [0, np.nan]]), (2, [[np.nan]])):
        y = ConvReLUMaxPool2D.apply(Tensor(x), w, pool_size=size)
        np.testing.assert_array_equal(y.data[0, :, :, 0], np.array(wanted, np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_any_size_give_finite_losses_and_exact_gradients(dtype):
    z = Tensor(np.array([-1e4, -200, 200, 1e4, -1e4, 1e4], dtype), requires_grad=True)
    loss = SigmoidBinaryCrossEntropy.apply(z, np.array([0, 0, 1, 1, 1, 0], dtype))
    loss.backward()
    assert loss.item() == pytest.approx(2e4 / 6)
    assert_near(z.grad, np.array([0, 0, 0, 0, -1, 1]) / 6, 1e-7)

    rows = Tensor(np.array([[1e4, 0, -1e4], [0, 300, 0]], dtype), requires_grad=True)
    loss = SoftmaxCategoricalCrossEntropy.apply(rows, np.array([[0, 0, 1], [0, 1, 0]], dtype))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert_near(rows.grad, np.array([[1, 0, -1], [0, 0, 0]]) / 2, 1e-7)


def test_fuse_replaces_the_runs_it_knows_and_nothing_else():
    y = np.array([[1.0, 0.0]])
    w, b = np.eye(2), np.zeros(2)
    flatten, dense, relu = Step(ops.Flatten), Step(ops.Dense, (w, b)), Step(ops.ReLU)
    chain = [flatten, relu, dense, Step(ops.Sigmoid), Step(ops.BinaryCrossEntropy, (y,))]
    short = fused.fuse(chain)
    assert [step.op.name for step in short] == ["Flatten", "ReLU", "DenseBias", "SigmoidBinaryCrossEntropy"]
    x = Tensor(np.array([[0.3, 2.0]]))
    assert_near(_through(short, x).data, _through(chain, x).data, EXACT)
    for untouched in ([], [relu, flatten], [Step(ops.Sigmoid), relu], [Step(ops.Sigmoid)]):
        assert fused.fuse(untouched) == untouched


def test_fuse_finds_every_known_run_and_passes_its_inputs_on():
    y = np.array([[1.0, 0.0]])
    softmax, sigmoid = Step(ops.Softmax), Step(ops.Sigmoid)
    twice = [softmax, Step(ops.CategoricalCrossEntropy, (y,)), sigmoid, Step(ops.BinaryCrossEntropy, (y,))]
    assert [(step.op, step.inputs) for step in fused.fuse(twice)] == [
        (SoftmaxCategoricalCrossEntropy, (y,)), (SigmoidBinaryCrossEntropy, (y,)),
    ]  # fmt: skip


def test_convolutions_and_dense_layers_take_along_what_follows_them():
    conv, dense = Step(ops.Conv2D, ("w", "b"), {"strides": 2}), Step(ops.Dense, ("v", "c"))
    relu, pool = Step(ops.ReLU), Step(ops.MaxPool2D, attributes={"size": 3, "strides": 2})
    chain = [conv, conv, relu, conv, relu, pool, dense, dense, relu, pool]
    assert fused.fuse(chain) == [
        Step(ConvBias, ("w", "b"), {"strides": 2}),
        Step(ConvReLU, ("w", "b"), {"strides": 2}),
        Step(ConvReLUMaxPool2D, ("w", "b"), {"strides": 2, "pool_size": 3, "pool_strides": 2}),
        Step(DenseBias, ("v", "c")),
        Step(DenseReLU, ("v", "c")),
        pool,
    ]


def _through(chain, x):
    for step in chain:
        x = step(x)
    return x


@pytest.fixture
def scaled(monkeypatch):
    """A fused op with attributes, in a chain with a shorter rival, known only to one test."""

    class ExpNeg(FusedOp):
        """e ** -x, by a kernel that no backend has"""

        parts = (ops.Neg, ops.Exp)
        kernel = "exp_neg"

        @classmethod
        def plain(cls, x):
            return ops.exp(-x)

    class ExpNegSum(FusedOp):
        """sum of e ** -x"""

        parts = (ops.Neg, ops.Exp, ops.Sum)

        @classmethod
        def plain(cls, x, **attributes):
            return ops.exp(-x).sum(**attributes)

        def forward(self, x, *, axis=None):
            self.e = np.exp(-x)
            return self.e.sum(axis=axis)

    monkeypatch.setattr(fused, "FUSIONS", (ExpNeg, ExpNegSum))
    return ExpNeg, ExpNegSum


def test_without_its_kernel_a_fused_op_runs_as_plain(scaled):
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = scaled[0].apply(x)
    assert y.op.name == "Exp"
    y.sum().backward()
    assert_near(x.grad, -np.exp([-1.0, -2.0]), EXACT)


def test_the_longest_fusion_wins_and_keeps_the_attributes(scaled):
    chain = [Step(ops.Neg), Step(ops.Exp), Step(ops.Sum, attributes={"axis": 0}), Step(ops.Neg), Step(ops.Exp)]
    assert fused.fuse(chain) == [Step(scaled[1], (), {"axis": 0}), Step(scaled[0])]


def test_arrays_alone_are_inputs_too():
    loss = SigmoidBinaryCrossEntropy.apply(np.array([0.0]), np.array([1.0]))
    assert loss.item() == pytest.approx(np.log(2))
