"""How a folder of photos is understood: one folder per class, or a tree to train on beside one to test on."""

from pathlib import Path

from .errors import DataError
from .files import show
from .preprocessing.scan import class_folders

TRAIN_NAMES = ("train", "training", "entrenamiento")
TEST_NAMES = ("test", "testing", "testeo", "validation", "valid", "val")
NAMES_WANTED = "if they are not classes, call the one to train on `train` and the one to test on `test`"


def train_and_test_folders(data: Path) -> tuple[Path, Path | None]:
    """The folder that holds the training classes, and that of the test classes where there is one.

    Raises DataError if `data` is no folder, holds none, or holds trees by other names.
    """
    training, test = _child(data, TRAIN_NAMES), _child(data, TEST_NAMES)
    if training and (test or _folders(training)):  # else `train` is a class, beside `car` and `bus`
        return training, test
    inside = [_folders(data / name) for name in _folders(data)]
    if len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        raise DataError(f"{show(data)}: its folders all hold {', '.join(map(show, inside[0][:5]))}; {NAMES_WANTED}")
    return data, None


def test_folder(data: Path) -> Path:
    """The folder that holds the test classes: one of the known names inside `data`, else `data` itself."""
    test = _child(data, TEST_NAMES)
    return test if test and _folders(test) else data


def _folders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _child(data: Path, names: tuple[str, ...]) -> Path | None:
    found = {name.lower(): data / name for name in class_folders(str(data), None)}
    return next((found[name] for name in names if name in found), None)
