"""The networks that are compared, as data that every library's builder reads, with their weights and batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """`filters` windows of size x size, stride 1, then ReLU. Weights (size, size, C, filters), (filters,)."""

    filters: int
    size: int
    padding: str = "valid"


@dataclass(frozen=True)
class Pool:
    """The largest of each 2 x 2 window, stride 2."""


@dataclass(frozen=True)
class Flatten:
    """Each image as one row, channel fastest."""


@dataclass(frozen=True)
class Dense:
    """Weights (inputs, units), (units,); `activation` is relu, sigmoid or softmax."""

    units: int
    activation: str = "relu"


Layer = Conv | Pool | Flatten | Dense


@dataclass(frozen=True)
class Network:
    """Layers for images of `input_shape` (H, W, C), and how they are trained: Adam, cross-entropy, this batch.

    The last layer is a sigmoid of one output or a softmax; the loss is the cross-entropy that belongs to it.

    The learning rate is so small that a network stays as it began. Labels that contradict each other (see `batches`)
    would close most ReLUs within thirty steps of Keras's default, and kernels that skip what is closed would be timed
    with little work; in training on photos half of them and more stay open.
    """

    name: str
    input_shape: Shape
    layers: tuple[Layer, ...]
    batch: int
    learning_rate: float = 1e-5

    @property
    def outputs(self) -> int:
        """1 for a sigmoid, else the number of classes."""
        last = self.layers[-1]
        assert isinstance(last, Dense)
        return last.units

    def shapes(self) -> list[Shape]:
        """The shape in front of each layer, and the one after the last."""
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(_output_shape(layer, shapes[-1]))
        return shapes

    def multiply_adds(self) -> int:
        """How many products the forward pass of one image costs."""
        kernels = [shape for shape in self.weight_shapes() if len(shape) > 1]
        made = [
            shape
            for layer, shape in zip(self.layers, self.shapes()[1:], strict=True)
            if isinstance(layer, Conv | Dense)
        ]
        return sum(prod(kernel) * prod(shape[:-1]) for kernel, shape in zip(kernels, made, strict=True))

    def weight_shapes(self) -> list[Shape]:
        """Kernel and bias of each layer that has them, in Keras's order and layouts."""
        found: list[Shape] = []
        for layer, shape in zip(self.layers, self.shapes()[:-1], strict=True):
            if isinstance(layer, Conv):
                found += [(layer.size, layer.size, shape[2], layer.filters), (layer.filters,)]
            elif isinstance(layer, Dense):
                found += [(shape[0], layer.units), (layer.units,)]
        return found


def _output_shape(layer: Layer, shape: Shape) -> Shape:
    if isinstance(layer, Conv):
        cut = layer.size - 1 if layer.padding == "valid" else 0
        return shape[0] - cut, shape[1] - cut, layer.filters
    if isinstance(layer, Pool):
        return shape[0] // 2, shape[1] // 2, shape[2]
    return (prod(shape),) if isinstance(layer, Flatten) else (layer.units,)


def fish(side: int = 64, filters: int = 32, batch: int = 32) -> Network:
    """The paper's network: clownfish or angelfish on 64x64 pixels."""
    blocks = (Conv(filters, 3), Pool(), Conv(filters, 3), Pool())
    return Network("fish", (side, side, 3), (*blocks, Flatten(), Dense(128), Dense(1, "sigmoid")), batch)


def vgg(side: int = 128, filters: int = 64, batch: int = 16) -> Network:
    """Larger pictures, padded convolutions with more filters, and nothing but them."""
    blocks = (Conv(filters, 3, "same"), Pool(), Conv(filters, 3, "same"), Pool())
    return Network("vgg", (side, side, 3), (*blocks, Flatten(), Dense(1, "sigmoid")), batch)


def lenet(side: int = 28, filters: int = 6, batch: int = 32) -> Network:
    """LeNet-5 (LeCun et al., 1998) with today's ReLU and max-pooling: small maps, ten classes."""
    blocks = (Conv(filters, 5, "same"), Pool(), Conv(16, 5), Pool())
    return Network("lenet", (side, side, 1), (*blocks, Flatten(), Dense(120), Dense(84), Dense(10, "softmax")), batch)


