"""Does every op that PyTorch has too give what PyTorch gives, forward and backward?"""

import pytest
from cases import CASES
from checks import EXACT, assert_near, output_gradient, run

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no second opinion on the ops")


def test_every_op_has_an_equivalent():
    assert all(case.torch for case in CASES)


@pytest.mark.parametrize("case", [case for case in CASES if case.torch], ids=lambda case: case.name)
def test_torch_agrees(case):
    leaves = [torch.tensor(x, requires_grad=True) for x in case.arrays()]
    wanted = case.torch(torch, *leaves, **case.attributes)
    if wanted.numel():
        wanted.backward(torch.tensor(output_gradient(tuple(wanted.shape))))
    y, gradients = run(case)
    assert_near(y.data, wanted.detach().numpy(), EXACT, "output")
    for i, (g, leaf) in enumerate(zip(gradients, leaves, strict=True)):
        true = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert_near(g, true.numpy(), EXACT, f"gradient {i}")
