"""What a campaign of faults found: what must never happen, how often it could have, and every time that it did."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .common import ROOT, kill_group, table, thread_environment

SHOWN = 5  # cases in which a promise broke, below a table


class SkippedError(Exception):
    """A campaign cannot run on this machine; says why."""


@dataclass(frozen=True)
class Part:
    """Which of its numbered cases a campaign tries: `count` from `skip` on; None stands for all that it has."""

    skip: int = 0
    count: int | None = None

    def of(self, every: int) -> range:
        """The numbers of the cases to try where there are `every`, or where as many are usual."""
        return range(self.skip, self.skip + self.count if self.count is not None else max(every, self.skip))

    def sample(self, every: int) -> list[int]:
        """The same where there are no more than `every`: `count` of them, evenly spread over those after `skip`."""
        rest = range(self.skip, every)
        count = len(rest) if self.count is None else min(self.count, len(rest))
        return [rest[i * len(rest) // count] for i in range(count)]


@dataclass
class Finding:
    """One promise, put to the test `count` times; `broken` names the cases in which it did not hold."""

    campaign: str
    never: str
    count: int
    broken: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tell(findings: Sequence[Finding]) -> str:
    """The table, and below it what broke and what was measured."""
    rows = [[f.campaign, f.never, str(f.count), str(len(f.broken))] for f in findings]
    lines = [table(["campaign", "must never happen", "cases", "happened"], rows)]
    for finding in findings:
        if finding.figures:
            lines.append(f"{finding.campaign}: " + ", ".join(f"{k} {v}" for k, v in finding.figures.items()))
    for finding in findings:
        lines += [f"BROKEN {finding.campaign}: {case}" for case in finding.broken[:SHOWN]]
    return "\n".join(lines)


def in_process_of_its_own(module: str, *arguments: str, seconds: float = 600) -> Any:
    """What `python -m module arguments` prints as its last line, as JSON. Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", module, *arguments]
    environment = thread_environment(1) | {"TINYCNN_BACKEND": "numpy", "PYTHONWARNINGS": "default"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        finally:
            kill_group(process)
    if process.returncode or not output:
        raise RuntimeError(f"{module} ended with {process.returncode}: {errors.decode(errors='replace')[-2000:]}")
    return json.loads(output.splitlines()[-1])


def status_bytes(name: str) -> int:
    """VmHWM, VmSize, ...: what Linux says of this process's memory."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def needs_linux() -> None:
    """Raises SkippedError where memory cannot be limited and read as the campaigns do."""
    if not os.path.exists("/proc/self/status"):
        raise SkippedError("needs Linux: limits of memory, /proc")
