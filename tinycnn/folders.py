"""How a folder of photos is understood: one folder per class, or a tree to train on beside one to test on."""

from pathlib import Path

from .preprocessing.scan import class_folders

TRAIN_NAMES = ("train", "training", "entrenamiento")
TEST_NAMES = ("test", "testing", "testeo", "validation", "valid", "val")


def train_and_test_folders(data: Path) -> tuple[Path, Path | None]:
    """The folder that holds the training classes, and that of the test classes where there is one.

    Raises DataError if `data` is no folder, or holds none.
    """
    training = _child(data, TRAIN_NAMES)
    return (training, _child(data, TEST_NAMES)) if training else (data, None)


def test_folder(data: Path) -> Path:
    """The folder that holds the test classes: one of the known names inside `data`, else `data` itself."""
    return _child(data, TEST_NAMES) or data


def _child(data: Path, names: tuple[str, ...]) -> Path | None:
    found = {name.lower(): data / name for name in class_folders(str(data), None)}
    return next((found[name] for name in names if name in found), None)
