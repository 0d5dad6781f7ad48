"""PyTorch's autograd and optimizers train the same network from the same weights: gradients and losses must agree."""

import numpy as np
import pytest
from networks import fish, losses_of, photos, tiny, using

from tinycnn import layers, optimizers
from tinycnn.tensor import Tensor

torch = pytest.importorskip("torch")
F = torch.nn.functional


@pytest.fixture(autouse=True, scope="module")
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one would wait for busy cores at every op
    yield
    torch.set_num_threads(before)


class Twin:
    """A binary classifier of ours in torch's functions, with weights as ours lie in memory."""

    def __init__(self, model, optimizer):
        self.weights = [torch.tensor(w, requires_grad=True) for w in model.get_weights()]
        self.kinds = [type(layer) for layer in model.layers if type(layer) is not layers.Flatten]
        self.optimizer = optimizer(self.weights)

    def logits(self, x):
        """(N, 1): what goes into the last sigmoid."""
        h, left = torch.as_tensor(x).permute(0, 3, 1, 2), iter(self.weights)  # (N, C, H, W)
        for place, kind in enumerate(self.kinds):
            if kind is layers.MaxPooling2D:
                h = F.max_pool2d(h, 2)
            elif kind is layers.Conv2D:
                h = F.relu(F.conv2d(h, next(left).permute(3, 2, 0, 1), next(left)))
            else:
                flat = h.permute(0, 2, 3, 1).flatten(1) if h.ndim == 4 else h  # (N, H*W*C)
                h = flat @ next(left) + next(left)
                h = h if place == len(self.kinds) - 1 else F.relu(h)
        return h

    def loss(self, x, y):
        return F.binary_cross_entropy_with_logits(self.logits(x)[:, 0], torch.tensor(y))

    def train_on_batch(self, x, y):
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


class KerasAdam(torch.optim.Optimizer):
    """Adam with Keras's place for epsilon, in torch's operations: torch.optim.Adam adds it after the correction."""

    def __init__(self, weights):
        super().__init__(weights, {})
        self.steps = 0

    @torch.no_grad()
    def step(self):
        self.steps += 1
        rate = 0.001 * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for w in self.param_groups[0]["params"]:
            m, v = self.state[w].setdefault("moments", (torch.zeros_like(w), torch.zeros_like(w)))
            m.lerp_(w.grad, 0.1)
            v.lerp_(w.grad**2, 0.001)
            w -= rate * m / (v.sqrt() + 1e-7)


RECIPES = [
    (fish, "numba", "adam", KerasAdam, 20),
    (fish, "numpy", "adam", KerasAdam, 5),
    (tiny, "numba", "adam", KerasAdam, 20),
    (tiny, "numpy", "adam", KerasAdam, 20),
    (tiny, "numba", optimizers.SGD(0.1), lambda w: torch.optim.SGD(w, 0.1), 20),
    (tiny, "numpy", optimizers.SGD(0.1, 0.9), lambda w: torch.optim.SGD(w, 0.1, 0.9), 20),
    (tiny, "numba", optimizers.SGD(0.1, 0.9, True), lambda w: torch.optim.SGD(w, 0.1, 0.9, nesterov=True), 20),
]


@pytest.mark.parametrize(("make", "backend", "optimizer", "reference", "steps"), RECIPES)
def test_losses_follow_those_of_torch(make, backend, optimizer, reference, steps):
    with using(backend):
        ours = make()
        other = Twin(ours, reference)
        ours.compile(optimizer, "binary_crossentropy")
        size = ours.input_shape[0]
        mine, theirs = (losses_of(each.train_on_batch, steps, size) for each in (ours, other))
    far = np.abs(mine / theirs - 1)
    assert far[:5].max() < 1e-5
    assert far.max() < 1e-3


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_of_every_weight_are_those_of_autograd(backend, fused):
    x, y = photos(32, 64)
    with using(backend):
        ours = fish()
        other = Twin(ours, KerasAdam)
        ours.compile(optimizers.SGD(1.0), "binary_crossentropy", fuse=fused)
        before = ours.get_weights()
        ours.train_on_batch(x, y)  # one step of rate 1 moves each weight by its gradient
    other.loss(x, y).backward()
    for weight, old, theirs in zip(ours.weights, before, other.weights, strict=True):
        scale = theirs.grad.abs().max().item()
        np.testing.assert_allclose(weight.grad, theirs.grad.numpy(), rtol=0, atol=1e-5 * scale)
        np.testing.assert_array_equal(weight.numpy(), old - weight.grad)


def test_a_model_is_a_function_that_can_be_differentiated():
    x, _ = photos(4)
    ours = tiny()
    mine, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ours(mine).sum().backward()
    torch.sigmoid(Twin(ours, KerasAdam).logits(theirs)).sum().backward()
    np.testing.assert_allclose(mine.grad, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)
