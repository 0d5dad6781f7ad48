"""Reads one image file and nothing else: what is no image, is too large or would hang is refused with its reason."""

import contextlib
import functools
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import DataError, UsageError
from ..files import open_regular, show

MAX_PIXELS = 64_000_000
BYTES_PER_PIXEL, SMALL_FILE = 8, 2**26  # a file may hold so many for each allowed pixel, or so many in all
MAX_SCANS = 32  # over as many pixels as are allowed; a progressive JPEG has about ten
BLOCK = 2**20  # pixels
COLOR_MODES = {"rgb": ("RGB", 3), "rgba": ("RGBA", 4), "grayscale": ("L", 1)}  # Pillow's mode, channels
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
# Pillow knows more, among them formats that start other programs or whose decoders see little use.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF")  # AVIF last: looking for it loads every plugin

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its complaints go to stderr where nobody logs

ImagePath = Union[str, bytes, "os.PathLike[str]", io.BytesIO]


def load_img(
    path: ImagePath,
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
    *,
    apply_exif: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Read an image file (AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF or WebP) as an 8-bit Pillow image.

    color_mode: "rgb", "rgba" or "grayscale"; the table below says how an image becomes one of them.
    target_size: (height, width) to resize to, None for the file's own size.
    interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
    keep_aspect_ratio: cut the middle out in the shape of target_size before resizing, instead of distorting.
    apply_exif: turn the picture upright as its EXIF orientation says; False leaves it as stored, as Keras does.
        (TIFF and AVIF files always come upright: Pillow turns them itself.)
    max_pixels: a picture that claims more is refused before it is decoded (Pillow itself: 178,956,970).

    What is in a file           what is made of it
    alpha, transparent palette  dropped for "rgb" and "grayscale", as in Keras: a transparent pixel shows the colour
                                that the file stores for it, often black
    palette, CMYK, YCbCr, Lab   converted as Pillow does, colour profiles aside
    greyscale                   the same value in red, green and blue
    16-bit greyscale            scaled, 65535 to 255; negative or larger values stretched to fill 0 to 255
    16-bit colour               its upper 8 bits
    floats                      0 to 1 as 0 to 255, else 0 to 255 as they are, else stretched; NaN is 0
    several frames or pages     the first
    damaged metadata            left aside: it does not cost the picture
    damage in the picture       refused where the decoder notices; JPEG and BMP have no checksum, so it may not
    another suffix              the content decides, not the name

    Raises DataError, naming the file and the reason in one line, for whatever cannot be read: missing, a folder or
    device, empty, truncated, damaged, no image, an image of another format, of too many pixels, a file of more than
    8 bytes for each of max_pixels (64 MiB pass), a JPEG made of so many layers that decoding it would take minutes.
    Threads share the memory: images are decoded at once only while together they have no more than max_pixels.
    """
    check_choice("color_mode", color_mode, COLOR_MODES)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    size = None if target_size is None else check_size(target_size)
    check_whole("max_pixels", max_pixels)
    if not isinstance(path, (str, bytes, os.PathLike, io.BytesIO)):
        raise UsageError(f"path={path!r} is not a path or BytesIO")
    try:
        with pillow_warnings_hidden():
            return read(path, color_mode, size, interpolation, keep_aspect_ratio, apply_exif, max_pixels)
    except Exception as error:
        name = "image data" if isinstance(path, io.BytesIO) else show(path)
        raise DataError(f"{name}: {reason(error)}") from error


def img_to_array(img: Image.Image, data_format: str | None = None, dtype: Any = "float32") -> np.ndarray:
    """A Pillow image as an array (H, W, C) of values 0 to 255; C is 1 for greyscale."""
    check_data_format(data_format)
    x = np.asarray(img, dtype=dtype)
    if x.ndim not in (2, 3):
        raise DataError(f"an image has 2 or 3 axes, this has shape {x.shape}")
    return x.reshape(*x.shape[:2], -1)  # (H, W, C)


def array_to_img(x: Any, data_format: str | None = None, scale: bool = True, dtype: Any = "float32") -> Image.Image:
    """An array (H, W, C) with 1, 3 or 4 channels as a Pillow image.

    scale: stretch the values so that the smallest becomes 0 and the largest 255; False takes them as 0 to 255.
    One channel with values above 255 becomes a 32-bit image (mode "I"), as in Keras.
    """
    check_data_format(data_format)
    x = np.asarray(x, dtype=dtype)
    if x.ndim != 3 or x.shape[2] not in (1, 3, 4):
        raise DataError(f"an image has shape (height, width, 1, 3 or 4), not {x.shape}")
    if scale:
        x = x - x.min()
        x = x / (x.max() or 1) * 255
    if x.shape[2] == 1:
        x = x[:, :, 0]
        if x.max() > 255:
            return Image.fromarray(x.astype(np.int32))
    return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def read(
    path: ImagePath,
    color_mode: str,
    size: tuple[int, int] | None,
    interpolation: str,
    keep_aspect_ratio: bool,
    apply_exif: bool,
    max_pixels: int,
) -> Image.Image:
    """What load_img does once its arguments are checked; raises whatever happens (see `reason`)."""
    with (
        _open_file(path, max(BYTES_PER_PIXEL * max_pixels, SMALL_FILE)) as file,
        Image.open(file, formats=FORMATS) as img,
    ):
        pixels = img.width * img.height
        if pixels > max_pixels:
            raise DataError(f"{img.width}x{img.height} pixels are more than max_pixels={max_pixels} allows")
        if not pixels:
            raise DataError(f"has no pixels ({img.width}x{img.height})")
        if isinstance(img, JpegImageFile) and pixels * (scans := _scans(file)) > MAX_SCANS * max_pixels:
            raise DataError(f"a JPEG of {scans} layers of {img.width}x{img.height} pixels would take too long")
        with _decoding.room(pixels, max_pixels):
            img.load()  # before turning, which must hide no other error than damaged metadata
            if apply_exif:
                _turn_upright(img)
            result = _resize(_convert(img, COLOR_MODES[color_mode][0]), size, interpolation, keep_aspect_ratio)
            return img.copy() if result is img else result  # nothing returned may depend on the closed file


def reason(error: Exception) -> str:
    """Why a file could not be read, in one line of printable characters."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image, or none of {', '.join(FORMATS)}"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "has more pixels than Pillow agrees to decode"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return show(" ".join(text.split())[:200]) or type(error).__name__


def check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in tuple(choices):
        raise UsageError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def check_whole(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}={value!r} is not a whole number of at least 1")
    return int(value)


def check_data_format(data_format: str | None) -> None:
    if data_format not in (None, "channels_last"):
        raise UsageError(f"data_format={data_format!r}: only 'channels_last' is supported, that is (H, W, C)")


def check_size(target_size: Any, largest: int | None = None) -> tuple[int, int]:
    """(height, width) as plain integers, or UsageError."""
    if isinstance(target_size, (tuple, list)) and len(target_size) == 2:
        whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in target_size)
        if whole and min(target_size) >= 1 and (largest is None or max(target_size) <= largest):
            return int(target_size[0]), int(target_size[1])
    limit = "of at least 1" if largest is None else f"from 1 to {largest}"
    raise UsageError(f"target_size={target_size!r} is not (height, width), two whole numbers {limit}")


