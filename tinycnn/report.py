"""The report of a run: one HTML page, without network or scripts, with its curves and its confusion matrix."""

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from .files import show
from .storage import write_atomically

WIDTH, HEIGHT, LEFT, BOTTOM = 440, 240, 52, 28  # of a chart, and of the margins for its numbers

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2rem auto; }
body { padding: 0 1rem; } figure { margin: 0; } figcaption { font-weight: 600; }
svg { max-width: 100%; height: auto; } .charts { display: flex; flex-wrap: wrap; gap: 2rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; text-align: right; } th { font-weight: 600; }
.training { stroke: #1f77b4; } .test { stroke: #d95f02; } .curve { fill: none; stroke-width: 2; }
.grid { stroke: #ddd; } text { font-size: 12px; fill: #555; }
.key { display: inline-block; width: 1.5em; border-top: 3px solid; vertical-align: middle; }
"""


def write_report(
    path: Path,
    history: Mapping[str, Sequence[float]],
    matrix: np.ndarray,
    class_names: Sequence[str],
    figures: Mapping[str, Any],
) -> None:
    """Write the page. `history` has "loss", "accuracy" and both with "val_" in front, one number per epoch."""
    losses, accuracies = ([*history[name], *history[f"val_{name}"]] for name in ("loss", "accuracy"))
    top_loss = max(filter(isfinite, losses), default=1.0) * 1.05 or 1.0
    lowest_accuracy = min(floor(min(accuracies) * 10) / 10, 0.9)
    charts = "".join(
        f"<figure><figcaption>{title}</figcaption>{_chart(history[name], history['val_' + name], *ends)}</figure>"
        for title, name, ends in (("Loss", "loss", (0.0, top_loss)), ("Accuracy", "accuracy", (lowest_accuracy, 1.0)))
    )
    rows = "".join(f"<tr><th>{escape(k.replace('_', ' '))}</th><td>{_number(v)}</td></tr>" for k, v in figures.items())
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>tinycnn: training report</title><style>{STYLE}</style></head><body>
<h1>Training report</h1>
<table>{rows}</table>
<h2>How it learned</h2>
<p><span class="key training" style="color:#1f77b4"></span> training images
<span class="key test" style="color:#d95f02"></span> test images, after each epoch</p>
<div class="charts">{charts}</div>
<h2>What it takes for what</h2>
<p>Rows are the true class, columns the predicted one; the darker, the larger the share of the row.</p>
{_matrix_table(matrix, class_names)}
</body></html>
"""
    write_atomically(path, page.encode(errors="backslashreplace"))  # a folder name need not be text


def _chart(training: Sequence[float], test: Sequence[float], low: float, high: float) -> str:
    """Two curves over the epochs as SVG, the vertical axis from `low` to `high`."""
    x_step = (WIDTH - LEFT - 8) / max(len(training) - 1, 1)

    def place(epoch: int, value: float) -> str:
        height = (HEIGHT - BOTTOM - 8) * (high - value) / (high - low)
        return f"{LEFT + epoch * x_step:.1f},{8 + height:.1f}"

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = 8 + (HEIGHT - BOTTOM - 8) * (1 - share)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 8}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{low + share * (high - low):.3g}</text>')
    for epoch in sorted({0, (len(training) - 1) // 2, len(training) - 1}):
        x = LEFT + epoch * x_step
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{epoch + 1}</text>')
    for name, values in (("training", training), ("test", test)):
        points = [place(i, v) for i, v in enumerate(values) if isfinite(v)]
        parts.append(f'<polyline class="curve {name}" points="{" ".join(points)}"/>')
        if len(points) == 1:  # a line of one point cannot be seen
            cx, cy = points[0].split(",")
            parts.append(f'<circle class="{name}" cx="{cx}" cy="{cy}" r="3"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{"".join(parts)}</svg>'


def _matrix_table(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    names = [escape(show(name)) for name in class_names]
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        shares = counts / max(counts.sum(), 1)
        cells = "".join(
            f'<td style="background: rgb(31 119 180 / {share * 0.6:.2f})">{count}</td>'
            for count, share in zip(counts, shares, strict=True)
        )
        rows.append(f"<tr><th>{name}</th>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else escape(f"{value}")
