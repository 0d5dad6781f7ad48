"""ImageDataGenerator: what is done to training images, with Keras's names."""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np

from .. import backend
from ..errors import DataError, UsageError
from ..random import generator as random_generator
from .augment import DRAWS, FILL_MODES, Changes, affine_matrices, brighten, draw_shift, shift_channels
from .iterators import DirectoryIterator, NumpyArrayIterator
from .load import MAX_PIXELS, check_choice, check_data_format
from .settings import check_number, check_rescale, to_float

CHANGES_AT_ONCE = 4096  # samples: what is worked out on the way takes six times the memory of the result
UNSUPPORTED = ("featurewise_center", "featurewise_std_normalization", "zca_whitening")


class ImageDataGenerator:
    """Makes batches of randomly changed and normalised images, from folders or arrays.

    rotation_range: degrees either way. shear_range: degrees either way (in Keras since 2.1.3; radians before that).
    width_shift_range, height_shift_range: a float below 1 is a fraction of the size, a larger float is pixels, an
        int n is 0 to n - 1 pixels, a list the amounts to choose from; either way.
    zoom_range: (lowest, highest) size of the area shown, or z for (1 - z, 1 + z); width and height are drawn apart.
    channel_shift_range: amount added to all values, either way. brightness_range: (lowest, highest) factor; both
        expect values from 0 to 255.
    fill_mode: what lies outside the image: "nearest", "constant" (`cval`), "reflect" or "wrap".
    preprocessing_function: called on each changed image, float32 (H, W, C), before `rescale`.
    samplewise_center: subtract each image's mean; samplewise_std_normalization: also divide by its deviation.
    validation_split: the share of each class, from the start of its file list, that `subset="validation"` yields.
        Validation images should not be changed at random: take them from a second generator that has the same
        validation_split and rescale, but no ranges.

    Draws do not depend on what was drawn before: an iterator keys them by its seed, the pass and the sample.
    Two differences from Keras: width_shift_range moves images sideways and height_shift_range up and down (Keras
    has them crossed), and images that are not square turn around their own middle.
    Raises UsageError for an argument that cannot be used.
    """

    def __init__(
        self,
        *,
        samplewise_center: bool = False,
        samplewise_std_normalization: bool = False,
        rotation_range: float = 0,
        width_shift_range: Any = 0.0,
        height_shift_range: Any = 0.0,
        brightness_range: Sequence[float] | None = None,
        shear_range: float = 0.0,
        zoom_range: float | Sequence[float] = 0.0,
        channel_shift_range: float = 0.0,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rescale: float | None = None,
        preprocessing_function: Callable[[np.ndarray], np.ndarray] | None = None,
        data_format: str | None = None,
        validation_split: float = 0.0,
        dtype: Any = None,
        **unsupported: Any,
    ) -> None:
        _refuse(unsupported)
        check_data_format(data_format)
        check_choice("fill_mode", fill_mode, FILL_MODES)
        self.samplewise_center = bool(samplewise_center or samplewise_std_normalization)
        self.samplewise_std_normalization = bool(samplewise_std_normalization)
        self.rotation_range = check_number("rotation_range", rotation_range)
        self.width_shift_range = _check_shift("width_shift_range", width_shift_range)
        self.height_shift_range = _check_shift("height_shift_range", height_shift_range)
        self.brightness_range = None if brightness_range is None else _check_pair("brightness_range", brightness_range)
        self.shear_range = check_number("shear_range", shear_range)
        self.zoom_range = _check_zoom(zoom_range)
        self.channel_shift_range = check_number("channel_shift_range", channel_shift_range)
        self.fill_mode, self.cval = fill_mode, check_number("cval", cval)
        self.horizontal_flip, self.vertical_flip = bool(horizontal_flip), bool(vertical_flip)
        self.rescale = check_rescale(rescale)
        self.preprocessing_function = preprocessing_function
        self.validation_split = check_number("validation_split", validation_split)
        if not 0 <= self.validation_split < 1:
            raise UsageError(f"validation_split={validation_split!r} is not at least 0 and less than 1")
        self.dtype = np.dtype("float32" if dtype is None else dtype)
        if self.dtype.kind != "f":
            raise UsageError(f"dtype={dtype!r} is not a type of floating-point numbers")
        self._unseeded = itertools.count()

    def flow_from_directory(
        self,
        directory: Union[str, "os.PathLike[str]"],
        target_size: tuple[int, int] = (256, 256),
        color_mode: str = "rgb",
        classes: list[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        follow_links: bool = False,
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
        apply_exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        strict: bool = False,
        progress: bool | None = None,
    ) -> DirectoryIterator:
        """Batches of the images in a folder that holds one folder per class; see `DirectoryIterator`."""
        return DirectoryIterator(
            directory,
            self,
            target_size=target_size,
            color_mode=color_mode,
            classes=classes,
            class_mode=class_mode,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            follow_links=follow_links,
            subset=subset,
            interpolation=interpolation,
            keep_aspect_ratio=keep_aspect_ratio,
            apply_exif=apply_exif,
            max_pixels=max_pixels,
            strict=strict,
            progress=progress,
        )

    def flow(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        subset: str | None = None,
        ignore_class_split: bool = False,
    ) -> NumpyArrayIterator:
        """Batches of images (N, H, W, C) and, if given, their labels; see `NumpyArrayIterator`."""
        return NumpyArrayIterator(
            x, y, self, batch_size, shuffle, seed, subset=subset, ignore_class_split=ignore_class_split
        )

    def get_random_transform(self, img_shape: Sequence[int], seed: int | None = None) -> dict[str, Any]:
        """Draw the parameters of one transformation of an image (H, W, C).

        Without a seed, each call continues this generator's own series, which is the same in every program.
        """
        key = ("transform", next(self._unseeded)) if seed is None else ("seeded transform",)
        u = random_generator(seed or 0, *key).random(DRAWS)
        drawn = self._parameters(u, img_shape)
        return {name: None if value is None else value.item() for name, value in drawn.items()}

    def apply_transform(self, x: np.ndarray, transform_parameters: dict[str, Any]) -> np.ndarray:
        """Change one image (H, W, C) as the parameters say, all of which may be left out; not rescaled."""
        x = np.asarray(x)
        if x.ndim != 3:
            raise DataError(f"an image has shape (height, width, channels), not {x.shape}")
        matrices = affine_matrices(transform_parameters, *x.shape[:2])[None]
        y = backend.current().to_numpy(self._warp(x[None], matrices, 1.0))[0]
        intensity, brightness = (transform_parameters.get(k) for k in ("channel_shift_intensity", "brightness"))
        return self._recolour(y, intensity, brightness).astype(self.dtype, copy=False)

    def random_transform(self, x: np.ndarray, seed: int | None = None) -> np.ndarray:
        """Change one image (H, W, C) at random; not rescaled."""
        return self.apply_transform(x, self.get_random_transform(np.shape(x), seed))

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Apply preprocessing_function, rescale and samplewise normalisation to one image, in place where it can."""
        if self.preprocessing_function:
            x = np.asarray(self.preprocessing_function(x))
        if self.rescale:
            x *= self.rescale
        if self.samplewise_center:
            x -= x.mean()
        if self.samplewise_std_normalization:
            x /= x.std() + 1e-6
        return x

    @property
    def augments(self) -> bool:
        """Whether batches differ from pass to pass."""
        return self._moves or self._recolours

    @property
    def only_rescales(self) -> bool:
        """Whether normalisation is `rescale` alone, which is all that `Preprocessing` can carry in a model file."""
        return self.preprocessing_function is None and not self.samplewise_center

    def changes(self, uniforms: np.ndarray, shape: Sequence[int]) -> Changes:
        """The changes that (N, 10) uniform numbers make of N images (H, W, C)."""
        parts = np.array_split(uniforms, -(-len(uniforms) // CHANGES_AT_ONCE))
        drawn = [self._parameters(part, shape) for part in parts]
        matrices = np.concatenate([affine_matrices(part, *shape[:2]) for part in drawn]) if self._moves else None
        colours = (np.concatenate([part[name] for part in drawn]) if wanted else None
                   for name, wanted in (("channel_shift_intensity", self.channel_shift_range),
                                        ("brightness", self.brightness_range)))  # fmt: skip
        return Changes(matrices, *colours)

    def prepare(self, images: np.ndarray, changes: Changes | None = None) -> np.ndarray:
        """A batch (N, H, W, C) as the network reads it: changed, and normalised."""
        simple = self.only_rescales and not (self._recolours and changes is not None)
        rescale = self.rescale if simple else None
        if changes is not None and changes.matrices is not None:
            x = self._warp(images, changes.matrices, rescale or 1.0)
        else:
            x = to_float(images, rescale)
        if not simple:
            x = backend.current().to_numpy(x)  # a user's function, and what works on a sample alone, know NumPy
            for i in range(len(x)):
                x[i] = self.standardize(x[i] if changes is None else self._recolour(x[i], *changes.of(i)[1:]))
        return x.astype(self.dtype, copy=False)

    @property
    def _moves(self) -> bool:
        ranges = (self.rotation_range, self.width_shift_range, self.height_shift_range, self.shear_range)
        flips = self.horizontal_flip or self.vertical_flip
        return flips or self.zoom_range != (1.0, 1.0) or any(np.any(r) for r in ranges)

    @property
    def _recolours(self) -> bool:
        return bool(self.channel_shift_range) or self.brightness_range is not None

    def _parameters(self, u: np.ndarray, shape: Sequence[int]) -> dict[str, Any]:
        """Transformations from uniform numbers (10,) or (N, 10): a dictionary of scalars or of arrays (N,)."""
        u = np.moveaxis(u, -1, 0)
        low, high = self.zoom_range
        either_way = 2 * u - 1
        dark, bright = self.brightness_range or (1.0, 1.0)
        return {
            "theta": either_way[0] * self.rotation_range,
            "tx": draw_shift(u[1], self.width_shift_range, shape[1]),
            "ty": draw_shift(u[2], self.height_shift_range, shape[0]),
            "shear": either_way[3] * self.shear_range,
            "zx": low + u[4] * (high - low),
            "zy": low + u[5] * (high - low),
            "flip_horizontal": (u[6] < 0.5) & self.horizontal_flip,
            "flip_vertical": (u[7] < 0.5) & self.vertical_flip,
            "channel_shift_intensity": either_way[8] * self.channel_shift_range if self.channel_shift_range else None,
            "brightness": dark + u[9] * (bright - dark) if self.brightness_range else None,
        }

    def _warp(self, images: np.ndarray, matrices: np.ndarray, scale: float) -> np.ndarray:
        if images.dtype != np.uint8:
            images = images.astype(np.float32, copy=False)
        home = backend.current()
        return home.warp(home.asarray(images), matrices, self.fill_mode, self.cval, scale)

    @staticmethod
    def _recolour(x: np.ndarray, intensity: Any, brightness: Any) -> np.ndarray:
        if intensity is not None:
            x = shift_channels(x, intensity)
        return x if brightness is None else brighten(x, brightness)


def _refuse(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name == "interpolation_order" and value == 1:
            continue  # the only order there is
        if name in UNSUPPORTED and not value:
            continue
        known = name in (*UNSUPPORTED, "zca_epsilon", "interpolation_order")
        hint = "; use samplewise_center, or normalise in preprocessing_function" if name in UNSUPPORTED else ""
        raise UsageError(f"ImageDataGenerator: {name} is {'not supported' if known else 'no argument of it'}{hint}")


def _check_pair(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise UsageError(f"{name}={value!r} is not a pair (lowest, highest)")
    return check_number(name, value[0]), check_number(name, value[1])


def _check_zoom(value: Any) -> tuple[float, float]:
    if isinstance(value, (tuple, list)):
        low, high = _check_pair("zoom_range", value)
    else:
        z = check_number("zoom_range", value)
        low, high = 1 - z, 1 + z
    if low <= 0 or high <= 0:
        raise UsageError(f"zoom_range={value!r} reaches zero or less; sizes must be positive")
    return low, high


def _check_shift(name: str, value: Any) -> Any:
    """A float, a whole number, or an array of amounts (see draw_shift)."""
    if np.ndim(value) == 1 and len(value):
        return np.array([check_number(name, v) for v in value])
    number = check_number(name, value)
    if number < 0:
        raise UsageError(f"{name}={value!r} is negative; shifts go either way in any case")
    return int(value) if isinstance(value, (int, np.integer)) and value else number
