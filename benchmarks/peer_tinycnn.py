"""tinycnn as one of the peers: the compiled kernels, and the NumPy reference that decides what is right."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .networks import Conv, Dense, Flatten, Layer, Network, Pool
from .peers import Peer, Predict, Training


class TinyCNN(Peer):
    """The Numba backend."""

    modules = ("tinycnn",)
    distributions = ("tinycnn",)
    caches_code = True
    backend: ClassVar[str] = "numba"

    def __init__(self, threads: int) -> None:
        import tinycnn

        tinycnn.set_threads(threads)
        tinycnn.use_backend(self.backend)

    def prepare_training(self, network, weights, x, y) -> Training:
        return TinyCNNTraining(network, weights, x, y)

    def prepare_inference(self, network, weights, x) -> Predict:
        model = build(network, weights)
        return lambda: model.predict_on_batch(x)


class TinyCNNOnNumPy(TinyCNN):
    """The NumPy backend."""

    caches_code = False
    backend = "numpy"


class TinyCNNTraining:
    """`train_on_batch`, as `fit` calls it."""

    def __init__(self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
        self.network, self.first, self.batches = network, weights, list(zip(x, y, strict=True))
        self.model = build(network, weights)
        self.restart()

    def restart(self) -> None:
        from tinycnn.optimizers import Adam

        self.steps = 0
        self.model.set_weights(self.first)
        loss = "binary_crossentropy" if self.network.outputs == 1 else "categorical_crossentropy"
        self.model.compile(Adam(self.network.learning_rate), loss)

    def weights(self) -> list[np.ndarray]:
        return self.model.get_weights()

    def step(self, ask: bool = False) -> float | None:
        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        return self.model.train_on_batch(x, y)[0]


def build(network: Network, weights: Sequence[np.ndarray] | None = None) -> Any:
    """The network as a `Sequential` of the backend in use."""
    from tinycnn.models import Sequential

    model = Sequential([_layer(layer) for layer in network.layers])
    model.build(network.input_shape)
    if weights is not None:
        model.set_weights(weights)
    return model


def _layer(layer: Layer) -> Any:
    from tinycnn import layers

    match layer:
        case Conv():
            return layers.Conv2D(layer.filters, layer.size, padding=layer.padding, activation="relu")
        case Pool():
            return layers.MaxPooling2D(2)
        case Flatten():
            return layers.Flatten()
        case Dense():
            return layers.Dense(layer.units, activation=layer.activation)
