"""The only shape arithmetic in the project: layers, ops and every backend's kernels ask here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

Pair = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


class ShapeError(ValueError):
    """Shapes that do not fit together; the message names them and says what would."""


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution or a pool lie on an image.

    Window (i, j) reads rows i * sh - top + a * dh for a in range(kh), columns alike; what lies outside is padding.
    """

    h: int  # image
    w: int
    kh: int  # window
    kw: int
    sh: int  # stride: from one window to the next
    sw: int
    dh: int  # dilation: from one tap to the next
    dw: int
    top: int  # padding
    bottom: int
    left: int
    right: int
    oh: int  # number of windows down and across
    ow: int

    @property
    def taps(self) -> int:
        return self.kh * self.kw

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.top, self.bottom), (self.left, self.right)


def windows(
    image: Sequence[int], kernel: Pair, strides: Pair = 1, padding: Padding = "valid", dilation: Pair = 1
) -> Windows:
    """The windows of an image of (H, W) pixels.

    `padding`: "valid" (none), "same" (as TensorFlow: ceil(size / stride) windows, the odd pixel at the bottom and
    right), one number, (vertical, horizontal), or ((top, bottom), (left, right)). Raises ShapeError.
    """
    arguments = image, kernel, strides, padding, dilation
    return (_windows if all(map(_plain, arguments)) else _windows.__wrapped__)(*arguments)  # the latter remembers none


def _plain(part) -> bool:
    """Whether a part can be remembered: 3.0 equals 3 and True equals 1, but not to what checks them."""
    kind = type(part)
    return kind is int or kind is str or (kind is tuple and all(map(_plain, part)))


@lru_cache
def _windows(image, kernel, strides, padding, dilation) -> Windows:
    h, w = image
    (kh, kw), (sh, sw) = pair(kernel, "window"), pair(strides, "strides")
    dh, dw = pair(dilation, "dilation")
    reach = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    (top, bottom), (left, right) = _pads(padding, (h, w), reach, (sh, sw))
    if max(top, bottom) >= reach[0] or max(left, right) >= reach[1]:
        raise ShapeError(f"padding {padding} is as large as the window {kh}x{kw}; use less")
    if h + top + bottom < reach[0] or w + left + right < reach[1]:
        size = f"{kh}x{kw}" if (dh, dw) == (1, 1) else f"{kh}x{kw} (dilated to {reach[0]}x{reach[1]})"
        raise ShapeError(f"window {size} is larger than its input {h}x{w}")
    oh = (h + top + bottom - reach[0]) // sh + 1
    ow = (w + left + right - reach[1]) // sw + 1
    return Windows(h, w, kh, kw, sh, sw, dh, dw, top, bottom, left, right, oh, ow)


def pair(value: Pair, name: str) -> tuple[int, int]:
    """(value, value) of one number, or the two numbers given; both at least 1."""
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(both) != 2 or not all(isinstance(v, Integral) and v >= 1 for v in both):
        raise ShapeError(f"{name} {value!r} is not one or two whole numbers of at least 1")
    return int(both[0]), int(both[1])


def _pads(padding, image, reach, strides) -> tuple[tuple[int, int], tuple[int, int]]:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        return tuple(_same(*axis) for axis in zip(image, reach, strides, strict=True))  # type: ignore[return-value]
    try:
        rows, columns = (padding, padding) if isinstance(padding, int) else padding
        top, bottom = (rows, rows) if isinstance(rows, int) else rows
        left, right = (columns, columns) if isinstance(columns, int) else columns
        if all(isinstance(p, int) and p >= 0 for p in (top, bottom, left, right)):
            return (top, bottom), (left, right)
    except (TypeError, ValueError):
        pass
    raise ShapeError(f"padding {padding!r} is not 'valid', 'same', a number, (vertical, horizontal) or two pairs")


def _same(size: int, reach: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def broadcast_axes(small: Sequence[int], large: Sequence[int]) -> tuple[int, ...]:
    """The axes of `large` along which an array of shape `small` was repeated by broadcasting."""
    added = len(large) - len(small)
    stretched = (added + i for i, size in enumerate(small) if size == 1 and large[added + i] != 1)
    return (*range(added), *stretched)
