"""Times the same work in several libraries: first whether they agree, then block after block in turn, then again."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import networks
from .common import say
from .peers import REFERENCE, peer_class
from .results import Cell, Row, milliseconds, report
from .worker import PeerFailedError, Worker

BLOCK_SECONDS = 0.5
LEAST_STEPS = 5  # of training in a block
PAUSE_SECONDS = 0.3  # idle threads of OpenMP libraries spin for 0.2 s after their work
SINGLE_CALLS = 200  # in each round, where every call is timed by itself


@dataclass(frozen=True)
class Setting:
    """One thing to measure: a network (a maker in networks.py with its arguments), trained or asked."""

    part: str  # "step" or "inference"
    network: dict[str, Any]
    threads: int

    @property
    def title(self) -> str:
        """For people."""
        what = {"step": "training step", "inference": "inference"}[self.part]
        return f"{what}: {self.network['name']}, batch {self.network['batch']}, threads {self.threads}"

    @property
    def kind(self) -> str:
        """As the worker calls it."""
        return {"step": "training", "inference": "inference"}[self.part]

    @property
    def times_single_calls(self) -> bool:
        """Whether somebody waits for each call: one image at a time."""
        return self.part == "inference" and self.network["batch"] == 1


def measure(setting: Setting, peers: Sequence[str], rounds: int) -> list[Row]:
    """One row for each peer that can do this at all; those that fail or are wrong say so in `problem`."""
    return measure_together([setting], peers, rounds)[0]


def measure_together(settings: Sequence[Setting], peers: Sequence[str], rounds: int) -> list[list[Row]]:
    """`measure` for several settings, whose blocks take turns too: what slows the machine for a while slows all."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        groups = []
        for i, setting in enumerate(settings):
            able = [name for name in peers if setting.part == "inference" or peer_class(name).trains]
            data = _write_data(setting, Path(folder) / f"{i}.npz")
            with Worker(REFERENCE, setting.threads) as reference:
                wanted = _prepare_and_check(reference, setting, data)
            groups.append([Contender(name, setting, wanted) for name in able])
            for contender in groups[-1]:
                contender.attempt(partial(Contender.start, stack=stack, data=data))
        everyone = [contender for group in groups for contender in group]
        for contender in everyone:
            contender.attempt(Contender.find_block_size)
        for number in range(rounds):
            say(f"  round {number + 1} of {rounds}")
            for contender in everyone:
                contender.attempt(Contender.time_block)
        for contender in everyone:  # what was timed must still be right
            contender.attempt(Contender.check)
        return [[contender.row for contender in group] for group in groups]


class Contender:
    """A peer while it is measured; once its row has a problem, it is out."""

    worker: Worker
    calls: int  # in a block

    def __init__(self, name: str, setting: Setting, wanted: dict[str, Any]) -> None:
        self.row, self.setting, self.wanted = Row(name, problem=absence(name)), setting, wanted

    def attempt(self, action: Callable[["Contender"], None]) -> None:
        """Do something with this peer unless it is out; if it fails, keep the reason."""
        if not self.row.problem:
            try:
                action(self)
            except PeerFailedError as error:
                self.row.problem = str(error)
            if self.row.problem:
                say(f"  {self.row.peer}: {self.row.problem}")

    def start(self, stack: contextlib.ExitStack, data: Path) -> None:
        """Start its process, which the stack will end, and see whether it gets the numbers right."""
        say(f"  {self.row.peer}: starting")
        self.worker = stack.enter_context(Worker(self.row.peer, self.setting.threads))
        self._compare(_prepare_and_check(self.worker, self.setting, data))

    def check(self) -> None:
        """See whether it still gets the numbers right."""
        self._compare(self.worker.ask("check"))

    def _compare(self, found: dict[str, Any]) -> None:
        self.row.problem = disagreement(self.wanted, found, peer_class(self.row.peer).allowed)

    def find_block_size(self) -> None:
        """How many calls take about BLOCK_SECONDS."""
        least = LEAST_STEPS if self.setting.part == "step" else 1
        self.worker.ask("time", calls=least)  # the first calls may still compile
        (seconds,) = self.worker.ask("time", calls=least)["seconds"]
        self.calls = max(least, round(BLOCK_SECONDS / (seconds / least)))

    def time_block(self) -> None:
        """One more round."""
        time.sleep(PAUSE_SECONDS)
        (seconds,) = self.worker.ask("time", calls=self.calls)["seconds"]
        self.row.rounds.append(seconds / self.calls)
        if self.setting.times_single_calls:
            self.row.singles += self.worker.ask("time", calls=SINGLE_CALLS, each=True)["seconds"]


def _write_data(setting: Setting, file: Path) -> Path:
    network = networks.make(**setting.network)
    networks.write(file, networks.weights(network), *networks.batches(network))
    return file


def _prepare_and_check(worker: Worker, setting: Setting, data: Path) -> dict[str, Any]:
    worker.ask("prepare", kind=setting.kind, network=setting.network, data=str(data))
    return worker.ask("check")


def absence(name: str) -> str | None:
    """That a module which a peer needs is not installed; None if all are."""
    missing = peer_class(name).missing()
    return f"{', '.join(missing)} not installed" if missing else None


def disagreement(wanted: dict[str, Any], found: dict[str, Any], allowed: dict[str, float]) -> str | None:
    """What is wrong with answers to `check` that should be as the wanted ones; None if nothing is."""
    for kind, values in wanted.items():
        right, got = np.asarray(values, np.float64), np.asarray(found[kind], np.float64)
        if got.shape != right.shape:
            return f"wrong: {kind} of shape {got.shape}, not {right.shape}"
        off = np.abs(got - right) / (1 if kind == "predictions" else np.abs(right))
        if not (off <= allowed[kind]).all():
            return f"wrong: {kind} off by {off.max():.1e}, allowed {allowed[kind]:.0e}"
    return None


def tell(setting: Setting, rows: Sequence[Row]) -> str:
    """The table of a setting in milliseconds."""
    columns: dict[str, Cell] = {
        "ms": lambda row: milliseconds(row.seconds),
        "lowest": lambda row: milliseconds(min(row.rounds)),
        "highest": lambda row: milliseconds(max(row.rounds)),
    }
    if setting.times_single_calls:
        columns["p99"] = lambda row: milliseconds(row.p99)
    return report(setting.title, rows, columns)
