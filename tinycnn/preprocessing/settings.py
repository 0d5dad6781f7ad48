"""How a file becomes the array that a network reads: settings that travel inside a model file."""

import contextlib
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from .load import COLOR_MODES, INTERPOLATIONS, MAX_PIXELS, ImagePath, check_choice, check_size, load_img, read

LARGEST_SIZE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """What `flow_from_directory` does to a file before augmentation; the arguments are those of `load_img`.

    rescale: factor on the values 0 to 255, None for none. Raises UsageError for a value that cannot be used.
    """

    target_size: tuple[int, int]
    color_mode: str = "rgb"
    interpolation: str = "nearest"
    keep_aspect_ratio: bool = False
    rescale: float | None = None
    apply_exif: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_size", check_size(self.target_size, LARGEST_SIZE))
        check_choice("color_mode", self.color_mode, COLOR_MODES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        object.__setattr__(self, "rescale", check_rescale(self.rescale))
        for name in ("keep_aspect_ratio", "apply_exif"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r} is not True or False")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (*self.target_size, COLOR_MODES[self.color_mode][1])

    def to_dict(self) -> dict[str, Any]:
        """The settings as what JSON can hold."""
        return asdict(self) | {"target_size": list(self.target_size)}

    @classmethod
    def from_dict(cls, settings: Any) -> "Preprocessing":
        """The settings that `to_dict` gave. Raises DataError for a missing, unknown or unusable one."""
        names = {field.name for field in fields(cls)}
        if not isinstance(settings, dict) or set(settings) != names:
            got = sorted(map(str, settings)) if isinstance(settings, dict) else type(settings).__name__
            raise DataError(f"preprocessing must hold {', '.join(sorted(names))}; it holds {got!r}")
        try:
            return cls(**settings)
        except UsageError as error:
            raise DataError(f"preprocessing: {error}") from error

    def load(self, path: ImagePath, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The file as float32 (H, W, C): the array that `flow_from_directory` yields without augmentation.

        Raises DataError as `load_img` does.
        """
        img = load_img(path, **self._arguments(), apply_exif=self.apply_exif, max_pixels=max_pixels)
        return to_float(np.asarray(img).reshape(self.image_shape), self.rescale)

    def read_uint8(self, path: ImagePath, max_pixels: int) -> np.ndarray:
        """The file as uint8 (H, W, C), not rescaled; raises whatever happens (see `load.reason`)."""
        size, rest = self.target_size, (self.apply_exif, max_pixels)
        img = read(path, self.color_mode, size, self.interpolation, self.keep_aspect_ratio, *rest)
        return np.asarray(img).reshape(self.image_shape)

    def _arguments(self) -> dict[str, Any]:
        return {
            "color_mode": self.color_mode,
            "target_size": self.target_size,
            "interpolation": self.interpolation,
            "keep_aspect_ratio": self.keep_aspect_ratio,
        }


def to_float(images: np.ndarray, rescale: float | None) -> np.ndarray:
    """Images as float32, multiplied by `rescale` if there is one."""
    x = images.astype(np.float32)
    if rescale:
        x *= np.float32(rescale)
    return x


def check_rescale(rescale: Any) -> float | None:
    """A finite factor, or None; Keras takes 0 for none too."""
    if rescale is None:
        return None
    return check_number("rescale", rescale) or None


def check_number(name: str, value: Any) -> float:
    """A finite number as a float, or UsageError."""
    with contextlib.suppress(OverflowError):
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if number and math.isfinite(float(value)):
            return float(value)
    raise UsageError(f"{name}={value!r} is not a finite number")
