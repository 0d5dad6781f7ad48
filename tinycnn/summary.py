"""The table that `Sequential.summary` prints: what each layer makes, learns and costs."""

from collections.abc import Sequence

from .layers import Layer, Shape

HEAD = ("Layer (type)", "Output shape", "Parameters", "Multiply-adds")


def summary(name: str, layers: Sequence[Layer], shapes: Sequence[Shape]) -> str:
    """A row per layer; `shapes` are the one in front of each layer and the one after the last."""
    rows, parameters, products = [HEAD], 0, 0
    for layer, before, after in zip(layers, shapes[:-1], shapes[1:], strict=True):
        count = sum(weight.data.size for weight in layer.weights.values())
        cost = layer.multiply_adds(before)
        parameters, products = parameters + count, products + cost
        rows.append((f"{layer.name} ({type(layer).__name__})", _with_batch(after), f"{count:,}", f"{cost:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, shape, count_text, cost_text in rows:
        numbers = f"{count_text:>{widths[2]}}  {cost_text:>{widths[3]}}"
        lines.append(f"{title:{widths[0]}}  {shape:{widths[1]}}  {numbers}")
    return "\n".join(
        [
            f'Model: "{name}", input {_with_batch(shapes[0])}',
            lines[0],
            "-" * len(lines[0]),
            *lines[1:],
            f"Parameters: {parameters:,} ({parameters * 4 / 2**20:.2f} MiB)",
            f"Multiply-adds for one sample: {products:,}",
        ]
    )


def _with_batch(shape: Shape) -> str:
    return f"(None, {', '.join(map(str, shape))})"
