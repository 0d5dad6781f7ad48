"""What surrounds the fish, drawn alike for every kind of fish, so that a background never gives the answer away."""

from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageFilter

from .fish_canvas import BLACK, CIRCLE, WHITE, Canvas, Colour, cloud, curve, mix, pick, vary

WATERS: tuple[tuple[Colour, Colour], ...] = (  # at the surface, at the bottom
    ((120, 200, 225), (20, 80, 130)), ((60, 130, 200), (8, 30, 80)), ((130, 205, 190), (25, 85, 80)),
    ((150, 185, 110), (40, 65, 35)), ((190, 190, 160), (90, 85, 65)), ((60, 70, 80), (12, 14, 20)),
    ((235, 240, 240), (170, 190, 195)), ((90, 80, 150), (30, 22, 70)),
)  # fmt: skip
GROUNDS: tuple[Colour, ...] = (
    (225, 205, 165), (165, 140, 110), (110, 95, 85), (70, 65, 70), (200, 195, 190), (190, 120, 70),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = (
    (60, 140, 50), (100, 170, 50), (30, 100, 60), (140, 160, 60), (150, 70, 50), (50, 120, 100),
)  # fmt: skip
CORALS: tuple[Colour, ...] = (
    (240, 120, 40), (225, 85, 50), (235, 150, 150), (200, 175, 130), (130, 170, 90), (165, 110, 190), (240, 205, 120),
    (235, 235, 225),
)  # fmt: skip


def water(rng: np.random.Generator, pixels: int) -> Image.Image:
    """Open water from the surface to the bottom, with large dim shapes far behind."""
    top, bottom = pick(rng, WATERS)
    depth = np.linspace(0, 1, 48)[:, None, None] ** rng.uniform(0.6, 1.6)
    gradient = (1 - depth) * np.asarray(vary(rng, top)) + depth * np.asarray(vary(rng, bottom))
    image = Image.fromarray(np.broadcast_to(gradient, (48, 48, 3)).astype(np.uint8))
    canvas = Canvas(image)
    for _ in range(int(rng.integers(0, 12))):
        tone = mix(mix(top, bottom, 0.7), vary(rng, pick(rng, LEAVES + CORALS)), rng.uniform(0.2, 0.6))
        canvas.ellipse(rng.random(), rng.uniform(0.1, 1), rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.25), fill=tone)
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 4)))
    return blurred.resize((pixels, pixels), Image.Resampling.BICUBIC)


def blades(
    canvas: Canvas, rng: np.random.Generator, roots: np.ndarray, tips: np.ndarray, sway: np.ndarray, width: float,
    colour: Colour,
) -> None:  # fmt: skip
    """Leaves or arms from roots to tips (n, 2), each bent sideways by its `sway` (n,), with a lighter middle."""
    along = tips - roots
    across = np.stack([along[:, 1], -along[:, 0]], 1)
    t = np.linspace(0, 1, 10)[None, :, None]
    spine = roots[:, None] + t * along[:, None] + 2 * t * (1 - t) * (sway[:, None] * across)[:, None]  # (n, 10, 2)
    half = width * np.sqrt(1 - 0.98 * t) * (across / (np.linalg.norm(across, axis=1, keepdims=True) + 1e-9))[:, None]
    whole = np.concatenate([spine - half, (spine + half)[:, ::-1]], 1)  # (n, 20, 2)
    middle = np.concatenate([spine - 0.6 * half, (spine + 0.2 * half)[:, ::-1]], 1)
    tones = np.clip(np.asarray(colour) + rng.normal(0, 9, (len(roots), 3)), 0, 255)
    for outer, inner, tone in zip(whole, middle, tones, strict=True):
        canvas.polygon(outer, tuple((0.7 * tone).astype(int).tolist()))
        canvas.polygon(inner, tuple(tone.astype(int).tolist()))


