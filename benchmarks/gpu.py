"""How fast is the cupy backend on this machine's GPU, beside PyTorch on the same one?

    python -m benchmarks.gpu                                      everything: about fifteen minutes
    python -m benchmarks.gpu --only step --batches 32             one table; torch-compile alone takes a minute
    python -m benchmarks.gpu --output benchmarks/results/NAME.json

What it measures, with the fish network (--only):
  step       milliseconds of a training step for each of --batches
  inference  milliseconds to predict 1, 32, 256 and 1024 images, until the predictions are in the host's memory
  kernels    each kernel of a training step for each of --batches, beside the least it could take
  epoch      seconds of each of 3 epochs of `fit` over 8,000 images in memory, with the paper's augmentation

All is float32 without TF32, in one process. Images lie on the GPU before; tinycnn takes its labels from the host, in
every step. Losses or predictions must agree with those of tinycnn's CPU kernels before anything is timed, and after;
who disagrees is shown as wrong. Blocks of calls between two waits for the GPU are then timed in turn, round after
round, and the median of the rounds counts. A ratio is the peer's time over that of tinycnn with its graph.

A kernel is timed by events around many launches of it in a row: arrays that fit in the GPU's cache are found there,
so that its time may lie below its memory floor, which is the bytes of its arrays over the speed of a device copy. The
arithmetic floor of a step counts the products of dense layers and convolutions at the speed of a large matrix product.
"""

import argparse
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from tinycnn import use_backend
from tinycnn.callbacks import Callback
from tinycnn.errors import BackendError
from tinycnn.random import generator

from .common import at_least, listed, one_line, output_file, say, table, versions, write_results
from .networks import Network, batches, make, weights
from .peer_tinycnn import TinyCNN, TinyCNNTraining, build
from .peer_torch import Torch, TorchTraining
from .peers import Peer, Training
from .results import Cell, Row, milliseconds, report
from .rounds import BLOCK_SECONDS, LEAST_STEPS, disagreement
from .worker import PeerFailedError, Service

PARTS = ("step", "inference", "kernels", "epoch")
BATCHES = (32, 256, 1024, 8192)
INFERENCE_BATCHES = (1, 32, 256, 1024)
START_SECONDS = 180  # a peer that needs longer to be ready, compiling included, is given up
WARM_UP = 3  # calls before a recording
EPOCHS, IMAGES = 3, 8000
SIDE = 8192  # of the matrices that tell the arithmetic peak
REPEATS, TRIES = 20, 5  # launches of a kernel in a row, and how often they are timed
DISTRIBUTIONS = ("cupy-cuda13x", "cupy-cuda12x", "cupy", "torch", "triton")

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

    def transform(self, model):
        import torch

        return torch.compile(model, mode="max-autotune", dynamic=False)


PEERS: dict[str, type[Peer]] = {
    "tinycnn": OnGpu,
    "tinycnn-no-graph": OnGpuWithoutGraph,
    "torch": TorchOnGpu,
    "torch-channels-last": TorchOnGpuChannelsLast,
    "torch-graph": TorchGraph,
    "torch-graph-channels-last": TorchGraphChannelsLast,
    "torch-compile": TorchCompile,
}


def wait() -> None:
    """Until the GPU has done all that it was asked to."""
    import cupy

    cupy.cuda.Device().synchronize()


def prepared(peer: Peer, part: str, network: Network, data: Data) -> Service:
    """The peer with this network, to be checked and called."""
    service = Service(peer, 0)
    first, x, y = data
    if part == "step":
        service.training = peer.prepare_training(network, first, x, y)
    else:
        service.predict = peer.prepare_inference(network, first, x[0])
    return service


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


