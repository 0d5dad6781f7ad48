"""How tensors and models show themselves in a notebook, as HTML that needs nothing but a browser."""

from collections.abc import Sequence
from html import escape

import numpy as np

ROWS, COLUMNS, CELLS = 8, 8, 64  # of a table of values, and of a strip


def tensor_html(values: np.ndarray, made_by: str | None = None) -> str:
    """Shape, type and range; up to 8 x 8 values as a table, more of them as a strip of colours with the ends named."""
    title = f"Tensor {'x'.join(map(str, values.shape)) or 'number'}, {values.dtype}"
    title += f", made by {made_by}" if made_by else ""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if values.dtype.kind == "f" and finite.size:
        title += f", {finite.min():.4g} to {finite.max():.4g}"
    small = values.ndim <= 2 and values.size <= ROWS * COLUMNS and max(values.shape, default=1) <= ROWS
    body = _values(np.atleast_2d(values)) if small or values.dtype.kind != "f" else _strip(values)
    return f'<div style="font: 13px/1.4 ui-monospace, monospace"><div>{escape(title)}</div>{body}</div>'


def table_html(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table with words in its first column and numbers in the others."""
    heads = "".join(f'<th style="text-align:left">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        "<tr>" + "".join(f'<td style="text-align:{"right" if i > 1 else "left"}">{escape(cell)}</td>'
                         for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )  # fmt: skip
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f"<div><div><b>{escape(title)}</b></div><table><tr>{heads}</tr>{lines}</table>{below}</div>"


def _values(values: np.ndarray) -> str:
    top = float(np.abs(values).max()) if values.size and values.dtype.kind == "f" else 0.0
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_colour(v, top)};text-align:right">{escape(_number(v))}</td>'
                         for v in row[:COLUMNS]) + "</tr>"
        for row in values[:ROWS]
    )  # fmt: skip
    return f"<table>{rows}</table>"


def _strip(values: np.ndarray) -> str:
    """Means of equal parts of the values, in order, each as a coloured field that names its number."""
    parts = np.array_split(values.ravel(), min(CELLS, values.size)) if values.size else []
    means = [float(part.mean()) for part in parts]
    top = max(map(abs, means), default=0.0)
    cells = "".join(
        f'<span title="{escape(_number(mean))}" style="display:inline-block;width:8px;height:20px;'
        f'{_colour(mean, top)}"></span>'
        for mean in means
    )
    each = f"each field is the mean of {len(parts[0]):,} values" if parts and len(parts[0]) > 1 else "one field a value"
    return f"<div>{cells}</div><div>{escape(each)}</div>"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _colour(value: object, top: float) -> str:
    """Blue below 0, orange above, paler towards it; readable under black text."""
    if not isinstance(value, float | np.floating) or not np.isfinite(value) or not np.isfinite(top) or top == 0:
        return "color:#000;background:#eee"
    share = abs(float(value)) / top
    r, g, b = (230, 145, 56) if value > 0 else (80, 150, 220)
    mixed = (round(250 + (c - 250) * share) for c in (r, g, b))
    return f"color:#000;background:rgb({','.join(map(str, mixed))})"
