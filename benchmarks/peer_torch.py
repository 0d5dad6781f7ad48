"""PyTorch as a peer: eager with planes or with channels last, and compiled."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .networks import Conv, Dense, Flatten, Network, Pool, channels_first
from .peers import OTHER_ADAM, Peer, Predict, Training


class Torch(Peer):
    """Eager, channels first (NCHW)."""

    modules = ("torch",)
    distributions = ("torch",)
    allowed = OTHER_ADAM
    memory_format: ClassVar[str] = "contiguous_format"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def transform(self, model: Any) -> Callable[[Any], Any]:
        """What is done to the module before it is used."""
        return model

    def images(self, x: np.ndarray) -> Any:
        """A batch (N, H, W, C) as a tensor of shape (N, C, H, W) in this peer's memory format."""
        import torch

        planes = torch.from_numpy(x).permute(0, 3, 1, 2)  # (N, C, H, W)
        return planes.contiguous(memory_format=getattr(torch, self.memory_format))

    def model(self, network: Network, weights: Sequence[np.ndarray] | None, logits: bool) -> Any:
        """The network as a module in this peer's memory format."""
        import torch

        return build(network, weights, logits).to(memory_format=getattr(torch, self.memory_format))

    def prepare_training(self, network, weights, x, y) -> Training:
        import torch

        model = self.model(network, weights, logits=True)
        batches = [(self.images(a), torch.from_numpy(b)) for a, b in zip(x, y, strict=True)]
        return TorchTraining(network, model, self.transform(model), batches)

    def prepare_inference(self, network, weights, x) -> Predict:
        import torch

        model = self.model(network, weights, logits=False).eval()
        call, images = self.transform(model), self.images(x)

        def predict() -> np.ndarray:
            with torch.inference_mode():
                return call(images).numpy()

        return predict


class TorchChannelsLast(Torch):
    """Eager, with channels last in memory."""

    memory_format = "channels_last"


class TorchCompile(TorchChannelsLast):
    """torch.compile; frozen weights to predict."""

    caches_code = True

    def transform(self, model):
        import torch
        import torch._inductor.config

        torch._inductor.config.freezing = not model.training
        return torch.compile(model, dynamic=False)


class TorchTraining:
    """The usual loop: fused Adam, gradients set to None."""

    def __init__(self, network: Network, model: Any, call: Callable[[Any], Any], batches: list[tuple]) -> None:
        import torch

        self.network, self.model, self.call = network, model, call
        self.batches = [(x, y if network.outputs == 1 else y.argmax(1)) for x, y in batches]  # torch wants numbers
        entropy = torch.nn.BCEWithLogitsLoss if network.outputs == 1 else torch.nn.CrossEntropyLoss
        self.loss = entropy()
        self.first = [weight.detach().clone() for weight in model.parameters()]
        self.restart()

    def restart(self) -> None:
        import torch

        self.steps = 0
        with torch.no_grad():
            for weight, first in zip(self.model.parameters(), self.first, strict=True):
                weight.copy_(first)
        self.optimizer = adam(self.model, self.network.learning_rate)

    def weights(self) -> list[np.ndarray]:
        return [weight.detach().numpy().copy() for weight in self.model.parameters()]

    def step(self, ask: bool = False) -> float | None:
        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.call(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item() if ask else None


def adam(model: Any, rate: float) -> Any:
    """Adam with Keras's defaults but for the rate, all weights in one kernel."""
    import torch

    return torch.optim.Adam(model.parameters(), rate, eps=1e-7, fused=True)


def build(network: Network, weights: Sequence[np.ndarray] | None, logits: bool) -> Any:
    """The network as a `torch.nn.Sequential`, with these weights; `logits` leaves out the last activation."""
    import torch
    from torch import nn

    activations: dict[str, Callable[[], Any]] = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "softmax": lambda: nn.Softmax(1),
    }
    modules: list[Any] = []
    for layer, shape in zip(network.layers, network.shapes()[:-1], strict=True):
        match layer:
            case Conv():
                modules += [nn.Conv2d(shape[2], layer.filters, layer.size, padding=layer.padding), nn.ReLU()]
            case Pool():
                modules.append(nn.MaxPool2d(2))
            case Flatten():
                modules.append(nn.Flatten())
            case Dense():
                modules += [nn.Linear(shape[0], layer.units), activations[layer.activation]()]
    model = nn.Sequential(*(modules[:-1] if logits else modules))
    if weights is not None:
        with torch.no_grad():
            for parameter, w in zip(model.parameters(), channels_first(network, weights), strict=True):
                parameter.copy_(torch.from_numpy(w))
    return model
