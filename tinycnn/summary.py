"""The table that `Sequential.summary` prints: what each layer makes, learns and costs."""

from collections.abc import Sequence

from .layers import Layer, Shape
from .notebook import table_html

HEAD = ("Layer (type)", "Output shape", "Parameters", "Multiply-adds")


def _rows(layers: Sequence[Layer], shapes: Sequence[Shape]) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row per layer, and the lines below them."""
    rows: list[tuple[str, ...]] = []
    parameters = products = 0
    for layer, before, after in zip(layers, shapes[:-1], shapes[1:], strict=True):
        count = sum(weight.data.size for weight in layer.weights.values())
        cost = layer.multiply_adds(before)
        parameters, products = parameters + count, products + cost
        rows.append((f"{layer.name} ({type(layer).__name__})", _with_batch(after), f"{count:,}", f"{cost:,}"))
    return rows, [
        f"Parameters: {parameters:,} ({parameters * 4 / 2**20:.2f} MiB)",
        f"Multiply-adds for one sample: {products:,}",
    ]


def summary(name: str, layers: Sequence[Layer], shapes: Sequence[Shape]) -> str:
    """A row per layer; `shapes` are the one in front of each layer and the one after the last."""
    rows, totals = _rows(layers, shapes)
    rows = [HEAD, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, shape, count_text, cost_text in rows:
        numbers = f"{count_text:>{widths[2]}}  {cost_text:>{widths[3]}}"
        lines.append(f"{title:{widths[0]}}  {shape:{widths[1]}}  {numbers}")
    title = f'Model: "{name}", input {_with_batch(shapes[0])}'
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:], *totals])


def summary_html(name: str, layers: Sequence[Layer], shapes: Sequence[Shape] | None) -> str:
    """The same table for a notebook; `shapes` is None for a model that does not know them yet."""
    if shapes is None:
        rows: list[tuple[str, ...]] = [(f"{layer.name} ({type(layer).__name__})", "?", "?", "?") for layer in layers]
        return table_html(f'Model: "{name}", not built yet', HEAD, rows)
    rows, totals = _rows(layers, shapes)
    return table_html(f'Model: "{name}", input {_with_batch(shapes[0])}', HEAD, rows, totals)


def _with_batch(shape: Shape) -> str:
    return f"(None, {', '.join(map(str, shape))})"