def grass(canvas: Canvas, rng: np.random.Generator, most: int = 9, widest: float = 0.028) -> None:
    """Long leaves from one root."""
    count, height = int(rng.integers(2, most)), rng.uniform(0.35, 1.0)
    roots = np.array([rng.random(), rng.uniform(0.9, 1.08)]) + rng.normal(0, (0.025, 0.005), (count, 2))
    tips = roots + np.stack([rng.normal(0, 0.12, count), -height * rng.uniform(0.6, 1, count)], 1)
    width = rng.uniform(0.006, widest)
    blades(canvas, rng, roots, tips, rng.normal(0, 0.15, count), width, vary(rng, pick(rng, LEAVES)))


def stem(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plant with leaves in pairs."""
    root, height = np.array([rng.random(), rng.uniform(0.9, 1.08)]), rng.uniform(0.35, 1.0)
    middle, top = (root - np.array([rng.normal(0, 0.06), share * height]) for share in (0.5, 1.0))
    at = np.repeat(curve([root, middle, top], 13)[1:], 2, axis=0)  # (24, 2)
    side = np.tile([-1.0, 1.0], 12)
    length = rng.uniform(0.05, 0.13) * np.linspace(1.1, 0.6, 24)
    tips = at + np.stack([side * length, rng.uniform(-0.07, 0.01, 24)], 1)
    blades(canvas, rng, at, tips, 0.15 * side, rng.uniform(0.01, 0.03), vary(rng, pick(rng, LEAVES)))


def anemone(canvas: Canvas, rng: np.random.Generator) -> None:
    """A tuft of soft arms, often orange: the colour of a fish must turn up without the fish."""
    count, reach, width = int(rng.integers(14, 26)), rng.uniform(0.15, 0.42), rng.uniform(0.012, 0.026)
    angle = np.linspace(0.15, pi - 0.15, count) + rng.normal(0, 0.06, count)
    colour, centre = vary(rng, pick(rng, CORALS), 18), np.array([rng.random(), rng.uniform(0.85, 1.1)])
    roots = centre + 0.45 * reach * np.stack([np.cos(angle), 0 * angle], 1)
    tips = centre + reach * rng.uniform(0.6, 1, (count, 1)) * np.stack([np.cos(angle), -np.sin(angle)], 1)
    blades(canvas, rng, roots, tips, rng.normal(0, 0.12, count), width, colour)
    for x, y in tips.tolist():
        canvas.ellipse(x, y, 0.8 * width, 0.8 * width, fill=mix(colour, WHITE, 0.35))


def rock(canvas: Canvas, rng: np.random.Generator) -> None:
    """A boulder, lit from above by lighter shapes laid one on another."""
    centre, radius = np.array([rng.random(), rng.uniform(0.75, 1.05)]), rng.uniform(0.1, 0.3)
    colour = vary(rng, pick(rng, GROUNDS + CORALS), 20)
    spokes = CIRCLE[:-1:2] * (1.2, 1) * rng.uniform(0.75, 1.2, (10, 1))
    for step in range(5):
        outline = centre + spokes * radius * (1 - 0.17 * step) - (0, 0.08 * radius * step)
        canvas.polygon(curve(outline, 36, closed=True), mix(colour, BLACK, 0.6 - 0.15 * step))


def ornament(canvas: Canvas, rng: np.random.Generator) -> None:
    """A star, a striped post or a striped shell: bands and bright colours that belong to no fish."""
    x, y, r = rng.random(), rng.uniform(0.6, 0.95), rng.uniform(0.05, 0.13)
    colour, stripe = vary(rng, pick(rng, CORALS)), pick(rng, (WHITE, BLACK, (120, 60, 40)))
    form = rng.integers(3)
    if form == 0:
        spokes = CIRCLE[:-1:2] * np.where(np.arange(10) % 2, 0.45, 1.1)[:, None]
        canvas.polygon(curve((x, y) + r * spokes, 40, closed=True), colour)
    elif form == 1:
        for i in range(6):
            foot, top = y + 0.4 * r * (3 - i), y + 0.4 * r * (2 - i)
            corners = np.array([(x - 0.4 * r, foot), (x + 0.4 * r, foot), (x + 0.4 * r, top), (x - 0.4 * r, top)])
            canvas.polygon(corners, stripe if i % 2 else colour)
    else:
        for i in range(6):
            fill = stripe if i % 2 else colour
            canvas.ellipse(x + 0.13 * i * r, y, r * (1.2 - 0.19 * i), r * (1 - 0.15 * i), fill=fill)


def ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sand or gravel along the bottom edge."""
    level, grain = 1 - rng.uniform(0.08, 0.32), rng.uniform(0.006, 0.028)
    colour = vary(rng, pick(rng, GROUNDS))
    ridge = curve(np.stack([np.linspace(-0.05, 1.05, 6), level + rng.normal(0, 0.025, 6)], 1), 40)
    canvas.polygon(np.vstack([ridge, [(1.1, 1.1), (-0.1, 1.1)]]), colour)
    shades = [mix(colour, to, share) for to in (BLACK, WHITE) for share in (0.1, 0.2, 0.3, 0.4)]
    for depth, x, radius, tone in sorted(rng.random((80, 4)).tolist()):  # the near ones last, and larger
        r = grain * (0.5 + radius) * (0.6 + depth)
        canvas.ellipse(x, level + 0.02 + depth * (1 - level), 1.4 * r, r, fill=shades[int(8 * tone)])


def bubbles(canvas: Canvas, rng: np.random.Generator) -> None:
    """A string of bubbles that rises from somewhere."""
    x, y = rng.random(), rng.uniform(0.3, 1.0)
    for _ in range(int(rng.integers(2, 9))):
        x, y, r = x + rng.normal(0, 0.015), y - rng.uniform(0.03, 0.1), rng.uniform(0.004, 0.018)
        canvas.ellipse(x, y, r, r, outline=(215, 235, 240))
        canvas.ellipse(x - 0.4 * r, y - 0.4 * r, 0.25 * r, 0.25 * r, fill=(250, 255, 255))


def backdrop(rng: np.random.Generator, pixels: int) -> Image.Image:
    """Everything behind the fish, sharp: from nearly empty water to a crowded tank or reef."""
    image = water(rng, pixels)
    canvas = Canvas(image)
    crowd = rng.uniform(0.1, 0.6)
    for thing, most in ((rock, 3), (grass, 3), (stem, 3), (anemone, 3)):
        for _ in range(int(rng.binomial(most, crowd))):
            thing(canvas, rng)
    for thing, chance in ((ground, 0.7), (anemone, 0.35), (ornament, 0.4), (bubbles, 0.5)):
        if rng.random() < chance:
            thing(canvas, rng)
    return image


def foreground(rng: np.random.Generator, pixels: int) -> Image.Image | None:
    """A transparent layer with what hides part of the fish, or None where nothing does."""
    if rng.random() < 0.5:
        return None
    layer = Image.new("RGBA", (pixels, pixels))
    for _ in range(int(rng.integers(1, 3))):
        grass(Canvas(layer), rng, most=4, widest=0.016)
    if rng.random() < 0.5:
        bubbles(Canvas(layer), rng)
    return layer


def light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Haze, a gradient, caustics and a colour cast over a picture (size, size, 3), float32 of 0..255."""
    size = len(image)
    haze, murk = rng.uniform(0, 0.2), np.asarray(pick(rng, WATERS)[0], dtype=np.float32)
    angle, strength = rng.uniform(0, 2 * pi), rng.uniform(0, 0.35)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    gain = 1 + strength * (cos(angle) * along[None, :] - sin(angle) * along[:, None])
    if rng.random() < 0.4:  # sunlight that ripples focus into a bright net, fainter towards the bottom
        net = np.exp(-6 * np.abs(cloud(rng, int(rng.integers(6, 14)), size)))
        gain += rng.uniform(0.1, 0.4) * net * (0.75 - 0.25 * along[:, None])
    cast = (rng.uniform(0.86, 1.1, 3) * rng.uniform(0.75, 1.2)).astype(np.float32)
    return (image + haze * (murk - image)) * (gain[..., None] * cast)


def camera(rng: np.random.Generator, image: np.ndarray) -> Image.Image:
    """What the camera adds to a picture (size, size, 3): a little blur, then noise."""
    blur, noise = max(0.0, rng.normal(0.2, 0.3)) * len(image) / 128, rng.uniform(0, 5)
    soft = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    grain = noise * rng.standard_normal(image.shape, dtype=np.float32)
    return Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))
