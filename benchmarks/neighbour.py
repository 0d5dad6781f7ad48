"""How much of its speed does training keep while another program takes a core?

    python -m benchmarks.neighbour                                   two minutes
    python -m benchmarks.neighbour --output benchmarks/results/NAME.json

Steps of the fish network, batch 32, on every core, for blocks of --seconds in turn: alone, beside a program that does
nothing but count and is tied to one core, beside one that the system may move, and beside one that was started in a
session of its own, as from another terminal: Linux may share cores between sessions first. The fair share is measured
beside each of them, too: what the system gives to as many programs as there are cores, which only count and never wait
for each other. Medians of the rounds. It needs Linux, and two cores at least.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple

from . import networks
from .common import at_least, kill_group, output_file, say, table, usable_cores, write_results


class Neighbour(NamedTuple):
    """A busy program: whether it is tied to a core, and whether it has a session of its own."""

    tied: bool
    apart: bool


NEIGHBOURS = {
    "nothing": None,
    "a program tied to a core": Neighbour(tied=True, apart=False),
    "a program that may move": Neighbour(tied=False, apart=False),
    "a program of another session": Neighbour(tied=False, apart=True),
}
COUNT = "while True: pass"
COUNT_AND_TELL = """
from time import perf_counter, process_time
used, end = process_time(), perf_counter() + {seconds}
while perf_counter() < end:
    pass
print(process_time() - used)
"""
SETTLED = 0.3  # seconds until the system has found the program its core


@contextlib.contextmanager
def beside(neighbour: Neighbour | None) -> Iterator[None]:
    """A block beside a busy program."""
    if neighbour is None:
        yield
        return
    own: dict[str, Any] = {"start_new_session": True} if neighbour.apart else {"process_group": 0}
    process = subprocess.Popen([sys.executable, "-S", "-c", COUNT], **own)
    try:
        if neighbour.tied:
            os.sched_setaffinity(process.pid, usable_cores()[-1:])
        sleep(SETTLED)
        yield
    finally:
        kill_group(process)


def share(seconds: float) -> float:
    """The part of all cores that programs get which only count, one for each core."""
    command = [sys.executable, "-S", "-c", COUNT_AND_TELL.format(seconds=seconds)]
    with contextlib.ExitStack() as stack:
        counting = []
        for _ in usable_cores():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
            stack.callback(kill_group, process)
            counting.append(process)
        return sum(float(process.communicate()[0]) for process in counting) / (seconds * len(counting))


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """For each neighbour the steps per second and the part of all cores to be had, of each round."""
    from .peer_tinycnn import TinyCNN

    network = networks.fish()
    peer = TinyCNN(len(usable_cores()))
    training = peer.prepare_training(network, networks.weights(network), *networks.batches(network))
    found: dict[str, dict[str, list[float]]] = {name: {"steps": [], "share": []} for name in NEIGHBOURS}
    for number in range(rounds + 1):
        say(f"  round {number} of {rounds}" if number else "  warming up")
        for name, neighbour in NEIGHBOURS.items():
            with beside(neighbour):
                steps, began = 0, perf_counter()
                while (passed := perf_counter() - began) < seconds:
                    training.step()
                    steps += 1
                fair = share(seconds)
            if number:
                found[name]["steps"].append(steps / passed)
                found[name]["share"].append(fair)
    return found


def tell(found: dict[str, dict[str, list[float]]]) -> str:
    """The table: speed, what remained of the speed alone, the fair share of it, and what remained of that."""
    alone, whole = (median(found["nothing"][kind]) for kind in ("steps", "share"))
    lines = []
    for name, blocks in found.items():
        speed = median(blocks["steps"])
        kept, fair = speed / alone, median(blocks["share"]) / whole
        shares = [f"{kept:.2f}", f"{fair:.2f}", f"{kept / fair:.2f}"] if NEIGHBOURS[name] else ["", "", ""]
        lines.append([name, f"{speed:.1f}", *shares])
    return table(["beside", "steps/s", "of alone", "fair", "of that"], lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbour", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rounds", type=at_least(1), default=5, metavar="N", help="of each measurement (default: 5)")
    p.add_argument("--seconds", type=at_least(1), default=2, metavar="N", help="of a block (default: 2)")
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
    print(tell(found))
    if options.output:
        settings: dict[str, Any] = {"rounds": options.rounds, "seconds": options.seconds, "threads": cores}
        write_results(options.output, settings, [{"beside": name, **blocks} for name, blocks in found.items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
