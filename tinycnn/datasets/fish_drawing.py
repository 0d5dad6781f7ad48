"""Draws one picture of a clownfish or an angelfish: their shapes, colours and poses, set into a scene."""

from dataclasses import dataclass
from math import cos, sin
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageFilter

from ..errors import UsageError
from ..random import generator
from .fish_canvas import BLACK, CIRCLE, WHITE, Canvas, Colour, cloud, curve, mix, pick, vary
from .fish_scene import backdrop, camera, foreground, light

KINDS = ("angelfish", "clownfish")
VERSION = 1  # goes up whenever a picture changes, so that a cached set of older drawings is not taken for this one
ORANGES: tuple[Colour, ...] = ((243, 128, 28), (235, 88, 28), (248, 162, 50))


@dataclass(frozen=True)
class Pose:
    """Where a fish is and how it is held; in its own coordinates the nose is at (1, 0), the tail at (-0.8, 0)."""

    x: float  # centre, as a share of the picture
    y: float
    scale: float  # half the body's length, as a share of the picture
    facing: int  # 1 right, -1 left
    tilt: float  # radians, nose up
    turn: float  # 1 seen from the side, less when turned towards or away from us
    bend: float  # how far the tail is swung up

    @classmethod
    def drawn(cls, rng: np.random.Generator, smallest: float, largest: float) -> "Pose":
        """A pose for a fish of about this scale; the smaller it is, the further from the centre it may be."""
        scale = rng.uniform(smallest, largest)
        x, y = 0.5 + rng.uniform(-1, 1, 2) * max(0.1, 0.29 - 0.4 * scale)
        tilt, turn = float(np.clip(rng.normal(0, 0.25), -0.6, 0.6)), 1 - 0.35 * rng.random() ** 2
        return cls(x, y, scale, pick(rng, (-1, 1)), tilt, turn, rng.normal(0, 0.06))

    def place(self, points: ArrayLike) -> np.ndarray:
        """Fish coordinates (n, 2), y up, to shares of the picture (n, 2), y down."""
        p = np.asarray(points, dtype=float)
        x, y = p[:, 0] * self.turn, p[:, 1] + self.bend * np.minimum(p[:, 0] - 0.3, 0) ** 2
        right, up = x * cos(self.tilt) - y * sin(self.tilt), x * sin(self.tilt) + y * cos(self.tilt)
        return np.stack([self.x + self.scale * self.facing * right, self.y - self.scale * up], 1)


@dataclass(frozen=True)
class Look:
    """The colours and proportions of one fish."""

    body: Colour
    fins: Colour
    marks: Colour  # a clownfish's bands, an angelfish's stripes
    margin: Colour  # around bands and fins
    depth: float  # height of the body, 1 as usual
    reach: float  # length of the fins, 1 as usual
    width: float  # of the marks, 1 as usual
    opacity: int  # of the fins, 0..255


class Painter:
    """Paints in one fish's coordinates: fins on `layer` directly, the body's marks on `skin`, cut out at the end."""

    def __init__(self, pose: Pose, look: Look, pixels: int):
        self.pose, self.look = pose, look
        self.layer = Image.new("RGBA", (pixels, pixels))
        self.skin = Image.new("RGB", (pixels, pixels), look.body)
        self.silhouette = Image.new("L", (pixels, pixels))
        self.on_layer, self.on_skin = Canvas(self.layer), Canvas(self.skin)

    def shape(self, points: ArrayLike, fill: Any) -> None:
        """A filled outline."""
        self.on_layer.polygon(self.pose.place(points), fill)

    def mark(self, points: ArrayLike, fill: Colour) -> None:
        """A filled outline on the skin; what lies outside of the body will not show."""
        self.on_skin.polygon(self.pose.place(points), fill)

    def line(self, points: ArrayLike, fill: Any, width: float) -> None:
        """A line of a width in fish units."""
        self.on_layer.line(self.pose.place(points), fill, width * self.pose.scale)

    def fin(self, base: ArrayLike, edge: ArrayLike, margin: float = 0, bar: tuple[float, float] | None = None) -> None:
        """A fan of rays from `base` to `edge`, with a margin (a share of its length) and a bar between two shares."""
        look, foot, rim = self.look, curve(base, 24), curve(edge, 24)
        inner = foot + (1 - margin) * (rim - foot)
        if margin:
            self.shape(np.vstack([foot, rim[::-1]]), (*look.margin, 255))
        self.shape(np.vstack([foot, inner[::-1]]), (*look.fins, look.opacity))
        if bar:
            part = slice(round(23 * bar[0]), round(23 * bar[1]) + 1)
            self.shape(np.vstack([foot[part], inner[part][::-1]]), (*look.marks, max(look.opacity, 190)))
        ray = (*mix(look.fins, BLACK, 0.3), look.opacity)
        for k in range(2, 23, 3):
            self.line([foot[k], foot[k] + 0.92 * (inner[k] - foot[k])], ray, 0.015)

    def wear_skin(self, outline: ArrayLike) -> None:
        """Lay the skin on, inside a smooth body through the given points."""
        Canvas(self.silhouette).polygon(self.pose.place(curve(outline, 60, closed=True)), 255)
        self.layer.paste(self.skin, mask=self.silhouette)

    def face(self, x: float, y: float, radius: float, iris: Colour) -> None:
        """An eye with a glint, and a small mouth."""
        at = np.array([x, y])
        self.shape(at + radius * CIRCLE, (*iris, 255))
        self.shape(at + 0.68 * radius * CIRCLE, (8, 8, 10, 255))
        self.shape(at + 0.25 * radius * (CIRCLE + 1), (255, 255, 255, 255))
        mouth = curve([(0.98, -0.05), (0.91, -0.08), (0.86, -0.06)], 6)
        self.line(mouth, (*mix(self.look.body, BLACK, 0.6), 255), 0.025)


