"""Endless streams of batches with random access: any batch can be made at any time, in any thread, the same."""

import hashlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from ..backend import Backend, current
from ..errors import DataError, UsageError
from ..files import show
from ..random import generator as random_generator
from .augment import DRAWS, Changes
from .decode import decode_files
from .load import MAX_PIXELS, check_choice, check_whole
from .scan import IMAGE_SUFFIXES, class_folders, image_files
from .settings import Preprocessing

if TYPE_CHECKING:
    from .generator import ImageDataGenerator

CLASS_MODES = ("categorical", "binary", "sparse", "input", None)


class Iterator:
    """Batches of `n` samples, pass after pass without end; the base of the two iterators below.

    `batch(number)` is the heart: batch `number` of the stream belongs to pass `number // len(self)`. The order of a
    pass and the random change of a sample depend on nothing but (seed, pass, sample). seed=None counts as 0, so that
    the same program draws the same numbers. len(self) is the number of batches in a pass; the last may be smaller.
    """

    prepares_ahead = True  # `fit` may ask for the next batch in another thread while it trains on this one
    image_shape: tuple[int, ...]

    def __init__(
        self, n: int, image_data_generator: "ImageDataGenerator", batch_size: int, shuffle: bool, seed: int | None
    ) -> None:
        if seed is not None and not isinstance(seed, (int, np.integer)):
            raise UsageError(f"seed={seed!r} is not a whole number or None")
        self.n = self.samples = n
        self.batch_size = check_whole("batch_size", batch_size)
        self.shuffle = bool(shuffle)
        self.seed = seed
        self.image_data_generator = image_data_generator
        self._position = 0  # number of the batch that comes next
        self._lock = threading.Lock()
        self._pass: _Pass | None = None  # the last that a batch was asked of

    def batch(self, number: int) -> Any:
        """Batch `number` of the stream, counted from 0: (x, y), or x alone where there are no labels."""
        if number < 0:
            raise UsageError(f"batch {number}: batches are counted from 0")
        in_pass, index = divmod(int(number), len(self))
        here = self._this_pass(in_pass)
        batch = slice(index * self.batch_size, (index + 1) * self.batch_size)
        images = here.home.rows(here.images, here.rows[batch])
        changes = here.changes and here.changes.of(batch)
        return self._labelled(self.image_data_generator.prepare(images, changes), here.order[batch])

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        """Batch `index` of the current pass."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of a pass of {len(self)} batches")
        return self.batch(self._position // len(self) * len(self) + index % len(self))

    def __iter__(self) -> "Iterator":
        return self

    def __next__(self) -> Any:
        with self._lock:
            number = self._position
            self._position += 1
        return self.batch(number)

    def reset(self) -> None:
        """Let the next batch be the first of a pass: where a pass has begun, the rest of it is left out."""
        with self._lock:
            self._position = -(-self._position // len(self)) * len(self)

    def on_epoch_end(self) -> None:
        """Begin the next pass."""
        with self._lock:
            self._position = (self._position // len(self) + 1) * len(self)

    def _this_pass(self, number: int) -> "_Pass":
        home, known = current(), self._pass
        if known and (known.number, known.home) == (number, home):
            return known
        images, rows = self._source()
        stored = known.images if known and known.home is home else home.stored(images)
        order = np.arange(self.n)
        if self.shuffle:
            order = random_generator(self.seed or 0, "shuffle", number).permutation(self.n)
        rows = home.asarray(rows[order]) if home.holds(stored) else rows[order]
        here = self._pass = _Pass(number, home, stored, order, rows, self._pass_changes(number, order, home))
        return here

    def _pass_changes(self, number: int, order: np.ndarray, home: Backend) -> Changes | None:
        if not self.image_data_generator.augments:
            return None
        draws = random_generator(self.seed or 0, "augment", number).random((self.n, DRAWS))  # a row for each sample
        changes = self.image_data_generator.changes(draws[order], self.image_shape)
        return changes if changes.matrices is None else changes._replace(matrices=home.stored(changes.matrices))

    def _source(self) -> tuple[np.ndarray, np.ndarray]:
        """All images (ROWS, H, W, C), and the row of each sample (N,)."""
        raise NotImplementedError

    def _labelled(self, x: np.ndarray, samples: np.ndarray) -> Any:
        """The finished batch with its labels."""
        raise NotImplementedError


class _Pass(NamedTuple):
    """What the batches of a pass are cut from; a GPU keeps images, rows and maps in its own memory."""

    number: int
    home: Backend
    images: Any  # (ROWS, H, W, C)
    order: np.ndarray  # of the samples (N,)
    rows: Any  # those of the images, in that order (N,)
    changes: Changes | None  # in that order


class DirectoryIterator(Iterator):
    """Batches from a folder that holds one folder per class.

    x is (N, height, width, channels) in the generator's dtype; y depends on class_mode: "categorical" one-hot
    float32 (N, classes), "binary" float32 (N,) of 0 and 1, "sparse" int32 (N,), "input" the images x, None no y.
    classes: names of the class folders in their order; None takes all, sorted. follow_links: also look behind links
    to folders. subset: "training" or "validation", by the generator's validation_split.

    Every image is decoded once, and kept as uint8 in memory, or above 2 GiB in a temporary file (TMPDIR says where).
    Files that cannot be read are left out and listed in `skipped` as (path, reason); strict=True raises instead.

    Raises DataError: no such folder, no class folder, a class without a readable image, no image, not two classes
    for "binary", no room for the decoded images. Raises UsageError for an argument that cannot be used.
    """

    def __init__(
        self,
        directory: Union[str, "os.PathLike[str]"],
        image_data_generator: "ImageDataGenerator",
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
    ) -> None:
        check_choice("class_mode", class_mode, CLASS_MODES)
        check_whole("max_pixels", max_pixels)
        split = _split(subset, image_data_generator.validation_split)
        rescale = image_data_generator.rescale
        self._settings = Preprocessing(target_size, color_mode, interpolation, keep_aspect_ratio, rescale, apply_exif)
        super().__init__(0, image_data_generator, batch_size, shuffle, seed)
        self.directory = os.fsdecode(directory)
        self.class_mode = class_mode
        self.target_size, self.image_shape = self._settings.target_size, self._settings.image_shape
        names = class_folders(self.directory, classes)
        self.num_classes, self.class_indices = len(names), {name: i for i, name in enumerate(names)}
        if class_mode == "binary" and len(names) != 2:
            found = ", ".join(map(show, names[:5])) + (", ..." if len(names) > 5 else "")
            raise DataError(f"{show(directory)}: class_mode='binary' needs 2 classes, found {len(names)}: {found}")
        self._read(*self._list(names, split, follow_links), max_pixels, strict, progress)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What turns a file into the array that this iterator yields without augmentation, for a model file.

        None if the generator has a preprocessing_function or samplewise normalisation, which a file cannot carry.
        """
        return self._settings if self.image_data_generator.only_rescales else None

    def fingerprints(self) -> list[tuple[str, str, int]]:
        """Of each image: a hash of its pixels, its path, the number of its class; what decides what is learned."""
        pixels = (hashlib.blake2b(self._cache[row], digest_size=8).hexdigest() for row in self._rows)
        folder = os.path.basename(os.path.abspath(self.directory))
        paths = (os.path.join(folder, name) for name in self.filenames)
        return list(zip(pixels, paths, map(int, self.classes), strict=True))

    def _list(self, names: list[str], split: Any, follow_links: bool) -> tuple[list[str], np.ndarray]:
        """The files of this subset and their classes (N,), in Keras's order: class after class, each sorted."""
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            folder = os.path.join(self.directory, name)
            files = image_files(folder, follow_links)
            if not files:
                raise DataError(f"{show(folder)}: class without an image ({', '.join(IMAGE_SUFFIXES)})")
            files = files[int(split[0] * len(files)) : int(split[1] * len(files))]
            paths += files
            labels += [label] * len(files)
        if not paths:
            raise DataError(f"{show(self.directory)}: too few images for this validation_split: the subset is empty")
        return paths, np.array(labels, np.int32)

    def _read(self, paths: list[str], labels: np.ndarray, max_pixels: int, strict: bool, progress: bool | None) -> None:
        self._cache, failed = decode_files(paths, self._settings, max_pixels, progress)
        self.skipped = [(paths[i], why) for i, why in failed.items()]
        if strict and failed:
            path, why = self.skipped[0]
            raise DataError(f"{show(path)}: {why} (the first of {len(failed)} unreadable of {len(paths)} files)")
        self._rows = np.setdiff1d(np.arange(len(paths)), list(failed))
        self.classes = self.labels = labels[self._rows]
        for name, label in self.class_indices.items():
            if label in labels and label not in self.labels:
                path, why = next(s for s, i in zip(self.skipped, failed, strict=True) if labels[i] == label)
                folder = show(os.path.join(self.directory, name))
                raise DataError(f"{folder}: class without a readable image; {show(os.path.basename(path))}: {why}")
        self.filepaths = [paths[i] for i in self._rows]
        self.filenames = [os.path.relpath(path, self.directory) for path in self.filepaths]
        self.n = self.samples = len(self._rows)
        print(f"Found {self.n} images belonging to {self.num_classes} classes.")
        if failed:
            print(self._skipped_line(), file=sys.stderr)

    def _skipped_line(self) -> str:
        shown = "; ".join(f"{show(os.path.relpath(p, self.directory))}: {why}" for p, why in self.skipped[:3])
        more = f"; and {len(self.skipped) - 3} more (see .skipped)" if len(self.skipped) > 3 else ""
        return f"Skipped {len(self.skipped)} unreadable file{'s' if len(self.skipped) > 1 else ''}: {shown}{more}"

    def _source(self) -> tuple[np.ndarray, np.ndarray]:
        return self._cache, self._rows

    def _labelled(self, x: np.ndarray, samples: np.ndarray) -> Any:
        if self.class_mode is None:
            return x
        if self.class_mode == "input":
            return x, x.copy()
        labels = self.classes[samples]
        if self.class_mode == "binary":
            return x, labels.astype(np.float32)
        return x, labels if self.class_mode == "sparse" else np.eye(self.num_classes, dtype=np.float32)[labels]


