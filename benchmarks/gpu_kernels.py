"""Each kernel of a training step on a GPU beside the least it could take: `python -m benchmarks.gpu --only kernels`."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median
from typing import Any

import numpy as np

from tinycnn.random import generator

from .common import table
from .networks import Network, batches, make, weights
from .peer_gpu import PEERS, WARM_UP, Data, OnGpu, OnGpuWithoutGraph, first_that_can, seconds_of
from .peers import Peer
from .rounds import BLOCK_SECONDS, LEAST_STEPS

SIDE = 8192  # of the matrices that tell the arithmetic peak
REPEATS, TRIES = 20, 5  # launches of a kernel in a row, and how often they are timed


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


def profile(batch: int, rounds: int) -> tuple[str, dict[str, Any]]:
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
    way, step = first_that_can((OnGpu, OnGpuWithoutGraph), partial(step_seconds, network, data, rounds))
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