def band(x: float, width: float, lean: float = 0.0, bow: float = 0.0, bulge: float = 0.0) -> np.ndarray:
    """The outline of an upright stripe at x: leaning, bowed backwards, its front edge bulging at mid height."""
    y = np.linspace(-0.9, 0.9, 19)
    middle = x + lean * y - bow * y**2
    front = middle + width / 2 + bulge * np.exp(-((y / 0.16) ** 2))
    return np.vstack([np.stack([middle - width / 2, y], 1), np.stack([front, y], 1)[::-1]])


def clownfish_look(rng: np.random.Generator) -> Look:
    """Mostly orange; black, brown and grey ones exist, so that colour alone does not decide."""
    body = pick(rng, (pick(rng, ORANGES), (38, 33, 36), (120, 55, 35), (118, 112, 112)), (0.66, 0.14, 0.12, 0.08))
    fins = body if body in ORANGES or rng.random() < 0.6 else pick(rng, ((250, 150, 50), (60, 50, 50)))
    return Look(
        vary(rng, body, 9), vary(rng, fins, 9), marks=vary(rng, WHITE, 6), margin=vary(rng, BLACK, 5), opacity=255,
        depth=rng.uniform(0.88, 1.12), reach=rng.uniform(0.85, 1.2), width=rng.uniform(0.8, 1.35),
    )  # fmt: skip


def clownfish(p: Painter, rng: np.random.Generator) -> None:
    """A stocky oval, three white bands edged in black, rounded fins with dark margins."""
    d, r, edge = p.look.depth, p.look.reach, rng.uniform(0.03, 0.07)
    clownfish_fins(p, d, r)
    for x, width, lean, bow, bulge in (0.5, 0.17, -0.1, 0.5, 0), (-0.05, 0.19, 0, 0.1, 0.16), (-0.66, 0.13, 0, 0, 0):
        x, width = x + rng.normal(0, 0.02), width * p.look.width
        p.mark(band(x, width + 2 * edge, lean, bow, bulge), p.look.margin)
        p.mark(band(x, width, lean, bow, bulge), p.look.marks)
    p.wear_skin([(1, -0.02), (0.87, 0.19 * d), (0.45, 0.39 * d), (0, 0.42 * d), (-0.45, 0.27 * d), (-0.8, 0.15),
                 (-0.8, -0.15), (-0.45, -0.27 * d), (0, -0.42 * d), (0.45, -0.4 * d), (0.86, -0.23 * d)])  # fmt: skip
    pectoral = [(0.3, 0.04), (0.08, 0.13 * r), (-0.14 * r, 0), (-0.15 * r, -0.17), (0.02, -0.29 * r), (0.25, -0.2)]
    p.fin([(0.3, 0), (0.28, -0.17 * d)], pectoral, margin=0.2)
    p.face(0.74, 0.1 * d, 0.085, mix(p.look.body, (255, 170, 60), 0.5))


def clownfish_fins(p: Painter, d: float, r: float) -> None:
    """Tail, back, belly and breast: all of them round."""
    half_tail = [(-0.78, 0.16), (-0.95, 0.3 * r), (-1.2 * r, 0.26 * r)]
    tail = [*half_tail, (-1.27 * r, 0), *[(x, -y) for x, y in half_tail[::-1]]]
    p.fin([(-0.74, 0.14), (-0.74, -0.14)], tail, margin=0.17)
    top, low = 0.37 * d, -0.37 * d
    back = [(0.42, top + 0.02), (0.2, top + 0.19 * r), (-0.1, top + 0.13 * r), (-0.38, top + 0.24 * r),
            (-0.68, top + 0.1), (-0.62, 0.22)]  # fmt: skip
    p.fin([(0.42, top - 0.02), (0, top + 0.02), (-0.6, 0.18)], back, margin=0.2)
    belly = [(-0.08, low - 0.04), (-0.24, low - 0.25 * r), (-0.5, low - 0.25 * r), (-0.7, low - 0.06), (-0.62, -0.22)]
    p.fin([(-0.08, low), (-0.6, -0.18)], belly, margin=0.2)
    breast = [(0.35, low - 0.03), (0.2, low - 0.3 * r), (0, low - 0.38 * r), (-0.06, low - 0.22 * r), (0.1, low - 0.04)]
    p.fin([(0.36, low + 0.02), (0.12, low - 0.02)], breast, margin=0.2)


