"""Finds image files: which names count as images, which folders are classes, and in what order they come."""

import os
import sys
from pathlib import Path
from typing import Union

from ..errors import DataError, UsageError
from ..files import show

# What Keras's two generations of loaders accept, and the other formats in common use.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_images(path: Union[str, "os.PathLike[str]"]) -> list[Path]:
    """The image files in a folder and the folders below it, sorted, hidden names left out; a file stands for itself.

    Raises DataError if `path` does not exist, or is a folder without an image.
    """
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise DataError(f"{show(path)}: no such file or folder")
        return [Path(path)]
    found = [Path(file) for file in image_files(os.fsdecode(path))]
    if not found:
        raise DataError(f"{show(path)}: no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
    return found


def image_files(folder: str, follow_links: bool = False) -> list[str]:
    """The image files below a folder in Keras's order: by folder, then by name."""
    found = []
    visited = set()
    for root, folders, files in os.walk(folder, onerror=_raise, followlinks=follow_links):
        real = os.path.realpath(root)
        if real in visited:  # links can make a loop
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(root, name) for name in files if is_image_name(name)]
    return [os.path.join(root, name) for root, name in sorted(found)]


def is_image_name(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def class_folders(directory: str, classes: list[str] | None) -> list[str]:
    """The names of the class folders: those asked for, or all that are not hidden, sorted."""
    if not os.path.isdir(directory):
        raise DataError(f"{show(directory)}: " + ("not a folder" if os.path.exists(directory) else "no such folder"))
    if classes:
        return _named_classes(directory, classes)
    try:
        inside = (name for name in os.listdir(directory) if not name.startswith("."))
        names = sorted(name for name in inside if os.path.isdir(os.path.join(directory, name)))  # a circle of links: no
    except OSError as error:
        _raise(error)
    if not names:
        raise DataError(f"{show(directory)}: no class folders; put the images of each class into a folder of their own")
    _warn_of_numbers(names)
    return names


def _named_classes(directory: str, classes: list[str]) -> list[str]:
    if isinstance(classes, str) or len(set(classes)) != len(classes):
        raise UsageError(f"classes={classes!r} is not a list of different folder names")
    for name in classes:
        if not os.path.isdir(os.path.join(directory, name)):
            raise DataError(f"{show(directory)}: no folder for class {show(name)}")
    return list(classes)


def _warn_of_numbers(names: list[str]) -> None:
    if all(name.isdecimal() for name in names) and sorted(names, key=int) != names:
        order = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        print(
            f"Warning: classes are numbered in the order of their names as text: {order}; "
            "pad the names with zeros or pass classes=[...] for another order",
            file=sys.stderr,
        )


def _raise(error: OSError) -> None:
    raise DataError(f"{show(error.filename)}: {error.strerror}") from error
