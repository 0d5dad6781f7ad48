"""Which libraries are compared, and what each of them must be able to do."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np

from .networks import Network

Allowed = dict[str, float]
# How far off the reference: losses relative (nearly equal values in a pool's window may win differently, which moves
# one by some 1e-4), predictions absolute. Moves show weights left out, and are rough where gradients nearly cancel.
SAME_ADAM: Allowed = {"losses": 1e-3, "moved": 0.3, "predictions": 1e-4}
OTHER_ADAM: Allowed = {**SAME_ADAM, "losses": 2e-2}  # epsilon after the bias correction: matters to small gradients


class Training(Protocol):
    """A network in training on batches that the library already holds, one after the other, round and round."""

    def step(self, ask: bool = False) -> float | None:
        """Train on the next batch. With `ask`, wait until all is done and return the loss as it was before."""

    def weights(self) -> list[np.ndarray]:
        """Copies of the weights as they are now, in Keras's order but the library's layouts."""

    def restart(self) -> None:
        """Put the first weights back, forget the optimizer's state, begin with the first batch again."""


Predict = Callable[[], np.ndarray]  # the predictions (N, outputs) for the batch that was given


class Peer:
    """One library, used in its best normal form, float32 only. Making a peer imports the library.

    Raises ImportError where it is not installed.
    """

    modules: ClassVar[tuple[str, ...]]  # what is imported
    distributions: ClassVar[tuple[str, ...]]  # what may be installed under, the first that is counts
    trains: ClassVar[bool] = True
    allowed: ClassVar[Allowed] = SAME_ADAM
    caches_code: ClassVar[bool] = False  # on disk: the first run of all takes longer than later ones

    def __init__(self, threads: int) -> None:
        raise NotImplementedError

    @classmethod
    def missing(cls) -> list[str]:
        """The modules that are not installed; imports nothing."""
        return [module for module in cls.modules if importlib.util.find_spec(module) is None]

    def prepare_training(
        self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray
    ) -> Training:
        """Build the network from `weights` (Keras's layouts), and take batches x (B, N, H, W, C), y (B, N, outputs)."""
        raise NotImplementedError

    def prepare_inference(self, network: Network, weights: Sequence[np.ndarray], x: np.ndarray) -> Predict:
        """Build the network to ask it about x (N, H, W, C)."""
        raise NotImplementedError


PEERS = {
    "tinycnn": "peer_tinycnn:TinyCNN",
    "tinycnn-numpy": "peer_tinycnn:TinyCNNOnNumPy",
    "torch": "peer_torch:Torch",
    "torch-channels-last": "peer_torch:TorchChannelsLast",
    "torch-compile": "peer_torch:TorchCompile",
    "tensorflow": "peer_tensorflow:TensorFlow",
    "tensorflow-xla": "peer_tensorflow:TensorFlowXLA",
    "keras": "peer_tensorflow:KerasOnTensorFlow",
    "onnxruntime": "peer_onnx:ONNXRuntime",
    "openvino": "peer_onnx:OpenVINO",
    "jax": "peer_jax:JAX",
    "tinygrad": "peer_tinygrad:TinyGrad",
}
REFERENCE = "tinycnn-numpy"  # what every other peer's numbers are held against; too slow to be a rival


def peer_class(name: str) -> type[Peer]:
    """The class of a peer by its name; imports no library."""
    module, _, attribute = PEERS[name].partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), attribute)
