"""A process that serves one library, so that no two libraries share memory or threads, and how to talk to it.

    python -m benchmarks.worker PEER THREADS

It reads one JSON object per line on standard input and answers each with one on standard output; what libraries print
goes to standard error. First it says {"ready": PEER}. Then it takes, by the name in "do":
    prepare   kind ("training" or "inference"), network {"name", "side", "filters", "batch"}, data (an .npz file)
    check     the losses of `steps` steps from the first weights on, and how far each array of weights then moved
              (root of the mean square); or the predictions
    time      the seconds that `calls` calls took together, or with "each" every one's
    epochs    pipeline, folder, epochs, batch: times of a whole training from image files (see epochs.py)
    memory    the most memory held so far, in bytes
An answer {"error": REASON} says that a command failed; the process ends at the end of its input.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import networks
from .common import ROOT, cores_for, kill_group, one_line, peak_memory, thread_environment
from .peers import PEERS, Peer, Predict, Training, peer_class

ANSWER_SECONDS = 900  # a worker that takes longer for one answer is given up


class PeerFailedError(Exception):
    """A worker could not do what it was asked; the message is its reason in one line."""


WARM_UP = 5  # calls in front of a block: caches and threads are cold, and what replays a step must record it first


class Service:
    """What the process does with each command."""

    def __init__(self, peer: Peer, threads: int) -> None:
        self.peer, self.threads = peer, threads
        self.training: Training | None = None
        self.predict: Predict | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one command; errors become answers too."""
        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "prepare": self.prepare, "check": self.check, "time": self.time, "epochs": self.epochs,
            "memory": self.memory,
        }  # fmt: skip
        try:
            arguments = {name: value for name, value in request.items() if name != "do"}
            return commands[request["do"]](**arguments)
        except Exception as error:  # whatever a library throws is for the parent to report
            return {"error": one_line(error)}

    def prepare(self, kind: str, data: str, network: dict[str, Any]) -> dict[str, Any]:
        weights, x, y = networks.read(Path(data))
        made = networks.make(**network)
        if kind == "training":
            self.training, self.predict = self.peer.prepare_training(made, weights, x, y), None
        else:
            self.training, self.predict = None, self.peer.prepare_inference(made, weights, x[0])
        return {"prepared": kind}

    def check(self, steps: int = 5) -> dict[str, Any]:
        if self.training:
            self.training.restart()
            first = self.training.weights()
            losses = [self.training.step(ask=True) for _ in range(steps)]
            pairs = zip(first, self.training.weights(), strict=True)
            return {"losses": losses, "moved": [float(np.sqrt(np.square(b - a).mean())) for a, b in pairs]}
        assert self.predict, "check comes after prepare"
        return {"predictions": self.predict().tolist()}

    def time(self, calls: int, each: bool = False) -> dict[str, Any]:
        if self.training:
            self.training.restart()
        call, last = self._calls()
        for _ in range(WARM_UP):
            last()
        if each:
            return {"seconds": [_seconds(last) for _ in range(calls)]}

        def block() -> None:
            for _ in range(calls - 1):
                call()
            last()

        return {"seconds": [_seconds(block)]}

    def _calls(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """A call as it comes in the middle of a block, and one that also waits until all is done."""
        if training := self.training:
            return training.step, lambda: training.step(ask=True)
        assert self.predict, "time comes after prepare"
        return self.predict, self.predict

    def epochs(self, **arguments: Any) -> dict[str, Any]:
        from . import epochs

        return epochs.run(threads=self.threads, **arguments)

    def memory(self) -> dict[str, Any]:
        return {"bytes": peak_memory()}


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def serve(name: str, threads: int, requests: TextIO, answers: TextIO) -> None:
    """Load the peer, then answer every line of `requests`."""

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        service = Service(peer_class(name)(threads), threads)
    except Exception as error:  # whatever a library throws while it loads
        return send({"error": one_line(error)})
    send({"ready": name})
    for line in requests:
        send(service.answer(json.loads(line)))


def main() -> None:
    """Serve until the parent closes the pipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores_for(options.threads))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints, in Python or not, must not get between the answers
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(options.peer, options.threads, sys.stdin, answers)


class Worker:
    """The parent's end of such a process. Leaving its `with` block ends it and all that it started.

    Raises PeerFailedError where the peer cannot start or cannot do what it is asked.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - end() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8",
            cwd=ROOT, env=thread_environment(threads), start_new_session=True,
        )  # fmt: skip
        try:
            self._receive()
        except BaseException:
            self.end(patience=0.0)
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # the answer will say why
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        watchdog = threading.Timer(ANSWER_SECONDS, kill_group, [self._process])
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise PeerFailedError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailedError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return one_line(f"the process ended with code {code}" + (f": {lines[-1]}" if lines else ""))

    def end(self, patience: float = 5.0) -> None:
        """End the process and all that it started: after `patience` seconds by force."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=patience)
        finally:
            kill_group(self._process)
            self._process.stdout.close()
            self._log.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(patience=0.0 if kind else 5.0)


if __name__ == "__main__":
    main()
