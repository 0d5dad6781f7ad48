"""The cupy backend and PyTorch as they run on a GPU: who takes part in `benchmarks.gpu`, and how work is timed."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from tinycnn import use_backend

from .common import one_line, say
from .networks import Network
from .peer_tinycnn import TinyCNN, TinyCNNTraining
from .peer_torch import Torch, TorchTraining
from .peers import Peer, Training
from .worker import PeerFailedError

WARM_UP = 3  # calls before a recording

Data = tuple[list[np.ndarray], np.ndarray, np.ndarray]  # weights, images (B, N, H, W, C), labels (B, N, 1)


class OnCpu(TinyCNN):
    """tinycnn's CPU kernels, which decide what is right."""

    def __init__(self, threads: int) -> None:
        use_backend(self.backend)  # set_threads is not called: it would cost the GPU's steps time


class OnNumPy(OnCpu):
    """The same without Numba."""

    backend = "numpy"


class OnGpu(OnCpu):
    """tinycnn on the GPU, a training step as one graph."""

    backend = "cupy"
    replay: ClassVar[bool] = True

    def prepare_training(self, network, weights, x, y) -> Training:
        import cupy

        return GpuTraining(network, weights, [cupy.asarray(images) for images in x], y, self.replay)

    def prepare_inference(self, network, weights, x):
        import cupy

        return super().prepare_inference(network, weights, cupy.asarray(x))


class OnGpuWithoutGraph(OnGpu):
    """tinycnn on the GPU, kernel after kernel."""

    replay = False


class GpuTraining(TinyCNNTraining):
    """A step as `fit` does it: its loss stays on the GPU until somebody asks."""

    def __init__(self, network: Network, first: Sequence[np.ndarray], x: Any, y: np.ndarray, replay: bool) -> None:
        self.replay = replay
        super().__init__(network, first, x, y)

    def restart(self) -> None:
        super().restart()
        self.model.compile(self.model.optimizer, self.model.loss, replay=self.replay)

    def step(self, ask: bool = False) -> float | None:
        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        loss = self.model._train_on_batch(x, y)[0]  # of the figures
        return float(loss) if ask else None


class TorchGpuTraining(TorchTraining):
    """The usual loop, on the GPU."""

    def weights(self) -> list[np.ndarray]:
        return [weight.detach().cpu().numpy() for weight in self.model.parameters()]


class TorchGraphTraining(TorchGpuTraining):
    """The whole step as one CUDA graph: new batches are copied to where it reads them."""

    graph: Any = None

    def restart(self) -> None:
        import torch

        if self.graph is None:
            rate, parameters = self.network.learning_rate, self.model.parameters()
            self.optimizer = torch.optim.Adam(parameters, rate, eps=1e-7, fused=True, capturable=True)
            self.x, self.y = (part.clone() for part in self.batches[0])
            self.graph, self.result = recorded(self._work)
        self.steps = 0
        with torch.no_grad():  # in place: the graph knows addresses
            for weight, first in zip(self.model.parameters(), self.first, strict=True):
                weight.copy_(first)
            for state in self.optimizer.state.values():
                for part in state.values():
                    part.zero_()

    def _work(self) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.call(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def step(self, ask: bool = False) -> float | None:
        x, y = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.result.item() if ask else None


def recorded(work: Callable[[], Any]) -> tuple[Any, Any]:
    """What `work` launches as a graph of PyTorch's, and its result there; it runs a few times before, with effect."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


class TorchOnGpu(Torch):
    """Eager, channels first; Adam is one kernel, and cuDNN may try its algorithms."""

    training: ClassVar[type[TorchGpuTraining]] = TorchGpuTraining

    def __init__(self, threads: int) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True

    def images(self, x: np.ndarray) -> Any:
        return super().images(x).cuda()

    def model(self, network: Network, weights: Sequence[np.ndarray] | None, logits: bool) -> Any:
        return super().model(network, weights, logits).cuda()

    def prepare_training(self, network, weights, x, y) -> Training:
        import torch

        model = self.model(network, weights, logits=True)
        pairs = [(self.images(a), torch.from_numpy(b).cuda()) for a, b in zip(x, y, strict=True)]
        return self.training(network, model, self.transform(model), pairs)

    def prepare_inference(self, network, weights, x):
        import torch

        model = self.model(network, weights, logits=False).eval()
        with torch.inference_mode():
            predictions = self.predictions(model, self.images(x))

        def predict() -> np.ndarray:
            with torch.inference_mode():
                return predictions().cpu().numpy()

        return predict

    def predictions(self, model: Any, images: Any) -> Callable[[], Any]:
        """What gives the predictions for these images, on the GPU."""
        call = self.transform(model)
        return lambda: call(images)


class TorchOnGpuChannelsLast(TorchOnGpu):
    """Eager, with channels last in memory."""

    memory_format = "channels_last"


class TorchGraph(TorchOnGpu):
    """A CUDA graph, channels first."""

    training = TorchGraphTraining

    def predictions(self, model: Any, images: Any) -> Callable[[], Any]:
        mine = images.clone()
        graph, result = recorded(lambda: model(mine))

        def replay(_: Any = model) -> Any:  # which must live: the graph knows its weights by their addresses alone
            mine.copy_(images)
            graph.replay()
            return result

        return replay


class TorchGraphChannelsLast(TorchGraph):
    """A CUDA graph, with channels last in memory."""

    memory_format = "channels_last"


class TorchCompile(TorchOnGpuChannelsLast):
    """torch.compile with all its tuning, which records graphs of its own."""

    mode: ClassVar[str] = "max-autotune"

    def transform(self, model):
        import torch

        return torch.compile(model, mode=self.mode, dynamic=False)


class TorchCompileReduceOverhead(TorchCompile):
    """The same without the tuning: cuBLAS and cuDNN multiply, what lies between is compiled."""

    mode = "reduce-overhead"


PEERS: dict[str, type[Peer]] = {
    "tinycnn": OnGpu,
    "tinycnn-no-graph": OnGpuWithoutGraph,
    "torch": TorchOnGpu,
    "torch-channels-last": TorchOnGpuChannelsLast,
    "torch-graph": TorchGraph,
    "torch-graph-channels-last": TorchGraphChannelsLast,
    "torch-compile": TorchCompile,
    "torch-compile-reduce-overhead": TorchCompileReduceOverhead,
}


def first_that_can(peers: Sequence[type[Peer]], work: Callable[[Peer], Any]) -> tuple[type[Peer], Any]:
    """The first of these classes whose peer can do it, and what it gave. Raises PeerFailedError."""
    reasons = []
    for kind in peers:
        try:
            return kind, work(kind(0))
        except Exception as error:  # whatever a library throws
            reasons.append(f"{kind.__name__}: {one_line(error)}")
            say(f"  {reasons[-1]}")
    raise PeerFailedError("; ".join(reasons))


def wait() -> None:
    """Until the GPU has done all that it was asked to."""
    import cupy

    cupy.cuda.Device().synchronize()


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    """The mean seconds of so many calls between two waits for the GPU."""
    wait()
    began = perf_counter()
    for _ in range(calls):
        call()
    wait()
    return (perf_counter() - began) / calls
