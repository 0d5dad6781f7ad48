"""How fast is the cupy backend on this machine's GPU, beside PyTorch on the same one?

    python -m benchmarks.gpu                                      everything: about fifteen minutes
    python -m benchmarks.gpu --only step --batches 32             one table; torch-compile alone takes minutes
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
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from tinycnn import use_backend
from tinycnn.callbacks import Callback
from tinycnn.errors import BackendError
from tinycnn.random import generator

from .common import at_least, listed, one_line, output_file, say, versions, write_results
from .gpu_kernels import profile
from .networks import Network, batches, make, weights
from .peer_gpu import PEERS, Data, OnCpu, OnNumPy, first_that_can, seconds_of
from .peer_tinycnn import build
from .peers import Peer
from .results import Cell, Row, milliseconds, report
from .rounds import BLOCK_SECONDS, LEAST_STEPS, disagreement
from .worker import Service

PARTS = ("step", "inference", "kernels", "epoch")
BATCHES = (32, 256, 1024, 8192)
INFERENCE_BATCHES = (1, 32, 256, 1024)
START_SECONDS = 180
EPOCHS, IMAGES = 3, 8000
DISTRIBUTIONS = ("cupy-cuda13x", "cupy-cuda12x", "cupy", "torch", "triton")


def prepared(peer: Peer, part: str, network: Network, data: Data) -> Service:
    """The peer with this network, to be checked and called."""
    service = Service(peer, 0)
    first, x, y = data
    if part == "step":
        service.training = peer.prepare_training(network, first, x, y)
    else:
        service.predict = peer.prepare_inference(network, first, x[0])
    return service


class Contender:
    """A peer while it is measured; once its row has a problem, it is out."""

    service: Service
    call: Callable[[], Any]
    calls: int  # in a block

    def __init__(
        self,
        name: str,
        part: str,
        network: Network,
        data: Data,
        wanted: dict[str, Any],
        patience: float = START_SECONDS,
    ) -> None:
        self.row, self.part, self.network, self.data, self.wanted = Row(name), part, network, data, wanted
        self.patience = patience

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
        with limited(self.patience):
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


def race(part: str, batch: int, peers: Sequence[str], rounds: int, patience: float) -> list[Row]:
    """One row for each peer; those that fail or are wrong say so in `problem`."""
    network = make("fish", batch=batch)
    data = weights(network), *batches(network, 4 if part == "step" else 1)
    _, wanted = first_that_can((OnCpu, OnNumPy), lambda peer: prepared(peer, part, network, data).check())
    contenders = [Contender(name, part, network, data, wanted, patience) for name in peers]
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
    rows = race(part, batch, peers, options.rounds, options.patience)
    columns: dict[str, Cell] = {
        "ms": lambda row: milliseconds(row.seconds),
        "lowest": lambda row: milliseconds(min(row.rounds)),
        "highest": lambda row: milliseconds(max(row.rounds)),
    }
    what = {"step": "training step", "inference": "inference"}[part]
    return report(f"{what}: fish, batch {batch}", rows, columns), {"rows": [row.to_json() for row in rows]}


class Stopwatch(Callback):
    """The seconds of each epoch, until its loss is known."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int) -> None:
        self.began = perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.seconds.append(perf_counter() - self.began)


def epochs() -> tuple[str, dict[str, Any]]:
    """The line about whole epochs, and their figures."""
    from tinycnn.optimizers import Adam
    from tinycnn.preprocessing.image import ImageDataGenerator

    use_backend("cupy")
    rng, network = generator(0, "benchmark epoch"), make("fish")
    images = rng.integers(0, 256, (IMAGES, *network.input_shape), np.uint8)
    augment = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    flow = augment.flow(images, rng.integers(0, 2, IMAGES).astype(np.float32), batch_size=network.batch, seed=0)
    model = build(network, weights(network))
    model.compile(Adam(network.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    watch = Stopwatch()
    history = model.fit(flow, epochs=EPOCHS, verbose=0, callbacks=[watch])
    seconds = ", ".join(f"{each:.2f}" for each in watch.seconds)
    text = f"epochs of {IMAGES} images, batch {network.batch}: {seconds} s"
    return text, {"images": IMAGES, "seconds": watch.seconds, "losses": history.history["loss"]}


def jobs(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], tuple[str, dict[str, Any]]]]]:
    """What the options ask for, one after the other: its settings, and what measures it."""
    for part in options.only:
        if part == "epoch":
            yield {"part": part}, epochs
        else:
            for batch in INFERENCE_BATCHES if part == "inference" else options.batches:
                kernels, whole = partial(profile, batch, options.rounds), partial(timed, part, batch, options)
                yield {"part": part, "batch": batch}, kernels if part == "kernels" else whole


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
    p.add_argument("--patience", type=at_least(1), default=START_SECONDS, metavar="SECONDS",
                   help=f"who needs longer to be ready is given up (default: {START_SECONDS})")  # fmt: skip
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
                text, figures = measure()
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
