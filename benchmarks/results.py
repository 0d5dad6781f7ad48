"""What one peer did in one table, and the words and numbers in which all tables tell it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .common import table

US = "tinycnn"  # by whose figure all others are divided
MEGABYTE = 1e6


@dataclass
class Row:
    """The mean seconds of a call in each round; or the problem that kept a peer from being timed."""

    peer: str
    rounds: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)  # of every single call, where that matters
    figures: dict[str, float] = field(default_factory=dict)  # what else was measured, by name
    problem: str | None = None

    @property
    def seconds(self) -> float | None:
        """The median over the rounds."""
        return statistics.median(self.rounds) if self.rounds and not self.problem else None

    @property
    def p99(self) -> float | None:
        """Seconds within which 99 of 100 single calls are done."""
        return float(np.quantile(self.singles, 0.99)) if self.singles and not self.problem else None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it, single calls as their 99th percentile."""
        from tinycnn.cli import finite_or_none

        figures = {name: finite_or_none(value) for name, value in self.figures.items()}
        return {
            "peer": self.peer, "seconds": self.seconds, "rounds": self.rounds, "p99": self.p99, "figures": figures,
            "problem": self.problem,
        }  # fmt: skip


Cell = Callable[[Row], str]


def report(title: str, rows: Sequence[Row], columns: dict[str, Cell]) -> str:
    """A table of the rows that were timed, fastest first: the peer, `columns` with the ratio second, and below it
    the problems of the others and the fastest peer beside tinycnn."""
    seconds = {row.peer: row.seconds for row in rows}
    timed = sorted((row for row in rows if row.seconds), key=lambda row: row.seconds or 0)
    (first, cell), *rest = columns.items()
    header = ["peer", first, "ratio", *(name for name, _ in rest)]
    lines = [
        [row.peer, cell(row), ratio(row.seconds, seconds.get(US)), *(other(row) for _, other in rest)] for row in timed
    ]
    return "\n".join([title, table(header, lines), *_problems(rows), fastest(seconds)])


def report_bytes(title: str, rows: Sequence[Row]) -> str:
    """The same of memory or disk, smallest first."""
    held = {row.peer: row.figures["bytes"] for row in rows if "bytes" in row.figures and not row.problem}
    lines = [
        [name, megabytes(held[name]), ratio(held[name], held.get(US))] for name in sorted(held, key=held.__getitem__)
    ]
    return "\n".join([title, table(["peer", "MB", "ratio"], lines), *_problems(rows), fastest(held, "smallest")])


def _problems(rows: Sequence[Row]) -> list[str]:
    return [f"{row.peer}: {row.problem}" for row in rows if row.problem]


def ratio(value: float | None, ours: float | None) -> str:
    """How many times ours: above 1, tinycnn is the faster or smaller one."""
    return f"{value / ours:.2f}" if value and ours else "-"


def fastest(values: Mapping[str, float | None], what: str = "fastest") -> str:
    """The line that names the peer with the lowest value beside tinycnn's own, and its ratio."""
    others = {name: value for name, value in values.items() if value and not name.startswith(US)}
    if not others:
        return f"{what} peer: none was measured"
    best = min(others, key=others.__getitem__)
    return f"{what} peer: {best}, ratio {ratio(others[best], values.get(US))}"


def milliseconds(seconds: float | None) -> str:
    """Milliseconds with as many digits as mean something."""
    return "-" if seconds is None else f"{1000 * seconds:.3f}" if seconds < 0.01 else f"{1000 * seconds:.1f}"


def megabytes(count: float) -> str:
    """Bytes in millions."""
    return f"{count / MEGABYTE:.0f}"
