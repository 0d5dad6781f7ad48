"""How does the cost of tinycnn grow with what it is given?

    python -m benchmarks.scaling                                     all tables: some minutes
    python -m benchmarks.scaling --only batch,filters --threads 1
    python -m benchmarks.scaling --output benchmarks/results/NAME.json

What it measures on the fish network (--only):
  batch      a training step with 8 to 512 images
  side       a training step with images of 32 to 256 pixels a side
  filters    a training step with 8 to 128 filters in each convolution
  threads    a training step on 1, 2, 4, ... threads, as many as there are cores
  images     an epoch of `fit` over 500 to 8000 images in memory

Each line gives the time for one image, its ratio to the line before, and its ratio to the line of half the value
(`to half`); behind each stands `work`, the same ratio of the products that the network has to compute. Where they are
equal, cost grows as it must. Steps take turns, round after round, and a ratio is the median of those of each round, so
that a machine that is slow for some seconds slows both: it need not be the quotient of the column before.
Losses are checked against the NumPy backend. It needs nothing but tinycnn; nothing else should run meanwhile.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

from . import networks, rounds
from .common import at_least, listed, output_file, say, table, usable_cores, write_results
from .results import US, Row, milliseconds
from .worker import PeerFailedError

SERIES: dict[str, tuple[int, ...]] = {
    "batch": (8, 16, 32, 64, 128, 256, 512),
    "side": (32, 48, 64, 96, 128, 192, 256),
    "filters": (8, 16, 32, 64, 128),
    "threads": tuple(2**i for i in range(10) if 2**i <= max(2, len(usable_cores()))),
    "images": (500, 1000, 2000, 4000, 8000),
}
EPOCHS = 4  # of `fit`; the first is not counted


def measure_steps(name: str, values: Sequence[int], threads: int, count: int) -> list[Row]:
    """A training step with one argument of the network, or the number of threads, set to each of the values."""
    arguments = [{"batch": 32} if name == "threads" else {"batch": 32, name: value} for value in values]
    settings = [
        rounds.Setting("step", {"name": "fish", **one}, value if name == "threads" else threads)
        for value, one in zip(values, arguments, strict=True)
    ]
    rows = [row for (row,) in rounds.measure_together(settings, [US], count)]
    for row, value, one in zip(rows, values, arguments, strict=True):
        work = 1 if name == "threads" else networks.fish(**one).multiply_adds()
        row.figures = {"value": value, "images": one["batch"], "work": work}
    return rows


def measure_fit(images: int, threads: int) -> Row:
    """An epoch of `fit` over so many images, in this process."""
    from tinycnn.callbacks import Callback
    from tinycnn.optimizers import Adam

    from .peer_tinycnn import TinyCNN, build
    from .pipelines import Recorder

    TinyCNN(threads)
    network = networks.fish()
    x, classes = networks.images(network, images)
    model = build(network, networks.weights(network))
    model.compile(Adam(network.learning_rate), "binary_crossentropy", ["accuracy"])
    recorder = type("FitRecorder", (Recorder, Callback), {})()
    model.fit(x, networks.labels(network, classes), epochs=EPOCHS, verbose=0, callbacks=[recorder])
    seconds = [epoch.seconds for epoch in recorder.epochs[1:]]
    return Row(US, seconds, figures={"value": images, "images": images, "work": 1})


def tell(name: str, rows: Sequence[Row]) -> str:
    """One series: what was given, milliseconds in all and for one image, and how cost grows beside work."""
    lines = []
    timed = {row.figures["value"]: row for row in rows if row.seconds is not None}
    before: Row | None = None
    for row in rows:
        value = row.figures["value"]
        if row.seconds is None:
            lines.append([f"{value:.0f}", row.problem or "-", *[""] * 5])
            continue
        each = f"{1e6 * row.seconds / row.figures['images']:.1f}"
        others = before, timed.get(value / 2)
        lines.append([f"{value:.0f}", milliseconds(row.seconds), each, *chain(*(growth(row, o, name) for o in others))])
        before = row
    return table([name, "ms", "us/image", "ratio", "work", "to half", "work"], lines)


def growth(row: Row, other: Row | None, name: str) -> list[str]:
    """How many times as much an image costs as in another row of the series, and how many times as much work it is."""
    if other is None or not (row.seconds and other.seconds):
        return ["-", "-"]
    in_turn = zip(row.rounds, other.rounds, strict=True)
    pairs = [(row.seconds, other.seconds)] if name == "images" else in_turn  # one `fit` is done when the next begins
    cost = statistics.median(mine / theirs for mine, theirs in pairs) / (
        row.figures["images"] / other.figures["images"]
    )
    return [f"{cost:.2f}", f"{row.figures['work'] / other.figures['work']:.2f}"]


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", type=listed(str, [*SERIES]), default=[*SERIES], metavar="SERIES,...",
                   help=", ".join(SERIES))  # fmt: skip
    p.add_argument("--threads", type=at_least(1), default=len(usable_cores()), metavar="N",
                   help="for all but `threads` (default: every core)")  # fmt: skip
    p.add_argument("--rounds", type=at_least(1), default=3, metavar="N", help="of each measurement (default: 3)")
    p.add_argument("--limit", type=at_least(1), metavar="N", help="leave out what is larger than N in each series")
    p.add_argument("--output", type=output_file, metavar="FILE.json", help="keep everything measured, round by round")
    return p


def main() -> int:
    """Measure and print series by series; returns the exit code."""
    options = parser().parse_args()
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    results: list[dict[str, Any]] = []
    try:
        for name in options.only:
            values = [value for value in SERIES[name] if value <= (options.limit or value)]
            say(f"{name} {', '.join(map(str, values))}")
            if name == "images":
                rows = [measure_fit(value, options.threads) for value in values]
            else:
                rows = measure_steps(name, values, options.threads, options.rounds)
            print(tell(name, rows), end="\n\n", flush=True)
            results.append({"part": name, "rows": [row.to_json() for row in rows]})
            if options.output:
                write_results(options.output, settings, results)
    except PeerFailedError as error:
        say(f"the NumPy backend failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
