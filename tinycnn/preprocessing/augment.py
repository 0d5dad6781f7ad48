"""Random changes of training images: their parameters, the affine maps these make, and the changes of colour.

A transformation is a dictionary of Keras's parameters: theta and shear in degrees, tx and ty in pixels to the right and
down that each output pixel looks, zx and zy as sizes of the area shown (below 1: nearer), flips, channel shift
intensity, brightness.
"""

from typing import Any, NamedTuple

import numpy as np

DRAWS = 10  # uniform numbers that one transformation takes, each always for the same parameter
FILL_MODES = ("nearest", "constant", "reflect", "wrap")


class Changes(NamedTuple):
    """How samples (N) are changed, each part None where nothing of it changes: see `affine_matrices` and below."""

    matrices: Any  # (N, 2, 3), where a backend reads them fastest
    intensity: np.ndarray | None  # (N,)
    brightness: np.ndarray | None  # (N,)

    def of(self, samples: slice | int) -> "Changes":
        """Those of some of the samples."""
        return Changes(*(None if part is None else part[samples] for part in self))


def affine_matrices(parameters: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Where each output pixel looks: (row, column, 1) -> (row, column) of the input, (2, 3) or (N, 2, 3) float64.

    Rotation, shift, shear and zoom act around the middle of the image in Keras's order, and flips come last.
    Keras takes height for width when it looks for the middle, so that only square images turn around theirs.
    """
    get = parameters.get
    theta, shear = np.deg2rad(get("theta", 0.0)), np.deg2rad(get("shear", 0.0))
    cos, sin = np.cos(theta), np.sin(theta)
    middle = (height - 1) / 2, (width - 1) / 2
    up_down, left_right = np.asarray(get("flip_vertical", False)), np.asarray(get("flip_horizontal", False))
    steps = (
        _matrix(1, 0, middle[0], 0, 1, middle[1]),
        _matrix(cos, sin, 0, -sin, cos, 0),
        _matrix(1, 0, get("ty", 0), 0, 1, get("tx", 0)),
        _matrix(np.cos(shear), 0, 0, -np.sin(shear), 1, 0),
        _matrix(get("zy", 1), 0, 0, 0, get("zx", 1), 0),
        _matrix(1, 0, -middle[0], 0, 1, -middle[1]),
        _matrix(1 - 2 * up_down, 0, up_down * (height - 1), 0, 1 - 2 * left_right, left_right * (width - 1)),
    )
    product = steps[0]
    for step in steps[1:]:
        product = product @ step
    return product[..., :2, :]


def _matrix(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> np.ndarray:
    """[[a, b, c], [d, e, f], [0, 0, 1]], or a stack of them where the entries are arrays."""
    entries = np.stack(np.broadcast_arrays(a, b, c, d, e, f, 0.0, 0.0, 1.0), axis=-1)
    return entries.reshape(*entries.shape[:-1], 3, 3)  # (3, 3) or (N, 3, 3)


def draw_shift(u: np.ndarray, choices: Any, size: int) -> np.ndarray:
    """Shifts in pixels from uniform numbers: `choices` is a float (within plus or minus), or whole or listed values.

    As in Keras, a whole number n means 0 to n - 1 pixels either way, a list its members either way, and amounts
    below 1 are fractions of `size`.
    """
    if isinstance(choices, float):
        shift = (2 * u - 1) * choices
    else:
        values = np.arange(choices) if isinstance(choices, int) else np.asarray(choices)
        shift = np.concatenate([values, -values])[(u * 2 * len(values)).astype(np.int64)]
    return shift * size if np.max(choices) < 1 else shift


def shift_channels(x: np.ndarray, intensity: float) -> np.ndarray:
    """Add `intensity` to every value of an image, keeping to the range that it had."""
    return np.clip(x + np.float32(intensity), x.min(), x.max())


def brighten(x: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the colours of a float32 image (H, W, C), but not its transparency, in whole steps from 0 to 255.

    An image with values outside 0 to 255 is mapped onto that range and back, as in Keras.
    """
    low, high = x.min(), x.max()
    stretch = low < 0 or high > 255
    if stretch:
        x = (x - low) / ((high - low) or 1) * 255
    y = np.trunc(x)
    colours = y[..., :3]
    colours[...] = np.clip(np.trunc(colours * np.float32(factor)), 0, 255)
    return y / 255 * (high - low) + low if stretch else y
