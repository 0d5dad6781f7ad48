"""What the lessons share: the paper's network, a drawn fish as it reads it, and how a picture is saved."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinycnn.datasets import fish as drawn
from tinycnn.layers import Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential


def picture(name: str, draw: Callable[[Any], None], width: float = 8, height: float = 4) -> None:
    """Let `draw` fill a matplotlib figure, save it as NAME.png and say where; without matplotlib, say that instead.

    The folder is the script's first argument, or `lesson_pictures` in the folder one works in.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"(picture {name}.png skipped: matplotlib is not installed; pip install matplotlib)")
        return
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    draw(figure)
    path = _folder() / f"{name}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise SystemExit(f"{path}: cannot save the picture: {error.strerror or error}") from None
    print(f"(picture: {path})")
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        display(Image(filename=str(path)))


def _folder() -> Path:
    """A notebook's kernel has arguments of its own, which begin with a dash."""
    chosen = sys.argv[1] if len(sys.argv) == 2 and not sys.argv[1].startswith("-") else "lesson_pictures"
    return Path(chosen)


def paper_network(side: int = 64, seed: int = 0) -> Sequential:
    """The network of the paper's Figures 5 and 6, which lesson 2 builds step by step, for images of side x side."""
    return Sequential(
        [
            Conv2D(32, (3, 3), input_shape=(side, side, 3), activation="relu"),
            MaxPooling2D(pool_size=(2, 2)),
            Conv2D(32, (3, 3), activation="relu"),
            MaxPooling2D(pool_size=(2, 2)),
            Flatten(),
            Dense(128, activation="relu"),
            Dense(1, activation="sigmoid"),
        ],
        seed=seed,
    )


def fish(kind: str, index: int, split: str = "train") -> np.ndarray:
    """A drawn fish, "clownfish" or "angelfish", as the network reads it: (64, 64, 3), values from 0 to 1."""
    pixels = drawn.draw(kind, 0, split, index).resize((64, 64), 0)  # 0: the nearest pixel, Keras's default
    return np.asarray(pixels, np.float32) / 255


def number_grid(axes: Any, values: np.ndarray, title: str, digits: int = 0, frame: Any = None) -> None:
    """A small matrix as coloured squares with its numbers inside; `frame` = (row, column, rows, columns) is framed."""
    limit = np.abs(values).max() or 1
    axes.imshow(values, cmap="RdBu_r", vmin=-1.6 * limit, vmax=1.6 * limit)  # pale enough to read numbers on
    for i, j in np.ndindex(values.shape):
        axes.text(j, i, f"{values[i, j]:.{digits}f}", ha="center", va="center", fontsize=10)
    if frame:
        i, j, rows, columns = frame
        corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]) * (rows, columns) + (i - 0.5, j - 0.5)
        axes.plot(corners[:, 1], corners[:, 0], color="black", linewidth=2.5, clip_on=False)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