class Contender:
    """A peer while it is measured; once its row has a problem, it is out."""

    service: Service
    call: Callable[[], Any]
    calls: int  # in a block

    def __init__(self, name: str, part: str, network: Network, data: Data, wanted: dict[str, Any]) -> None:
        self.row, self.part, self.network, self.data, self.wanted = Row(name), part, network, data, wanted

    def attempt(self, action: Callable[["Contender"], None]) -> None:
        """Do something with this peer unless it is out; if it fails, keep the reason."""
        if self.row.problem:
            return
        try:
            action(self)
        except Exception as error:  # whatever a library throws, out of memory included
            self.row.problem = one_line(error)
        if self.row.problem:
            say(f"  {self.row.peer}: {self.row.problem}")

    def start(self) -> None:
        """Bring it onto the GPU, and see whether it gets the numbers right."""
        say(f"  {self.row.peer}: starting")
        with limited(START_SECONDS):
            self.service = prepared(PEERS[self.row.peer](0), self.part, self.network, self.data)
            self.check()
        training, predict = self.service.training, self.service.predict
        self.call = training.step if training else predict  # type: ignore[assignment]

    def check(self) -> None:
        """See whether it gets the numbers right."""
        self.row.problem = disagreement(self.wanted, self.service.check(), PEERS[self.row.peer].allowed)

    def find_block_size(self) -> None:
        """How many calls take about BLOCK_SECONDS."""
        self.block(LEAST_STEPS)  # the first calls may still compile or record
        self.calls = max(LEAST_STEPS, round(BLOCK_SECONDS / self.block(LEAST_STEPS)))

    def time_block(self) -> None:
        """One more round."""
        self.row.rounds.append(self.block(self.calls))

    def block(self, calls: int) -> float:
        """The mean seconds of so many calls."""
        return seconds_of(self.call, calls)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """A block that raises TimeoutError after so long, and again from time to time: libraries swallow errors."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"no end within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    """The mean seconds of so many calls between two waits for the GPU."""
    wait()
    began = perf_counter()
    for _ in range(calls):
        call()
    wait()
    return (perf_counter() - began) / calls


def race(part: str, batch: int, peers: Sequence[str], rounds: int) -> list[Row]:
    """One row for each peer; those that fail or are wrong say so in `problem`."""
    network = make("fish", batch=batch)
    data = weights(network), *batches(network, 4 if part == "step" else 1)
    _, wanted = first_that_can((OnCpu, OnNumPy), lambda peer: prepared(peer, part, network, data).check())
    contenders = [Contender(name, part, network, data, wanted) for name in peers]
    for action in (Contender.start, Contender.find_block_size):
        for contender in contenders:
            contender.attempt(action)
    for number in range(rounds):
        say(f"  round {number + 1} of {rounds}")
        for contender in contenders:
            contender.attempt(Contender.time_block)
    for contender in contenders:  # what was timed must still be right
        contender.attempt(Contender.check)
    return [contender.row for contender in contenders]


def timed(part: str, batch: int, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The table of a race, and its figures."""
    peers = [name for name in options.peers if part == "step" or name != "tinycnn-no-graph"]  # only steps have graphs
    rows = race(part, batch, peers, options.rounds)
    columns: dict[str, Cell] = {
        "ms": lambda row: milliseconds(row.seconds),
        "lowest": lambda row: milliseconds(min(row.rounds)),
        "highest": lambda row: milliseconds(max(row.rounds)),
    }
    what = {"step": "training step", "inference": "inference"}[part]
    return report(f"{what}: fish, batch {batch}", rows, columns), {"rows": [row.to_json() for row in rows]}


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel that can be done again, and the bytes of the arrays it was given."""

    name: str
    again: Callable[[], None]
    bytes: int


@contextlib.contextmanager
def noted(kernels: Any) -> Iterator[list[Launch]]:
    """A block in which kernels/cuda.py notes its launches, and the matrix products that it has a library make."""
    found: list[Launch] = []
    launch, dot, array = kernels._launch, kernels.cupy.dot, kernels.cupy.ndarray

    def note(name: str, again: Callable[[], None], arguments: tuple[Any, ...]) -> None:
        again()
        found.append(Launch(name, again, sum(a.nbytes for a in arguments if isinstance(a, array))))

    def note_launch(kernel: Any, blocks: tuple[int, ...], threads: int, *arguments: Any) -> None:
        if all(blocks):
            note(kernel.name, partial(launch, kernel, blocks, threads, *arguments), arguments)

    def note_dot(a: Any, b: Any, out: Any = None) -> None:
        note("cupy.dot", partial(dot, a, b, out=out), (a, b, out))

    kernels._launch, kernels.cupy.dot = note_launch, note_dot
    try:
        yield found
    finally:
        kernels._launch, kernels.cupy.dot = launch, dot


class Clock:
    """Times work by the GPU's own events, behind a long product: Python has asked for all of it before it begins."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.a = cupy.asarray(generator(0, "benchmark matrix").random((SIDE, SIDE), np.float32))
        self.b = cupy.empty_like(self.a)

    def multiply(self) -> None:
        self.cupy.dot(self.a, self.a, out=self.b)

    def copy(self) -> None:
        self.cupy.copyto(self.b, self.a)

    def seconds(self, call: Callable[[], None], repeats: int = REPEATS) -> float:
        """Of one call, from many in a row: the median of several tries."""
        call()
        found = []
        for _ in range(TRIES):
            start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            self.multiply()
            start.record()
            for _ in range(repeats):
                call()
            stop.record()
            stop.synchronize()
            found.append(self.cupy.cuda.get_elapsed_time(start, stop) / 1e3 / repeats)
        return median(found)

    def peaks(self) -> tuple[float, float]:
        """Floating-point operations per second of a float32 product, and bytes per second that a copy moves."""
        return 2 * SIDE**3 / self.seconds(self.multiply, 3), 2 * self.a.nbytes / self.seconds(self.copy)


