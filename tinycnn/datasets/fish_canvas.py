"""Colours, smooth curves and a canvas measured in shares of the picture: what fish and scene are drawn with."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
WHITE, BLACK = (245, 245, 240), (18, 16, 18)
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20)), np.sin(np.linspace(0, 2 * np.pi, 20))], 1)


def pick(rng: np.random.Generator, choices: Sequence, weights: Sequence[float] | None = None) -> Any:
    """One of the choices, all alike or by weights that sum to 1."""
    return choices[int(rng.integers(len(choices)) if weights is None else rng.choice(len(choices), p=weights))]


def clipped(channels: ArrayLike) -> Colour:
    """The nearest colour that pixels can hold."""
    r, g, b = (min(255, max(0, int(c))) for c in np.asarray(channels).tolist())
    return r, g, b


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` (0..1) of the way from `a` to `b`."""
    return tuple(int(x + share * (y - x)) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def vary(rng: np.random.Generator, colour: Colour, amount: float = 14.0) -> Colour:
    """The colour, brighter or darker and tinted anew."""
    return clipped(np.asarray(colour) * rng.uniform(0.88, 1.1) + rng.normal(0, amount, 3))


@lru_cache(maxsize=256)
def _spline_weights(given: int, count: int, closed: bool) -> np.ndarray:
    """What each of `given` points contributes to each of `count` points of a Catmull-Rom spline: (count, given)."""
    points = np.eye(given)
    ends = (points[-1:], points[:2]) if closed else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    p = np.vstack([ends[0], points, ends[1]])
    at = np.linspace(0, len(p) - 3, count, endpoint=not closed)
    i = np.minimum(at.astype(int), len(p) - 4)
    t = (at - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def curve(points: ArrayLike, count: int, closed: bool = False) -> np.ndarray:
    """`count` points (count, 2) along a smooth line through the given ones."""
    p = np.asarray(points, dtype=float)
    return _spline_weights(len(p), count, closed) @ p


def cloud(rng: np.random.Generator, cells: int, pixels: int) -> np.ndarray:
    """Smooth noise of about unit variance, (pixels, pixels): `cells` random values a side, enlarged."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((pixels, pixels), Image.Resampling.BICUBIC))


class Canvas:
    """Draws on a square image; points are shares of its side, (0, 0) the upper left corner."""

    def __init__(self, image: Image.Image):
        self.draw, self.pixels = ImageDraw.Draw(image), image.width

    def polygon(self, points: np.ndarray, fill: Any) -> None:
        """A filled outline (n, 2)."""
        self.draw.polygon((points * self.pixels).ravel().tolist(), fill=fill)

    def line(self, points: np.ndarray, fill: Any, width: float) -> None:
        """A line through (n, 2), at least one pixel wide."""
        xy = (points * self.pixels).ravel().tolist()
        self.draw.line(xy, fill=fill, width=max(1, round(width * self.pixels)), joint="curve")

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, **colours: Any) -> None:
        """An ellipse around (x, y); `fill` and `outline` as in Pillow."""
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        self.draw.ellipse([v * self.pixels for v in box], **colours)
