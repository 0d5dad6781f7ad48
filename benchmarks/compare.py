"""How fast, small and ready is tinycnn beside other libraries, on this machine?

    python -m benchmarks.compare                                     everything: about an hour
    python -m benchmarks.compare --only step --networks fish         one table for each number of threads: minutes
    python -m benchmarks.compare --output benchmarks/results/NAME.json

What it measures (--only):
  step       milliseconds of a training step: fish network batch 32, vgg batch 16, lenet batch 32
  inference  milliseconds to predict with the fish network: 1, 32 and 256 images at a time
  epochs     seconds of an epoch from JPEG files, decoding and augmenting included, and the share spent waiting
  cold       seconds of a whole process: to the first training step; to what one photo shows
  memory     the most memory held in `epochs`, and by the process that is asked about one photo
  size       megabytes on disk with all dependencies

Each library has processes of its own, bound to as many cores as it may use threads. Before anything is timed its
losses or predictions must agree with those of tinycnn's NumPy backend; one that disagrees is shown as wrong. Blocks
of calls are then timed in turn, round after round, and the median of the rounds counts. A ratio is the peer's figure
over tinycnn's: above 1, tinycnn is the faster or smaller one. Nothing else should run meanwhile.

It needs `pip install -e ".[bench]"` (PyTorch, ONNX, ONNX Runtime); TensorFlow, Keras (with SciPy), OpenVINO, JAX
and tinygrad join in where they are installed. Tables go to standard output, progress to standard error.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cold, epochs, networks, rounds, size
from .common import at_least, listed, output_file, say, usable_cores, write_results
from .peers import PEERS, REFERENCE
from .results import Row, report_bytes
from .worker import PeerFailedError

PARTS = ("step", "inference", "epochs", "cold", "memory", "size")
INFERENCE_BATCHES = (1, 32, 256)


@dataclass
class Job:
    """One table: what it is about, how its rows are measured, and how they are told."""

    title: str
    settings: dict[str, Any]
    measure: Callable[[], list[Row]]
    tell: Callable[[list[Row]], str]


class Comparison:
    """The tables that the options ask for; `folder` is for files that they need meanwhile."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.peers, self.folder = options, options.peers, folder
        self._measured: dict[tuple[str, int], list[Row]] = {}  # what two tables tell of

    def jobs(self) -> Iterator[Job]:
        """One after the other, those of one number of threads together."""
        chosen = self.options.only
        for threads in self.options.threads:
            if "step" in chosen:
                for name in self.options.networks:
                    yield self._timed(
                        rounds.Setting("step", {"name": name, "batch": networks.make(name).batch}, threads)
                    )
            if "inference" in chosen:
                for batch in INFERENCE_BATCHES:
                    yield self._timed(rounds.Setting("inference", {"name": "fish", "batch": batch}, threads))
            if "epochs" in chosen:
                yield self._shared("epochs", "epochs from files", threads, self._epochs, epochs.tell)
            if "cold" in chosen:
                yield self._shared("first step", "process to the first step", threads, self._first_step, cold.tell)
                yield self._shared(
                    "one photo", "process that asks about one photo", threads, self._one_photo, cold.tell
                )
            if "memory" in chosen:
                yield self._shared("epochs", "memory of epochs from files", threads, self._epochs, report_bytes)
                yield self._shared("one photo", "memory to ask about one photo", threads, self._one_photo, report_bytes)
        if "size" in chosen:
            title = "installed size with dependencies"
            yield Job(title, {"part": "size"}, lambda: size.measure(self.peers), lambda rows: report_bytes(title, rows))

    def _timed(self, setting: rounds.Setting) -> Job:
        return Job(
            setting.title,
            {"part": setting.part, "network": setting.network, "threads": setting.threads},
            lambda: rounds.measure(setting, self.peers, self.options.rounds),
            lambda rows: rounds.tell(setting, rows),
        )

    def _shared(
        self, key: str, part: str, threads: int, measure: Callable[[int], list[Row]], tell: Callable[..., str]
    ) -> Job:
        """A table whose rows another may use too."""
        title = f"{part}, threads {threads}"

        def once() -> list[Row]:
            if (key, threads) not in self._measured:
                self._measured[key, threads] = measure(threads)
            return self._measured[key, threads]

        return Job(title, {"part": part, "threads": threads}, once, lambda rows: tell(title, rows))

    def _epochs(self, threads: int) -> list[Row]:
        pictures = self.folder / "pictures"
        if not pictures.exists():
            say(f"  drawing {self.options.images} pictures")
            epochs.draw_pictures(pictures, self.options.images)
        return epochs.measure(pictures, self.peers, threads, self.options.epochs)

    def _first_step(self, threads: int) -> list[Row]:
        return cold.measure_first_step(self.peers, threads, self.options.rounds)

    def _one_photo(self, threads: int) -> list[Row]:
        return cold.measure_one_photo(self.peers, threads, self.options.rounds)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = sorted({1, len(usable_cores())})
    rivals = [name for name in PEERS if name != REFERENCE]
    p.add_argument("--threads", type=listed(at_least(1)), default=every, metavar="N,...",
                   help=f"how many threads, one after the other (default: {','.join(map(str, every))})")  # fmt: skip
    p.add_argument("--only", type=listed(str, PARTS), default=PARTS, metavar="PART,...", help=", ".join(PARTS))
    p.add_argument("--networks", type=listed(str, [*networks.NETWORKS]), default=[*networks.NETWORKS],
                   metavar="NAME,...", help=f"for `step`: {', '.join(networks.NETWORKS)}")  # fmt: skip
    p.add_argument("--peers", type=listed(str, [*PEERS]), default=rivals, metavar="NAME,...",
                   help=f"{', '.join(PEERS)} (default: all but {REFERENCE})")  # fmt: skip
    p.add_argument("--rounds", type=at_least(1), default=5, metavar="N", help="of each measurement (default: 5)")
    p.add_argument("--images", type=at_least(64), default=2000, metavar="N", help="for `epochs` (default: 2000)")
    p.add_argument("--epochs", type=at_least(2), default=4, metavar="N", help="for `epochs` (default: 4)")
    p.add_argument("--output", type=output_file, metavar="FILE.json", help="keep everything measured, round by round")
    return p


def main() -> int:
    """Measure and print table by table; returns the exit code."""
    options = parser().parse_args()
    if max(options.threads) > len(usable_cores()):
        say(f"note: {max(options.threads)} threads share {len(usable_cores())} core(s)")
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    results: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for job in Comparison(options, Path(folder)).jobs():
                say(job.title)
                try:
                    rows = job.measure()
                except PeerFailedError as error:  # the reference itself
                    print(f"not measured: {error}\n", flush=True)
                    continue
                print(job.tell(rows), end="\n\n", flush=True)
                results.append({**job.settings, "rows": [row.to_json() for row in rows]})
                if options.output:
                    write_results(options.output, settings, results)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
