"""Where the time of a training step goes: each kernel of the fish network, beside the least it could take.

    python -m benchmarks.profile [--network fish] [--threads 1,2] [--steps 30] [--output FILE.json]

The floor of a kernel is the larger of its arithmetic at the processor's peak and its arrays read or written once at
the speed of a copy; peak and speed are measured first. Winograd's kernel and the routed gradients do fewer products
than a convolution has: their floor counts those they do, in whole vectors. "the rest" is Python: the tape, the loss,
and what NumPy does. Here each kernel runs by itself; else those of a step that was met before run as one program.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from tinycnn.kernels import threads
from tinycnn.kernels.program import Kernel, Program
from tinycnn.kernels.recording import Call

from tinycnn import set_threads, use_backend

from .common import at_least, listed, output_file, say, table, write_results
from .networks import NETWORKS, batches, make, weights
from .peak import arithmetic_peak, memory_bandwidth
from .peer_tinycnn import TinyCNNTraining

WARM_UP = 5  # steps


def multiply_adds(name: str, arguments: tuple[Any, ...]) -> float:
    """How many products a call of this kernel does, from its arguments; 0 where memory alone decides."""
    shapes = [a.shape for a in arguments if isinstance(a, np.ndarray)]
    match name:
        case "_direct":  # weights (KH*KW*C*F,), y (N, OH, OW, F), and a start for each window of a row of the pool
            return shapes[3][0] * shapes[3][1] * shapes[6][0] * shapes[1][0]
        case "_winograd":  # weights (16*C*F,)
            return shapes[0][0] * arguments[-4] * arguments[-3] * shapes[1][0]
        case "_weight_gradients":  # g (N, OH, OW, F), taps (KH*KW*C,)
            return np.prod(shapes[1]) * shapes[0][0]
        case "weight_gradients_routed":  # winner, and gws (PARTS, F, KH*LINE)
            return float((arguments[5] >= 0).sum()) * arguments[8].shape[2]
        case "input_gradient_routed":  # winner, and weights (F, KH*LINE)
            return float((arguments[6] >= 0).sum()) * arguments[7].shape[1]
        case "_dense_parts":  # weights (INPUTS, UNITS), and a start for each sample
            return shapes[1][0] * shapes[1][1] * shapes[3][0]
        case "_dense_weight_gradient" | "_dense_input_gradient":
            return shapes[0][0] * shapes[0][1] * shapes[1][1]
    return 0


class Watch:
    """Stands for what runs kernels; notes kernel, seconds, and if `counting` products and bytes of arrays.

    Replayed kernels, which else run as one program, are a program each, so that their seconds can be told apart.
    """

    def __init__(self) -> None:
        self.run, self.one_program, self.calls, self.counting = threads._run, threads._one_program, [], False

    def __enter__(self) -> "Watch":
        threads._run, threads._one_program = self, self.programs  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        threads._run, threads._one_program = self.run, self.one_program

    def __call__(self, kernel: Any, team: int, *arguments: Any) -> None:
        start = perf_counter()
        self.run(kernel, team, *arguments)
        self.note(kernel, perf_counter() - start, arguments)

    def programs(self, kernels: Sequence[Kernel], batch: np.ndarray) -> list[Call]:
        """Each kernel as a program of its own."""
        return [(self.replay, (Program([kernel], batch), batch.reshape(-1), kernel)) for kernel in kernels]

    def replay(self, program: Program, batch: np.ndarray, noted: Kernel) -> None:
        """One kernel of a replay, with the arguments that it was noted with."""
        start = perf_counter()
        threads.run_program(program, batch)
        self.note(noted.function, perf_counter() - start, noted.arguments)

    def note(self, kernel: Any, seconds: float, arguments: tuple[Any, ...]) -> None:
        """Add a call."""
        name = kernel.py_func.__name__
        size = sum(a.nbytes for a in arguments if isinstance(a, np.ndarray)) if self.counting else 0
        self.calls.append((name, seconds, multiply_adds(name, arguments) if self.counting else 0, size))


def profile(network: str, number_of_threads: int, steps: int) -> list[dict[str, Any]]:
    """One row per kernel call of a step, in order, and one for the rest: medians over the steps."""
    set_threads(number_of_threads)
    peak, bandwidth = arithmetic_peak(number_of_threads), memory_bandwidth()
    made = make(network)
    training = TinyCNNTraining(made, weights(made), *batches(made))
    found, totals = defaultdict(list), []
    with Watch() as watch:
        for step in range(WARM_UP + steps + 1):
            watch.counting = step == WARM_UP + steps  # that step is not timed
            watch.calls.clear()
            start = perf_counter()
            training.step()
            total = perf_counter() - start
            if step >= WARM_UP and not watch.counting:
                totals.append(total)
                for position, (name, seconds, _, _) in enumerate(watch.calls):
                    found[position, name].append(seconds)
    rows = []
    for ((_, name), times), (_, _, products, size) in zip(found.items(), watch.calls, strict=True):
        seconds = median(times)
        floor = max(products / peak, size / bandwidth)
        rows.append(
            {"kernel": name, "seconds": seconds, "multiply_adds": float(products), "bytes": size, "floor": float(floor)}
        )
    rest = median(totals) - sum(row["seconds"] for row in rows)
    rows.append({"kernel": "the rest", "seconds": rest, "multiply_adds": 0, "bytes": 0, "floor": 0.0})
    rows.append({"kernel": "the step", "seconds": median(totals), "multiply_adds": 0, "bytes": 0,
                 "floor": sum(row["floor"] for row in rows)})  # fmt: skip
    return [{"threads": number_of_threads, "network": network, **row} for row in rows]


def show(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    step = rows[-1]["seconds"]
    return table(
        ("kernel", "ms", "of the step", "GFLOP/s", "floor ms", "floor / time"),
        [
            (
                row["kernel"],
                f"{row['seconds'] * 1e3:.3f}",
                f"{row['seconds'] / step:.1%}",
                f"{2 * row['multiply_adds'] / row['seconds'] / 1e9:.0f}" if row["multiply_adds"] else "-",
                f"{row['floor'] * 1e3:.3f}" if row["floor"] else "-",
                f"{row['floor'] / row['seconds']:.0%}" if row["floor"] else "-",
            )
            for row in rows
        ],
    )


def main() -> None:
    """Profile, print a table for each number of threads, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="fish")
    parser.add_argument("--threads", type=listed(int), default=[1, 2], metavar="N,N", help="default: 1,2")
    parser.add_argument("--steps", type=at_least(1), default=30, help="steps that are timed (default: 30)")
    parser.add_argument("--output", type=output_file, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    use_backend("numba")
    results = []
    for number in options.threads:
        say(f"profiling {options.network} on {number} thread(s) ...")
        rows = profile(options.network, number, options.steps)
        print(f"{options.network}, {number} thread(s)\n{show(rows)}\n")
        results += rows
    if options.output:
        settings = {"network": options.network, "steps": options.steps}
        write_results(Path(options.output), settings, results)


if __name__ == "__main__":
    main()