def angelfish_look(rng: np.random.Generator) -> Look:
    """Orange, golden, silver, white, black or blue, always with darker stripes."""
    bodies = (pick(rng, ORANGES), (240, 190, 75), (192, 192, 186), (228, 218, 196), (84, 78, 80), (120, 150, 175))
    body = pick(rng, bodies, (0.38, 0.16, 0.18, 0.09, 0.1, 0.09))
    other = pick(rng, (pick(rng, ORANGES), (240, 190, 75), (60, 55, 60)))
    fins = mix(body, WHITE, rng.uniform(0, 0.6)) if rng.random() < 0.8 else other
    return Look(
        vary(rng, body, 9), vary(rng, fins, 9), marks=mix(vary(rng, BLACK, 5), body, rng.uniform(0, 0.22)),
        margin=BLACK, depth=rng.uniform(0.9, 1.12), reach=rng.uniform(0.75, 1.2), width=rng.uniform(0.65, 1.15),
        opacity=int(rng.integers(110, 240)),
    )  # fmt: skip


def angelfish(p: Painter, rng: np.random.Generator) -> None:
    """A tall flat disc, dark upright stripes, sail-like fins that trail behind, thread-like pelvic fins."""
    d, body = p.look.depth, p.look.body
    angelfish_fins(p, rng, d, p.look.reach)
    if rng.random() < 0.4:  # a golden crown or a pale face
        p.mark(band(0.75, 0.7, 0.25), mix(body, pick(rng, ((245, 170, 40), (250, 240, 220))), 0.6))
    for x, width, bow in (0.66, 0.09, 0.2), (0.2, 0.15, 0.12), (-0.34, 0.19, 0.1), (-0.78, 0.1, 0):
        lean = rng.normal(0, 0.05)
        p.mark(band(x + rng.normal(0, 0.025), width * p.look.width, lean, bow), p.look.marks)
    pectoral = [(0.54, -0.1), (0.38, -0.01), (0.29, -0.1), (0.34, -0.23), (0.52, -0.18)]
    p.mark(curve(pectoral, 20, closed=True), mix(body, WHITE, 0.35))
    p.wear_skin([(1, 0), (0.8, 0.17 * d), (0.5, 0.48 * d), (0.1, 0.72 * d), (-0.3, 0.6 * d), (-0.62, 0.27 * d),
                 (-0.84, 0.13), (-0.84, -0.13), (-0.62, -0.27 * d), (-0.3, -0.59 * d), (0.1, -0.72 * d),
                 (0.5, -0.5 * d), (0.83, -0.19 * d)])  # fmt: skip
    p.face(0.68, 0.12 * d, 0.095, pick(rng, ((230, 160, 60), (200, 60, 40), (220, 220, 210))))


def angelfish_fins(p: Painter, rng: np.random.Generator, d: float, r: float) -> None:
    """The sails above and below, the fan of the tail, and two threads."""
    sweep, bar = rng.uniform(0, 0.35), (0.42, 0.58) if rng.random() < 0.7 else None
    for side, length in ((1, r * rng.uniform(0.85, 1.1)), (-1, r * rng.uniform(0.9, 1.2))):
        sail = [(0.3, 0.6 * d), (0.02, d), (-0.35 - 0.5 * sweep, 0.75 + 0.5 * length), (-0.7 - sweep, 0.7 + length),
                (-0.72 - sweep / 2, 0.3 + 0.7 * length), (-0.7, 0.7), (-0.72, 0.3)]  # fmt: skip
        base = [(0.3, side * 0.56 * d), (-0.2, side * 0.55 * d), (-0.66, side * 0.2)]
        p.fin(base, [(x, side * y) for x, y in sail], bar=bar)
    half_tail = [(-0.82, 0.14), (-1.1, 0.36 * r), (-1.2 - 0.25 * r, 0.52 * r), (-1.15 - 0.18 * r, 0.18)]
    p.fin([(-0.8, 0.13), (-0.8, -0.13)], [*half_tail, *[(x, -y) for x, y in half_tail[::-1]]])
    for start in (0.42, 0.34):
        drift = start + rng.normal(0, 0.15)
        thread = [(start, -0.55 * d), (start - 0.12, -0.95), (drift - 0.15, -1.3 * r), (drift - 0.45, -1.75 * r)]
        p.line(curve(thread, 14), (*p.look.fins, 255), 0.04)