NETWORKS = {maker.__name__: maker for maker in (fish, vgg, lenet)}


def make(name: str, **arguments: int) -> Network:
    """A network by name; the arguments are those of its maker: side, filters, batch."""
    return NETWORKS[name](**arguments)


def weights(network: Network, seed: int = 0) -> list[np.ndarray]:
    """Glorot-uniform kernels and zero biases, float32, in Keras's order and layouts."""
    from tinycnn.initializers import glorot_uniform, zeros
    from tinycnn.random import generator

    return [
        (glorot_uniform if len(shape) > 1 else zeros)(shape, generator(seed, "benchmark weights", i))
        for i, shape in enumerate(network.weight_shapes())
    ]


def images(network: Network, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise (count, H, W, C) in [0, 1] with a brighter square, and class numbers (count,) drawn at random."""
    from tinycnn.random import generator

    rng = generator(seed, "benchmark images")
    h, w, _ = network.input_shape
    x = rng.random((count, *network.input_shape), np.float32)
    classes = rng.integers(0, max(network.outputs, 2), count)
    x[:, h // 3 : -h // 3, w // 3 : -w // 3] *= 0.5
    x[:, h // 3 : -h // 3, w // 3 : -w // 3] += 0.5 * (classes / classes.max(initial=1)).reshape(-1, 1, 1, 1)
    return x, classes


def labels(network: Network, classes: np.ndarray) -> np.ndarray:
    """Class numbers (N,) as the loss wants them: float32 (N, 1) for a sigmoid, one-hot (N, CLASSES) for a softmax."""
    if network.outputs == 1:
        return classes.astype(np.float32).reshape(-1, 1)  # (N, 1)
    return np.eye(network.outputs, dtype=np.float32)[classes]


def batches(network: Network, count: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Batches x (count, N, H, W, C) and y (count, N, outputs); the second half shows the first's images again.

    There they have another label: nothing can be learned by heart, so gradients keep their size however long the
    benchmark trains. Numbers that shrink below what a float can hold would slow some libraries down.
    """
    half = max(count // 2, 1)
    x, classes = images(network, half * network.batch, seed)
    x = x.reshape(half, network.batch, *network.input_shape)  # (count / 2, N, H, W, C)
    others = (classes + 1) % max(network.outputs, 2)
    y = [labels(network, c).reshape(half, network.batch, -1) for c in (classes, others)]  # (count / 2, N, outputs)
    return np.concatenate([x, x])[:count], np.concatenate(y)[:count]


def channels_first(network: Network, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same weights for libraries that put channels first: (F, C, KH, KW) and (units, inputs).

    The first dense layer's inputs are reordered, because flattening then runs over channels slowest.
    """
    turned: list[np.ndarray] = []
    left = iter(given)
    flat_from: Shape | None = None
    for layer, shape in zip(network.layers, network.shapes()[:-1], strict=True):
        if isinstance(layer, Conv):
            turned += [next(left).transpose(3, 2, 0, 1), next(left)]  # (F, C, KH, KW)
        elif isinstance(layer, Flatten):
            flat_from = shape
        elif isinstance(layer, Dense):
            kernel, bias = next(left), next(left)
            if flat_from is not None:  # (H, W, C, units) -> (C, H, W, units) -> (C*H*W, units)
                kernel = kernel.reshape(*flat_from, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
                flat_from = None
            turned += [kernel.T, bias]
    return [np.ascontiguousarray(w) for w in turned]


def write(path: Path, given: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
    """Weights and batches in one .npz file."""
    arrays: dict[str, Any] = {f"w{i}": w for i, w in enumerate(given)}
    np.savez(path, x=x, y=y, **arrays)


def read(path: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """What `write` wrote: weights, x, y."""
    with np.load(path, allow_pickle=False) as data:
        return list(_in_order(data)), data["x"], data["y"]


def _in_order(data: np.lib.npyio.NpzFile) -> Iterator[np.ndarray]:
    i = 0
    while f"w{i}" in data:
        yield data[f"w{i}"]
        i += 1