_warnings_lock = threading.Lock()
_warnings_users = 0
_warnings_state = contextlib.ExitStack()


@contextlib.contextmanager
def pillow_warnings_hidden() -> Iterator[None]:
    """Hide what Pillow warns of (large images, odd metadata), also where warnings are errors.

    The filters belong to the whole process, so threads share one change of them: the last to leave undoes it.
    """
    global _warnings_users
    with _warnings_lock:
        if _warnings_users == 0:
            _warnings_state.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _warnings_users += 1
    try:
        yield
    finally:
        with _warnings_lock:
            _warnings_users -= 1
            if _warnings_users == 0:
                _warnings_state.close()


class _Gate:
    """Lets threads decode at once what together fits a number of pixels, and what is larger by itself."""

    def __init__(self) -> None:
        self._changed, self._pixels = threading.Condition(), 0

    @contextlib.contextmanager
    def room(self, pixels: int, most: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= most)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


_decoding = _Gate()


def _open_file(path: ImagePath, most: int) -> BinaryIO:
    if isinstance(path, io.BytesIO):
        return io.BytesIO(path.getvalue())  # the caller's position stays
    if Path(os.fsdecode(path)).is_dir():
        raise DataError("is a folder, not an image file")
    return open(path, "rb", opener=functools.partial(open_regular, most=most))


def _scans(file: BinaryIO) -> int:
    """How many times a JPEG goes over its picture: each layer begins with a mark that image data cannot hold."""
    position = file.tell()
    file.seek(0)
    count, before = 0, b""
    while chunk := file.read(2**20):
        count += (before + chunk).count(b"\xff\xda")
        before = chunk[-1:]
    file.seek(position)
    return count


def _turn_upright(img: Image.Image) -> None:
    with contextlib.suppress(Exception):  # damaged metadata: the picture itself is sound
        ImageOps.exif_transpose(img, in_place=True)


def _convert(img: Image.Image, mode: str) -> Image.Image:
    if img.mode == "F" or img.mode.startswith("I"):
        img = _to_8_bits(img)
    if img.mode == "P" and "transparency" in img.info:
        img = img.convert("RGBA")  # Pillow's advice for palettes with transparency
    return img if img.mode == mode else img.convert(mode)


def _to_8_bits(img: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits: whole numbers count as 16-bit, floats as 0 to 1, or as 0 to 255.

    Values outside such a range are stretched to fill 0 to 255.
    """
    ends = [(x.min(), x.max()) for _, x in _blocks(img)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    top = 65535.0 if img.mode != "F" else 1.0 if high <= 1 else 255.0
    low, top = (low, high - low) if low < 0 or high > top else (0.0, top)
    result = Image.new("L", img.size)
    for start, x in _blocks(img):
        result.paste(Image.fromarray(((x - low) / top * 255 + 0.5).astype(np.uint8)), (0, start))
    return result


def _blocks(img: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Some rows at a time, which take less memory: the number of the first, and their values as float64."""
    rows = max(1, BLOCK // img.width)
    for start in range(0, img.height, rows):
        x = np.asarray(img.crop((0, start, img.width, min(start + rows, img.height))))
        yield start, np.nan_to_num(x).astype(np.float64)  # infinity becomes the largest float32


def _resize(img: Image.Image, size: tuple[int, int] | None, interpolation: str, keep_aspect_ratio: bool) -> Image.Image:
    if size is None or img.size == (size[1], size[0]):
        return img
    height, width = size
    box = None
    if keep_aspect_ratio:
        cut_height = min(img.height, max(1, img.width * height // width))
        cut_width = min(img.width, max(1, img.height * width // height))
        top, left = (img.height - cut_height) // 2, (img.width - cut_width) // 2
        box = (left, top, left + cut_width, top + cut_height)
    return img.resize((width, height), INTERPOLATIONS[interpolation], box)