def operations(network: Network) -> int:
    """Floating-point operations of a training step: forward, and gradients of weights and inputs but the images."""
    images = prod(network.weight_shapes()[0]) * prod(network.shapes()[1][:-1])  # of the first layer, forward
    return 2 * network.batch * (3 * network.multiply_adds() - images)


def profile(batch: int, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The table of the kernels of a step, and its figures."""
    network = make("fish", batch=batch)
    data = weights(network), *batches(network, 2)
    training = OnGpuWithoutGraph(0).prepare_training(network, *data)
    from tinycnn.kernels import cuda

    for _ in range(WARM_UP):
        training.step()
    with noted(cuda) as launches:
        training.step()
    clock = Clock()
    peak, bandwidth = clock.peaks()
    rows: list[dict[str, Any]] = [
        {"kernel": launch.name, "seconds": clock.seconds(launch.again), "bytes": launch.bytes,
         "floor": launch.bytes / bandwidth}
        for launch in launches
    ]  # fmt: skip
    way, step = first_that_can((OnGpu, OnGpuWithoutGraph), partial(step_seconds, network, data, options.rounds))
    figures = {
        "rows": rows, "peer": {kind: name for name, kind in PEERS.items()}[way], "seconds": step,
        "peak": peak, "bandwidth": bandwidth,
        "operations": operations(network), "arithmetic_floor": operations(network) / peak,
        "memory_floor": sum(row["floor"] for row in rows),
    }  # fmt: skip
    return show(batch, figures), figures


def step_seconds(network: Network, data: Data, rounds: int, peer: Peer) -> float:
    """The median of a step's seconds in several blocks."""
    training = peer.prepare_training(network, *data)
    seconds_of(training.step, LEAST_STEPS)
    calls = max(LEAST_STEPS, round(BLOCK_SECONDS / seconds_of(training.step, LEAST_STEPS)))
    return median(seconds_of(training.step, calls) for _ in range(rounds))


def show(batch: int, figures: dict[str, Any]) -> str:
    """The kernels of a step as a table, and its floors below."""
    step, rows = figures["seconds"], figures["rows"]
    together = {name: sum(row[name] for row in rows) for name in ("seconds", "floor")}
    lines = [
        (row["kernel"], f"{row['seconds'] * 1e3:.4f}", f"{row['seconds'] / step:.1%}", f"{row['floor'] * 1e3:.4f}",
         f"{row['floor'] / row['seconds']:.0%}")
        for row in [*rows, {"kernel": "all kernels", **together}]
    ]  # fmt: skip
    arithmetic, memory = figures["arithmetic_floor"], figures["memory_floor"]
    return "\n".join([
        f"kernels of a training step: fish, batch {batch}",
        table(("kernel", "ms", "of the step", "memory floor ms", "floor / time"), lines),
        f"the step as {figures['peer']} does it: {step * 1e3:.4f} ms",
        f"arithmetic floor: {arithmetic * 1e3:.4f} ms, {arithmetic / step:.1%} of the step"
        f" ({figures['operations'] / 1e9:.2f} GFLOP at {figures['peak'] / 1e12:.1f} TFLOP/s)",
        f"memory floor: {memory * 1e3:.4f} ms, {memory / step:.1%} of the step"
        f" (a copy moves {figures['bandwidth'] / 1e12:.2f} TB/s)",
    ])  # fmt: skip


class Stopwatch(Callback):
    """The seconds of each epoch, until its loss is known."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int) -> None:
        self.began = perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.seconds.append(perf_counter() - self.began)


def epochs(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The line about whole epochs, and their figures."""
    from tinycnn.preprocessing.image import ImageDataGenerator

    use_backend("cupy")
    rng, network = generator(0, "benchmark epoch"), make("fish")
    images = rng.integers(0, 256, (IMAGES, *network.input_shape), np.uint8)
    augment = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    flow = augment.flow(images, rng.integers(0, 2, IMAGES).astype(np.float32), batch_size=network.batch, seed=0)
    model = build(network, weights(network))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    watch = Stopwatch()
    history = model.fit(flow, epochs=EPOCHS, verbose=0, callbacks=[watch])
    seconds = ", ".join(f"{each:.2f}" for each in watch.seconds)
    text = f"epochs of {IMAGES} images, batch {network.batch}: {seconds} s"
    return text, {"images": IMAGES, "seconds": watch.seconds, "losses": history.history["loss"]}


def jobs(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[..., tuple[str, dict[str, Any]]]]]:
    """What the options ask for, one after the other: its settings, and what measures it."""
    for part in options.only:
        if part == "epoch":
            yield {"part": part}, epochs
        else:
            for batch in INFERENCE_BATCHES if part == "inference" else options.batches:
                work = partial(profile, batch) if part == "kernels" else partial(timed, part, batch)
                yield {"part": part, "batch": batch}, work


