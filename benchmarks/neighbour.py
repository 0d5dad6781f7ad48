"""How much of its speed does training keep while another program takes a core?

    python -m benchmarks.neighbour                                   a minute
    python -m benchmarks.neighbour --output benchmarks/results/NAME.json

Steps of the fish network, batch 32, on every core, for blocks of --seconds in turn: alone, beside a program that does
nothing but count and is tied to one core, and beside one that the system may move. A fair share is all cores but half
of one, which both would use. Medians of the rounds. It needs Linux, and two cores at least.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter, sleep
from typing import Any

from . import networks
from .common import at_least, kill_group, output_file, say, table, usable_cores, write_results

NEIGHBOURS = {"nothing": "", "a program tied to a core": "tied", "a program that may move": "free"}
COUNT = "while True: pass"
SETTLED = 0.3  # seconds until the system has found the program its core


@contextlib.contextmanager
def beside(kind: str) -> Iterator[None]:
    """A block beside a busy program of this kind, of NEIGHBOURS."""
    if not kind:
        yield
        return
    process = subprocess.Popen([sys.executable, "-S", "-c", COUNT], start_new_session=True)
    try:
        if kind == "tied":
            os.sched_setaffinity(process.pid, usable_cores()[-1:])
        sleep(SETTLED)
        yield
    finally:
        kill_group(process)


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """For each neighbour the steps per second of each round."""
    from .peer_tinycnn import TinyCNN

    network = networks.fish()
    peer = TinyCNN(len(usable_cores()))
    training = peer.prepare_training(network, networks.weights(network), *networks.batches(network))
    found: dict[str, list[float]] = {name: [] for name in NEIGHBOURS}
    for number in range(rounds + 1):
        say(f"  round {number} of {rounds}" if number else "  warming up")
        for name, kind in NEIGHBOURS.items():
            with beside(kind):
                steps, began = 0, perf_counter()
                while (passed := perf_counter() - began) < seconds:
                    training.step()
                    steps += 1
            if number:
                found[name].append(steps / passed)
    return found


def tell(found: dict[str, list[float]], cores: int) -> str:
    """The table: speed, and what share of the speed alone and of a fair share of it remained."""
    alone, fair = median(found["nothing"]), (cores - 0.5) / cores
    lines = []
    for name, speeds in found.items():
        kept = median(speeds) / alone
        shares = [f"{kept:.2f}", f"{kept / fair:.2f}"] if NEIGHBOURS[name] else ["", ""]
        lines.append([name, f"{median(speeds):.1f}", *shares])
    return table(["beside", "steps/s", "of alone", "of a fair share"], lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbour", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rounds", type=at_least(1), default=5, metavar="N", help="of each measurement (default: 5)")
    p.add_argument("--seconds", type=at_least(1), default=3, metavar="N", help="of a block of steps (default: 3)")
    p.add_argument("--output", type=output_file, metavar="FILE.json", help="keep everything measured, round by round")
    return p


def main() -> int:
    """Measure and print; returns the exit code."""
    options = parser().parse_args()
    cores = len(usable_cores())
    if not hasattr(os, "sched_setaffinity") or cores < 2:
        say("benchmarks.neighbour: needs Linux and two cores at least: one for the other program")
        return 2
    say(f"training beside another program, {cores} threads")
    try:
        found = measure(options.rounds, options.seconds)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    print(tell(found, cores))
    if options.output:
        settings: dict[str, Any] = {"rounds": options.rounds, "seconds": options.seconds, "threads": cores}
        write_results(options.output, settings, [{"beside": name, "steps_per_second": s} for name, s in found.items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