class NumpyArrayIterator(Iterator):
    """Batches of an array of images (N, H, W, C), with the labels y (N, ...) if there are any.

    uint8 images are kept as they are, others as float32. subset: "training" or "validation": the rest, or the first
    part, of the arrays in their order, by the generator's validation_split. Raises DataError for arrays that do not
    fit, or subsets that do not hold the same labels (ignore_class_split=True lets them pass).
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        image_data_generator: "ImageDataGenerator",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        subset: str | None = None,
        ignore_class_split: bool = False,
    ) -> None:
        x, y = np.asarray(x), None if y is None else np.asarray(y)
        if x.ndim != 4 or not x.size:
            raise DataError(f"images must be an array (N, height, width, channels) with at least one, not {x.shape}")
        if y is not None and (y.ndim == 0 or len(y) != len(x)):
            raise DataError(f"{len(x)} images do not fit labels of shape {y.shape}")
        if subset is not None:
            x, y = _subset(x, y, _split(subset, image_data_generator.validation_split), ignore_class_split)
        super().__init__(len(x), image_data_generator, batch_size, shuffle, seed)
        self.x = x if x.dtype == np.uint8 else x.astype(np.float32, copy=False)
        self.y = y
        self.image_shape = x.shape[1:]

    def _source(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x, np.arange(self.n)

    def _labelled(self, x: np.ndarray, samples: np.ndarray) -> Any:
        return x if self.y is None else (x, self.y[samples])


def _split(subset: str | None, share: float) -> tuple[float, float]:
    """Which part of a sorted list belongs to a subset, as fractions."""
    check_choice("subset", subset, ("training", "validation", None))
    if subset is None:
        return 0.0, 1.0
    if not share:
        raise UsageError(f"subset={subset!r} needs ImageDataGenerator(validation_split=...)")
    return (0.0, share) if subset == "validation" else (share, 1.0)


def _subset(x: np.ndarray, y: np.ndarray | None, split: Sequence[float], ignore_class_split: bool) -> tuple[Any, Any]:
    at = int(len(x) * (split[0] or split[1]))
    if y is not None and not ignore_class_split and not np.array_equal(np.unique(y[:at]), np.unique(y[at:])):
        raise DataError("training and validation subsets hold different labels: shuffle the arrays before splitting")
    part = slice(at, None) if split[0] else slice(at)
    if not len(x[part]):
        raise DataError(f"{len(x)} images are too few for this validation_split: the subset is empty")
    return x[part], None if y is None else y[part]