def free() -> None:
    """Give memory on the GPU back, that of one library to the other."""
    import cupy

    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()
    cupy.get_default_memory_pool().free_all_blocks()


def device() -> dict[str, Any]:
    """The GPU, its driver, and the libraries that use it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "name": properties["name"].decode(),
        "memory": properties["totalGlobalMem"],
        "processors": properties["multiProcessorCount"],
        "driver": _driver(),
        "cuda_of_driver": runtime.driverGetVersion(),
        "cuda_runtime": runtime.runtimeGetVersion(),
        "versions": versions(DISTRIBUTIONS),
    }


def _driver() -> str | None:
    """The driver's version as `nvidia-smi` knows it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", type=listed(str, PARTS), default=PARTS, metavar="PART,...", help=", ".join(PARTS))
    p.add_argument("--batches", type=listed(at_least(1)), default=BATCHES, metavar="N,...",
                   help=f"of a step (default: {','.join(map(str, BATCHES))})")  # fmt: skip
    p.add_argument("--peers", type=listed(str, [*PEERS]), default=[*PEERS], metavar="NAME,...",
                   help=f"{', '.join(PEERS)} (default: all)")  # fmt: skip
    p.add_argument("--rounds", type=at_least(1), default=5, metavar="N", help="of each measurement (default: 5)")
    p.add_argument("--output", type=output_file, metavar="FILE.json", help="keep everything measured, round by round")
    return p


def main() -> int:
    """Measure and print table by table; returns the exit code."""
    options = parser().parse_args()
    os.environ["CUPY_TF32"] = "0"
    try:
        use_backend("cupy")
    except BackendError as error:
        say(str(error))
        return error.exit_code
    settings = {name: value for name, value in vars(options).items() if name != "output"} | {"device": device()}
    results: list[dict[str, Any]] = []
    try:
        for about, measure in jobs(options):
            title = ", ".join(f"{name} {value}" for name, value in about.items())
            say(title)
            try:
                text, figures = measure(options)
            except Exception as error:  # the next part may well work
                text, figures = f"{title}: not measured: {one_line(error)}", {"problem": one_line(error)}
            print(text, end="\n\n", flush=True)
            results.append({**about, **figures})
            if options.output:
                write_results(options.output, settings, results)
            with contextlib.suppress(Exception):
                free()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