def passer_by(p: Painter, rng: np.random.Generator) -> None:
    """A slim fish of another kind with a forked tail; its marks may be bands, a long stripe or none."""
    d, pattern = 0.26 * p.look.depth, rng.integers(3)
    p.fin([(-0.75, 0.08), (-0.75, -0.08)], [(-0.78, 0.1), (-1.3, 0.36), (-1.05, 0), (-1.3, -0.36), (-0.78, -0.1)])
    p.fin([(0.2, d), (-0.25, 0.8 * d)], [(0.2, d), (-0.1, d + 0.2), (-0.35, d + 0.1), (-0.25, 0.8 * d)])
    p.fin([(-0.1, -d), (-0.45, -0.7 * d)], [(-0.1, -d), (-0.35, -d - 0.16), (-0.5, -d), (-0.45, -0.7 * d)])
    if pattern == 0:
        for x in (0.45, 0.0, -0.45):
            p.mark(band(x, 0.16 * p.look.width), p.look.marks)
    elif pattern == 1:
        p.mark([(1, 0.05), (-1, 0.05), (-1, -0.06), (1, -0.06)], p.look.marks)
    p.wear_skin([(1, 0), (0.5, 0.85 * d), (0, d), (-0.5, 0.55 * d), (-0.8, 0.08), (-0.8, -0.08), (-0.5, -0.55 * d),
                 (0, -d), (0.5, -0.8 * d)])  # fmt: skip
    p.face(0.7, 0.05, 0.08, (210, 200, 170))


def passers_by(rng: np.random.Generator, image: Image.Image) -> None:
    """Up to three smaller fish of other kinds, in the colours of both labelled ones."""
    for _ in range(pick(rng, (0, 1, 2, 3), (0.5, 0.25, 0.15, 0.1))):
        look = pick(rng, (clownfish_look, angelfish_look))(rng)
        p = Painter(Pose.drawn(rng, 0.05, 0.13), look, image.width)
        passer_by(p, rng)
        image.paste(p.layer, mask=p.layer)


def rounded(p: Painter, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The painted fish at half the layer's size, lit: colours (size, size, 3) and opacity (size, size, 1)."""
    rgba = np.asarray(p.layer.reduce(2), dtype=np.float32)
    size = len(rgba)
    # A blurred silhouette swells towards its middle like a body; its slope tells which parts look up.
    mask = p.silhouette.reduce(4).filter(ImageFilter.GaussianBlur(0.08 * p.pose.scale * size))
    swell = np.asarray(mask.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    slope = np.gradient(swell, axis=0) * (size * p.pose.scale)
    scales = 0.035 * cloud(rng, 48, size)  # they catch the light unevenly
    relief = 0.8 + 0.22 * swell + rng.uniform(0.1, 0.25) * slope + scales
    return rgba[..., :3] * relief[..., None], rgba[..., 3:] / 255


def draw(kind: str, seed: int, split: str, index: int, size: int = 128) -> Image.Image:
    """Draw picture number `index` of a split: RGB, size x size pixels, the same for the same arguments.

    `kind` is "angelfish" or "clownfish"; `split` is any name, "train" and "test" in the data set.
    Raises UsageError for another kind, a size that is odd or below 16.
    """
    if kind not in KINDS:
        raise UsageError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if size < 16 or size % 2:
        raise UsageError(f"size must be an even number of pixels, 16 or more, not {size}")
    rng = generator(seed, f"fish-{split}", index, KINDS.index(kind))
    image = backdrop(rng, 2 * size)  # drawn twice as large and reduced, which smooths the edges
    passers_by(rng, image)
    blur = ImageFilter.GaussianBlur(rng.uniform(0, 2.2) * size / 128)
    picture: np.ndarray = np.asarray(image.reduce(2).filter(blur), dtype=np.float32)

    if kind == "clownfish":
        p = Painter(Pose.drawn(rng, 0.27, 0.4), clownfish_look(rng), 2 * size)
        clownfish(p, rng)
    else:
        p = Painter(Pose.drawn(rng, 0.235, 0.335), angelfish_look(rng), 2 * size)
        angelfish(p, rng)
    colours, opacity = rounded(p, rng)
    picture = picture + opacity * (colours - picture)

    if hides := foreground(rng, 2 * size):
        over = np.asarray(hides.reduce(2), dtype=np.float32)
        picture += over[..., 3:] / 255 * (over[..., :3] - picture)
    return camera(rng, light(rng, picture))
