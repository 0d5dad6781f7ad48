"""Times whole processes: from nothing to the first training step, and from nothing to what one photo shows.

    python -m benchmarks.cold PEER THREADS DATA

is a process of the first kind, which `python -m benchmarks.compare --only cold` starts and times: it loads the
library, builds the fish network, trains on one batch of DATA (an .npz file), and prints the loss.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import networks
from .common import ROOT, cores_for, kill_group, one_line, say, thread_environment
from .epochs import draw_pictures
from .one_photo import CLASS_NAMES, LIBRARIES
from .peers import PEERS, REFERENCE, SAME_ADAM, Allowed, peer_class
from .results import US, Row, megabytes, report
from .rounds import absence, disagreement
from .worker import PeerFailedError

LIMIT_SECONDS = 600
CACHES = (  # where compiled code is kept
    "HOME", "XDG_CACHE_HOME", "TINYCNN_CACHE", "TINYCNN_CACHE_DIR", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
FIRST_RUN = ", first run"


@dataclass
class Process:
    """A row of a table and the process that fills it, which ends by printing one number."""

    row: Row
    arguments: list[str]
    threads: int
    read: Callable[[str], float] = lambda output: float((output.split() or ["nan"])[-1])
    allowed: Allowed = field(default_factory=lambda: SAME_ADAM)
    before: list[str] | None = None  # the arguments of a process that has to run once before

    def prepare(self) -> None:
        """Run what has to run before."""
        if self.before and not self.row.problem:
            try:
                Process(self.row, self.before, self.threads).run()
            except PeerFailedError as error:
                self._give_up(error)

    def run(self, variables: dict[str, str] | None = None) -> dict[str, Any]:
        """Run it once: its "seconds", "bytes" and the "number" that it printed. Raises PeerFailedError."""
        launcher = [sys.executable, "-S", str(ROOT / "benchmarks" / "launch.py"), str(LIMIT_SECONDS)]
        cores = ",".join(map(str, cores_for(self.threads)))
        environment = thread_environment(self.threads) | (variables or {})
        command = [*launcher, cores, sys.executable, *self.arguments]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, start_new_session=True)
        with started:
            try:
                answer = json.loads(started.communicate()[0])
            finally:
                kill_group(started)
        if answer["code"]:
            last = [line for line in answer["errors"].splitlines() if line.strip()][-1:]
            raise PeerFailedError(one_line(f"exit code {answer['code']}: {''.join(last)}"))
        return {**answer, "number": self.read(answer["output"])}

    def time(self, wanted: dict[str, float], variables: dict[str, str] | None = None) -> None:
        """Run it once and note what it took, or what is wrong with it; after that it is left alone."""
        if self.row.problem:
            return
        say(f"  {self.row.peer}")
        try:
            answer = self.run(variables)
        except PeerFailedError as error:
            return self._give_up(error)
        (kind,) = wanted
        self.row.problem = disagreement(wanted, {kind: answer["number"]}, self.allowed)
        self.row.rounds.append(answer["seconds"])
        self.row.figures["bytes"] = max(answer["bytes"], self.row.figures.get("bytes", 0))

    def _give_up(self, error: PeerFailedError) -> None:
        self.row.problem = str(error)
        say(f"  {self.row.peer}: {error}")


def measure_first_step(peers: Sequence[str], threads: int, rounds: int) -> list[Row]:
    """Import, build and one training step; where compiled code is kept on disk, also the first run of all."""
    with tempfile.TemporaryDirectory() as folder:
        data, network = Path(folder) / "data.npz", networks.fish()
        networks.write(data, networks.weights(network), *networks.batches(network))

        def process(name: str, title: str) -> Process:
            arguments = ["-m", "benchmarks.cold", name, str(threads), str(data)]
            return Process(Row(title, problem=absence(name)), arguments, threads, allowed=peer_class(name).allowed)

        reference = process(REFERENCE, REFERENCE)
        wanted = {"losses": reference.run()["number"]}
        trainers = [name for name in peers if peer_class(name).trains]
        keepers = [name for name in trainers if peer_class(name).caches_code]
        warm = [process(name, name) for name in trainers]
        return _measure(warm, [process(name, name + FIRST_RUN) for name in keepers], wanted, rounds)


def measure_one_photo(peers: Sequence[str], threads: int, rounds: int) -> list[Row]:
    """What one photo shows, asked of a model file; for tinycnn also the first run of all."""
    with tempfile.TemporaryDirectory() as folder:
        weights, network = Path(folder) / "weights.npz", networks.fish()
        networks.write(weights, networks.weights(network), *networks.batches(network))
        draw_pictures(Path(folder) / "pictures", 1)
        (photo,) = map(str, (Path(folder) / "pictures").rglob("*.jpg"))

        def process(library: str, title: str) -> Process:
            model = str(Path(folder) / f"model{LIBRARIES[library]}")
            before = ["-m", "benchmarks.one_photo", "save", library, model, str(weights)]
            if library == US:
                command = ["-m", "tinycnn.predict", model, photo, "--format", "json"]
                return Process(Row(title), command, threads, _second_class, before=before)
            return Process(
                Row(title), ["-m", "benchmarks.one_photo", "ask", library, model, photo], threads, before=before
            )

        reference = process(US, REFERENCE)
        reference.prepare()
        wanted = {"predictions": reference.run({"TINYCNN_BACKEND": "numpy"})["number"]}
        chosen = [name for name in LIBRARIES if any(peer.split("-")[0] == name for peer in peers)]
        first = [process(US, US + FIRST_RUN)] if US in chosen else []
        return _measure([process(name, name) for name in chosen], first, wanted, rounds)


def _second_class(output: str) -> float:
    """The probability of the second class in what `tinycnn.predict --format json` printed."""
    (photo,) = json.loads(output)
    return photo["probability"] if photo["class"] == CLASS_NAMES[1] else 1 - photo["probability"]


def _measure(warm: list[Process], first: list[Process], wanted: dict[str, float], rounds: int) -> list[Row]:
    """Time first runs once, each with empty caches, and the others in turn after a run that nobody times."""
    for process in first:
        process.prepare()
        with tempfile.TemporaryDirectory() as empty:
            process.time(wanted, dict.fromkeys(CACHES, empty))
    for process in warm:  # the first time fills the caches of the disk and of compiled code
        process.prepare()
        process.time(wanted)
        process.row.rounds.clear()
    for number in range(rounds):
        say(f"  round {number + 1} of {rounds}")
        for process in warm:
            process.time(wanted)
    return [process.row for process in (*warm, *first)]


def tell(title: str, rows: Sequence[Row]) -> str:
    """The table in seconds."""
    return report(
        title, rows, {"seconds": lambda row: f"{row.seconds:.2f}", "MB": lambda row: megabytes(row.figures["bytes"])}
    )


def main() -> None:
    """Be the process that trains one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("threads", metavar="THREADS", type=int)
    parser.add_argument("data", metavar="DATA", type=Path)
    options = parser.parse_args()
    peer = peer_class(options.peer)(options.threads)
    print(peer.prepare_training(networks.fish(), *networks.read(options.data)).step(ask=True))


if __name__ == "__main__":
    main()
