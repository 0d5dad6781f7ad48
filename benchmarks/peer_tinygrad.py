"""tinygrad (0.14) as a peer: a whole training step in one TinyJit."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .networks import Conv, Dense, Flatten, Network, Pool, channels_first
from .peers import OTHER_ADAM, Peer, Predict, Training


class TinyGrad(Peer):
    """Its CPU device, which needs clang."""

    modules = ("tinygrad",)
    distributions = ("tinygrad",)
    allowed = OTHER_ADAM
    caches_code = True

    def __init__(self, threads: int) -> None:
        os.environ["DEV"] = "CPU"
        os.environ["NUM_CPU_THREADS"] = str(threads)
        import tinygrad

        tinygrad.Tensor([1.0]).sum().item()  # finds out now whether it can compile

    def prepare_training(self, network, weights, x, y) -> Training:
        return TinyGradTraining(network, weights, x, y)

    def prepare_inference(self, network, weights, x) -> Predict:
        from tinygrad import TinyJit

        variables, images = tensors(channels_first(network, weights)), planes(x)

        @TinyJit
        def predict(images):
            z = logits(network, variables, images)
            return (z.sigmoid() if network.outputs == 1 else z.softmax()).realize()

        return lambda: predict(images).numpy()


class TinyGradTraining:
    """Its own Adam; the kernels of the first steps are replayed."""

    def __init__(self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
        from tinygrad import TinyJit
        from tinygrad.nn.optim import Adam

        self.variables = tensors(channels_first(network, weights))
        self.optimizer = Adam(self.variables, lr=network.learning_rate, eps=1e-7)
        self.batches = [(planes(a), *tensors([b])) for a, b in zip(x, y, strict=True)]
        moving = [*self.variables, *self.optimizer.m, *self.optimizer.v, self.optimizer.b1_t, self.optimizer.b2_t]
        self.first = [(tensor, tensor.numpy().copy()) for tensor in moving]

        @TinyJit
        def train(x, y):
            self.optimizer.zero_grad()
            loss = cross_entropy(network, logits(network, self.variables, x), y).backward()
            return loss.realize(*self.optimizer.schedule_step())

        self.train = train
        self.restart()

    def restart(self) -> None:
        from tinygrad import Tensor

        self.steps = 0
        for tensor, first in self.first:
            tensor.assign(Tensor(first)).realize()

    def weights(self) -> list[np.ndarray]:
        return [variable.numpy().copy() for variable in self.variables]

    def step(self, ask: bool = False) -> float | None:
        from tinygrad import Device
        from tinygrad.helpers import Context

        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        with Context(TRAINING=1):
            loss = self.train(x, y)
        if ask:
            Device[Device.DEFAULT].synchronize()
        return loss.item() if ask else None


def tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    """Arrays as tensors that exist in memory."""
    from tinygrad import Tensor

    return [Tensor(np.ascontiguousarray(a)).contiguous().realize() for a in arrays]


def planes(x: np.ndarray) -> Any:
    """Images (N, H, W, C) as a tensor with channels first: (N, C, H, W)."""
    return tensors([x.transpose(0, 3, 1, 2)])[0]


def logits(network: Network, variables: Sequence[Any], x: Any) -> Any:
    """What goes into the last activation (N, outputs)."""
    left = iter(variables)
    for place, layer in enumerate(network.layers):
        match layer:
            case Conv():
                x = x.conv2d(next(left), next(left), padding=layer.size // 2 if layer.padding == "same" else 0).relu()
            case Pool():
                x = x.max_pool2d((2, 2))
            case Flatten():
                x = x.flatten(1)  # (N, C*H*W)
            case Dense():
                x = x.linear(next(left).T, next(left))
                x = x.relu() if place < len(network.layers) - 1 else x
    return x


def cross_entropy(network: Network, z: Any, y: Any) -> Any:
    """The mean loss of logits z (N, outputs) and labels y (N, outputs)."""
    if network.outputs == 1:
        return z.binary_crossentropy_logits(y)
    return -(y * z.log_softmax()).sum(-1).mean()
