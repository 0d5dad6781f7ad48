"""The train command: what a run folder holds, that a seed decides it, and what bad input gets: one line, no traces."""

import csv
import html.parser
import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numba
import numpy as np
import pytest
from gpu_stand_in import importable
from PIL import Image

from tinycnn import __main__ as every_command
from tinycnn import __version__, backend, use_backend
from tinycnn.datasets import fish
from tinycnn.files import show
from tinycnn.folders import TEST_NAMES, TRAIN_NAMES
from tinycnn.layers import Dense
from tinycnn.models import load_checkpoint, load_model
from tinycnn.preprocessing.image import ImageDataGenerator
from tinycnn.snapshots import read_snapshot, snapshot_files
from tinycnn.train import fish_network, main

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--epochs", "1", "--image-size", "16", "--backend", "numpy")
RUN_FOLDER = {
    "model.safetensors", "best.safetensors", "checkpoint.safetensors", "history.csv", "config.toml", "images.txt",
    "metrics.json", "report.html", "snapshots/",
}  # fmt: skip


def names(folder: Path) -> set[str]:
    return {file.name + "/" * file.is_dir() for file in folder.iterdir()}


@pytest.fixture(scope="module", autouse=True)
def machine():
    """The command sets the backend for the whole process; the next test file gets its own back."""
    before = backend._current
    yield
    backend._current = before


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """And so it does with threads."""
    monkeypatch.setattr(backend, "_threads", backend._threads)
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def run(*arguments) -> int:
    """The exit code, whether argparse or the command itself ends."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def subprocess_run(*arguments, module="tinycnn.train", **environment):
    command, environment = command_line(*arguments, module=module), os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=100)


def command_line(*arguments, module="tinycnn.train") -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def photos(folder: Path, **counts: int) -> Path:
    """A folder with so many pictures of each class; classes differ by the distance of their stripes."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(folder / name / f"{i:02}.png", number, i)
    return folder


def picture(path: Path, number: int = 0, i: int = 0) -> None:
    rng = np.random.default_rng([number, i])
    pixels = rng.integers(0, 120, (20, 24, 3))
    pixels[:, :: number + 2] += 100
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def settings(out: Path) -> dict:
    return tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))


def weights(out: Path) -> bytes:
    """The bits of all weights: what follows the header of the model file."""
    content = (out / "model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


class Text(html.parser.HTMLParser):
    """The words of a page, and the tags it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.tags = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def finished(small_photos, tmp_path_factory) -> Path:
    """The run folder of two epochs."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(small_photos, *SMALL, "--epochs", 2, "--out", out) == 0
    return out


# What a run leaves


def test_run_folder_holds_what_help_promises(finished, capsys):
    assert names(finished) == RUN_FOLDER
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in RUN_FOLDER)


def test_files_are_readable_by_others_as_the_umask_says(finished):
    umask = os.umask(0)
    os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in finished.rglob("*.*")} == {0o666 & ~umask}


def test_snapshots_are_the_weights_before_training_and_after_every_epoch(finished, small_photos, tmp_path):
    shots = [read_snapshot(file) for file in snapshot_files(finished)]
    assert [shot.epoch for shot in shots] == [0, 1, 2]
    model = load_model(finished / "model.safetensors")
    for kept, weight in zip(shots[-1].weights, model.get_weights(), strict=True):
        assert kept.dtype == np.float16
        assert np.abs(kept - weight).max() <= 1e-3 * np.abs(weight).max()
    start = fish_network(16, 2)
    assert all(
        np.array_equal(k, w.astype(np.float16)) for k, w in zip(shots[0].weights, start.get_weights(), strict=True)
    )
    assert run(small_photos, *SMALL, "--no-snapshots", "--out", tmp_path / "run") == 0
    assert not (tmp_path / "run" / "snapshots").exists()


def test_history(finished):
    history = rows(finished / "history.csv")
    assert list(history[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert all(math.isfinite(float(value)) for row in history for value in row.values())
    assert all(0 <= float(row[name]) <= 1 for row in history for name in ("accuracy", "val_accuracy"))


def test_config_holds_every_setting(finished):
    config = settings(finished)
    assert config | {"data": 0, "tinycnn": 0} == {
        "backend": "numpy", "batch_size": 32, "classes": ["plain", "stripes"], "data": 0, "epochs": 2,
        "image_size": 16, "learning_rate": 0.001, "max_pixels": 64_000_000, "no_augment": False, "out": str(finished),
        "quiet": False, "seed": 0, "snapshots": True, "strict": False, "tf32": False, "tinycnn": 0,
        "validation_split": 0.2,
    }  # fmt: skip
    assert config["tinycnn"] == __version__
    assert Path(config["data"]).is_dir()


def test_config_holds_what_was_asked_for(tmp_path):
    data, out = photos(tmp_path / "data", a=6, b=6), tmp_path / "run"
    asked = {
        "epochs": 1, "batch-size": 3, "steps-per-epoch": 2, "learning-rate": 0.01, "seed": 2**70, "threads": 1,
        "image-size": 12, "validation-split": 0.5,
    }  # fmt: skip
    options = [word for name, value in asked.items() for word in (f"--{name}", value)]
    assert run(data, "--out", out, "--backend", "numpy", "--no-augment", "--strict", "--quiet", *options) == 0
    wanted = {name.replace("-", "_"): value for name, value in asked.items()}
    wanted |= {"no_augment": True, "strict": True, "quiet": True, "backend": "numpy", "data": str(data.resolve())}
    assert settings(out).items() >= wanted.items()


def test_no_gpu_is_one_line_and_auto_takes_the_cpu_and_says_so(tmp_path, capfd):
    data = photos(tmp_path / "data", a=6, b=6)
    with importable(None):
        assert run(data, "--out", tmp_path / "none", "--backend", "cupy") == 2
        said = capfd.readouterr().err
        assert said.startswith("tinycnn train: backend 'cupy': CuPy is not installed; ")
        assert said.count("\n") == 1
        assert not (tmp_path / "none").exists()
        assert run(data, "--out", tmp_path / "run", "--epochs", 1, "--image-size", 16, "--backend", "auto") == 0
    assert "backend numba on the CPU; run folder: " in capfd.readouterr().out


def test_metrics(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert list(metrics) == [
        "test_loss", "test_accuracy", "epochs", "images", "test_images", "skipped_images", "seconds",
        "checkpoint_seconds",
    ]  # fmt: skip
    last = rows(finished / "history.csv")[-1]
    assert (metrics["test_loss"], metrics["test_accuracy"]) == (float(last["val_loss"]), float(last["val_accuracy"]))
    assert [metrics[k] for k in ("epochs", "images", "test_images", "skipped_images")] == [2, 24, 12, 0]
    assert metrics["seconds"] > metrics["checkpoint_seconds"] > 0


def test_model_predicts_what_the_metrics_say(finished, small_photos):
    model = load_model(finished / "model.safetensors")
    assert model.class_names == ["plain", "stripes"]
    files = sorted((small_photos / "test").glob("*/*.png"))
    outputs = model.predict(np.stack([model.preprocessing.load(file) for file in files]))
    assert outputs.shape == (12, 1)
    right = [
        (output > 0.5) == (file.parent.name == "stripes") for file, output in zip(files, outputs[:, 0], strict=True)
    ]
    assert np.mean(right) == json.loads((finished / "metrics.json").read_text())["test_accuracy"]


def test_report_page(finished):
    page = Text((finished / "report.html").read_text(encoding="utf-8"))
    assert {"svg", "table", "polyline"} <= page.tags
    assert "script" not in page.tags
    assert {"plain", "stripes", "Training report"} <= set(page.words)


def prepared(data: Path, **changes) -> tuple:
    """The images as the command prepares them, through the public names."""
    flow = {"target_size": (16, 16), "class_mode": "binary", "seed": 0, "interpolation": "lanczos"} | changes
    augmented = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    test = ImageDataGenerator(rescale=1 / 255).flow_from_directory(data / "test", shuffle=False, **flow)
    return augmented.flow_from_directory(data / "train", **flow), test


def test_checkpoint_is_where_the_model_stands(finished):
    use_backend("numpy")
    model, position = load_checkpoint(finished / "checkpoint.safetensors")
    assert position.epoch == 2
    saved = load_model(finished / "model.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), saved.get_weights(), strict=True))


@pytest.mark.parametrize("steps", [None, 3])
def test_continuing_gives_the_bits_of_never_stopping(steps, small_photos, tmp_path):
    options = (small_photos, *SMALL, "--batch-size", 5, *(() if steps is None else ("--steps-per-epoch", steps)))
    assert run(*options, "--epochs", 1, "--out", tmp_path / "short") == 0
    assert run(*options, "--epochs", 3, "--out", tmp_path / "long") == 0
    assert weights(tmp_path / "short") != weights(tmp_path / "long")

    use_backend("numpy")
    model, position = load_checkpoint(tmp_path / "short" / "checkpoint.safetensors")
    training, test = prepared(small_photos, batch_size=5)
    history = model.fit(
        training, epochs=3, initial_epoch=position.epoch, steps_per_epoch=steps, validation_data=test, verbose=0
    ).history
    model.save(tmp_path / "short" / "model.safetensors")
    assert weights(tmp_path / "short") == weights(tmp_path / "long")
    for name, values in history.items():
        assert values == [float(row[name]) for row in rows(tmp_path / "long" / "history.csv")[1:]]


# What decides the result


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_seed_decides_every_bit(engine, small_photos, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        options = (*SMALL, "--backend", engine, "--seed", seed, "--batch-size", 8)
        assert run(small_photos, *options, "--out", tmp_path / name) == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "again")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")
    assert rows(tmp_path / "one" / "history.csv") == rows(tmp_path / "again" / "history.csv")


def test_seed_decides_every_byte_of_the_file(finished, small_photos, tmp_path):
    assert run(small_photos, *SMALL, "--epochs", 2, "--out", tmp_path / "run") == 0
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_threads_change_no_bit(engine, small_photos, tmp_path):
    for threads in (1, 2):
        options = (*SMALL, "--backend", engine, "--threads", threads, "--batch-size", 8, "--epochs", 2)
        assert run(small_photos, *options, "--out", tmp_path / str(threads)) == 0
    assert weights(tmp_path / "1") == weights(tmp_path / "2")


def test_another_process_gives_the_same_bits(finished, small_photos, tmp_path):
    out = tmp_path / "run"
    done = subprocess_run(
        small_photos, *SMALL, "--epochs", 2, "--out", out, PYTHONHASHSEED="7", TINYCNN_BACKEND="numba"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert weights(out) == weights(finished)


def test_steps_per_epoch(small_photos, tmp_path):
    out = tmp_path / "run"
    options = ("--epochs", 2, "--batch-size", 4, "--steps-per-epoch", 5)
    assert run(small_photos, *SMALL, *options, "--out", out) == 0
    model, _ = load_checkpoint(out / "checkpoint.safetensors")
    assert model.optimizer.iterations == 10


def test_learning_rate_reaches_the_optimizer(small_photos, tmp_path):
    assert run(small_photos, *SMALL, "--learning-rate", "0.02", "--out", tmp_path / "run") == 0
    model, _ = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert model.optimizer.get_config()["learning_rate"] == 0.02


@pytest.mark.parametrize("size", [10, 17])
def test_image_size(size, small_photos, tmp_path):
    assert run(small_photos, *SMALL, "--image-size", size, "--out", tmp_path / "run") == 0
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert model.input_shape == (size, size, 3)
    assert model.preprocessing.target_size == (size, size)


def test_no_augment_trains_on_the_pictures_as_they_are(small_photos, tmp_path):
    assert run(small_photos, *SMALL, "--no-augment", "--out", tmp_path / "run") == 0
    assert run(small_photos, *SMALL, "--out", tmp_path / "augmented") == 0
    assert weights(tmp_path / "run") != weights(tmp_path / "augmented")

    use_backend("numpy")
    training, _ = prepared(small_photos)
    training.image_data_generator = ImageDataGenerator(rescale=1 / 255)
    model = fish_network(16, 2)
    model.compile("adam", "binary_crossentropy", ["accuracy"])
    model.fit(training, verbose=0)
    trained = load_model(tmp_path / "run" / "model.safetensors").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), trained, strict=True))


def test_it_learns(small_photos, tmp_path):
    """Stripes against none is easy: an engine that learns at all gets nearly all test pictures right."""
    options = ("--epochs", 40, "--batch-size", 8, "--learning-rate", 0.001, "--image-size", 48, "--backend", "numba")
    assert run(small_photos, *SMALL, *options, "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test_accuracy"] >= 11 / 12


# How the folder of photos is understood


def test_one_tree_is_split_class_by_class(tmp_path, capsys):
    data = photos(tmp_path / "data", few=5, many=20)
    assert run(data, *SMALL, "--validation-split", 0.4, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "Found 15 images belonging to 2 classes.\nFound 10 images belonging to 2 classes.\n" in printed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["images"], metrics["test_images"]) == (15, 10)
    words = Text((tmp_path / "run" / "report.html").read_text()).words
    matrix = [int(word) for word in words[words.index("many", words.index("few") + 2) - 3 :] if word.isdecimal()]
    assert (sum(matrix[:2]), sum(matrix[2:])) == (2, 8)


@pytest.mark.parametrize("split", [str(0.01), str(0.3)])
@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [(name, "test") for name in TRAIN_NAMES] + [("train", name) for name in TEST_NAMES] + [("ENTRENAMIENTO", "Testeo")],
)
def test_two_trees(train_name, test_name, split, tmp_path, capsys):
    photos(tmp_path / "data" / train_name, a=3, b=2)
    photos(tmp_path / "data" / test_name, a=1, b=2)
    options = ("--image-size", 10, "--validation-split", split)
    assert run(tmp_path / "data", *SMALL, *options, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "Found 5 images belonging to 2 classes.\nFound 3 images belonging to 2 classes.\n" in printed


def test_the_synonyms_that_the_design_names():
    assert {"train", "training", "entrenamiento"} <= set(TRAIN_NAMES)
    assert {"test", "testing", "testeo", "validation", "valid", "val"} <= set(TEST_NAMES)


def test_three_classes_end_in_a_softmax(tmp_path):
    data, out = photos(tmp_path / "data", a=4, b=4, c=4), tmp_path / "run"
    assert run(data, *SMALL, "--validation-split", 0.5, "--out", out) == 0
    model, _ = load_checkpoint(out / "checkpoint.safetensors")
    assert isinstance(model.layers[-1], Dense)
    assert model.layers[-1].get_config()["activation"] == "softmax"
    assert model.output_shape == (3,)
    assert model.loss.name == "categorical_crossentropy"
    outputs = model.predict(np.random.default_rng(0).random((4, 16, 16, 3)))
    assert np.allclose(outputs.sum(axis=1), 1, atol=1e-6)
    assert settings(out)["classes"] == ["a", "b", "c"]


def test_two_classes_end_in_a_sigmoid(finished):
    model, _ = load_checkpoint(finished / "checkpoint.safetensors")
    assert model.layers[-1].get_config()["activation"] == "sigmoid"
    assert model.loss.name == "binary_crossentropy"


def test_without_data_it_takes_the_drawn_fish(small_photos, tmp_path, monkeypatch):
    monkeypatch.setattr(fish, "make", lambda progress: small_photos)
    assert run(*SMALL, "--out", tmp_path / "run") == 0
    assert settings(tmp_path / "run")["classes"] == ["plain", "stripes"]


def test_hidden_and_other_files_are_no_images(tmp_path, capsys):
    data = photos(tmp_path / "data", a=4, b=4)
    (data / ".cache").mkdir()
    (data / "notes.txt").write_text("about")
    (data / "a" / ".hidden.png").write_text("no image")
    (data / "a" / "notes.txt").write_text("about")
    assert run(data, *SMALL, "--validation-split", 0.5, "--strict", "--out", tmp_path / "run") == 0
    assert "Found 4 images belonging to 2 classes." in capsys.readouterr().out


ODD_NAMES = ["a b", "-x", "=1+1", "<b>&\"'", "ñandú 魚", "tab\tnl\nesc\x1b[31m", "true", "[table]", '"""', "C:\\new"]


@pytest.mark.skipif(sys.platform == "win32", reason="its folder names are plainer")
def test_odd_class_names(tmp_path, capsys):
    data, out = photos(tmp_path / "data", **dict.fromkeys(ODD_NAMES, 2)), tmp_path / "run"
    assert run(data, *SMALL, "--validation-split", 0.5, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\t" not in printed
    assert "ñandú 魚 = " in printed
    assert load_model(out / "model.safetensors").class_names == sorted(ODD_NAMES)
    assert settings(out)["classes"] == sorted(ODD_NAMES)
    page = Text((out / "report.html").read_text(encoding="utf-8"))
    assert set(map(show, ODD_NAMES)) <= set(page.words)
    assert "b" not in page.tags


def test_class_names_past_the_basic_plane(tmp_path):
    data = photos(tmp_path / "data", **{"🐟": 3, "plain": 3})
    assert run(data, *SMALL, "--validation-split", 0.5, "--out", tmp_path / "run") == 0
    assert settings(tmp_path / "run")["classes"] == ["plain", "🐟"]


def test_class_names_that_are_no_text(tmp_path):
    data = tmp_path / "data"
    try:
        photos(data, **{os.fsdecode(b"caf\xe9"): 3, "plain": 3})
    except OSError:
        pytest.skip("this file system takes no such name")
    assert run(data, *SMALL, "--validation-split", 0.5, "--out", tmp_path / "run") == 0
    assert names(tmp_path / "run") == RUN_FOLDER
    assert len(settings(tmp_path / "run")["classes"]) == 2


def test_trees_of_other_names_are_not_taken_for_classes(tmp_path, capsys):
    photos(tmp_path / "data" / "training_set", a=3, b=3)
    photos(tmp_path / "data" / "test_set", a=3, b=3)
    assert run(tmp_path / "data", *SMALL, "--validation-split", 0.5, "--out", tmp_path / "run") == 3
    assert str(tmp_path / "data") in capsys.readouterr().err


def test_a_class_too_small_for_the_split_is_named(tmp_path, capsys):
    data = photos(tmp_path / "data", few=3, many=20)
    run(data, *SMALL, "--out", tmp_path / "run")
    assert "few" in capsys.readouterr().err


# What is printed


def test_output_names_what_was_made(small_photos, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(small_photos, *SMALL, "--epochs", 2, "--out", out) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert "Classes: plain = 0, stripes = 1" in lines
    assert [line.split(" - ")[0] for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert "images/s" in printed.out
    assert lines[-2:] == [f"Model: {out / 'model.safetensors'}", f"Report: {out / 'report.html'}"]


def test_quiet_prints_nothing(small_photos, tmp_path, capsys):
    assert run(small_photos, *SMALL, "--quiet", "--out", tmp_path / "run") == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_prints_warnings(tmp_path, capsys):
    data = photos(tmp_path / "data", a=4, b=4)
    (data / "a" / "bad.png").write_text("no image")
    assert run(data, *SMALL, "--quiet", "--out", tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Skipped 1 unreadable file: ")


def test_default_run_folder(small_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(small_photos, *SMALL) == 0
    (out,) = (tmp_path / "runs").iterdir()
    assert names(out) == RUN_FOLDER


def test_empty_run_folder_may_exist(small_photos, tmp_path):
    (tmp_path / "run").mkdir()
    assert run(small_photos, *SMALL, "--out", tmp_path / "run") == 0


def test_every_command_is_under_one_name(small_photos, tmp_path, capsys):
    out = tmp_path / "run"
    assert every_command.main(["train", str(small_photos), *SMALL, "--out", str(out), "--quiet"]) == 0
    assert every_command.main(["predict", str(out), str(small_photos / "test"), "--backend", "numpy"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert every_command.main(["evaluate", str(out), str(small_photos), "--backend", "numpy"]) == 0
    assert "confusion matrix" in capsys.readouterr().out
    assert every_command.main(["--version"]) == every_command.main([]) == every_command.main(["-h"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in every_command.COMMANDS)


# Images that cannot be read


def test_unreadable_images_are_skipped_counted_and_listed(tmp_path, capsys):
    photos(tmp_path / "data" / "train", a=4, b=4)
    photos(tmp_path / "data" / "test", a=2, b=2)
    (tmp_path / "data" / "train" / "a" / "bad.png").write_text("no image")
    whole = (tmp_path / "data" / "train" / "b" / "00.png").read_bytes()
    (tmp_path / "data" / "train" / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "test" / "b" / "empty.jpg").write_bytes(b"")
    assert run(tmp_path / "data", *SMALL, "--out", tmp_path / "run") == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"Skipped 2 unreadable files: {Path('a/bad.png')}: not an image")
    assert f"{Path('b/cut.png')}: " in first
    assert second == f"Skipped 1 unreadable file: {Path('b/empty.jpg')}: the file is empty"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [metrics[name] for name in ("images", "test_images", "skipped_images")] == [8, 4, 3]


def test_many_unreadable_images_are_all_listed(tmp_path, capsys):
    data = photos(tmp_path / "data", a=4, b=4)
    for i in range(6):
        (data / "b" / f"bad{i}.png").write_text("no image")
    assert run(data, *SMALL, "--out", tmp_path / "run") == 0
    told = capsys.readouterr().err + "".join(file.read_text(errors="ignore") for file in (tmp_path / "run").glob("*.*"))
    assert all(f"bad{i}.png" in told for i in range(6))


def test_max_pixels(tmp_path, capsys):
    data = photos(tmp_path / "data", a=4, b=4)
    Image.new("RGB", (60, 50)).save(data / "b" / "large.png")
    assert run(data, *SMALL, "--max-pixels", 20 * 24, "--out", tmp_path / "run") == 0
    assert "b/large.png: 60x50 pixels are more than max_pixels=480 allows" in capsys.readouterr().err
    assert settings(tmp_path / "run")["max_pixels"] == 480
    assert run(data, *SMALL, "--out", tmp_path / "other") == 0
    assert settings(tmp_path / "other")["max_pixels"] == 64_000_000


@pytest.mark.parametrize("split", ["train", "test"])
def test_strict_refuses_unreadable_images(split, tmp_path, capsys):
    photos(tmp_path / "data" / "train", a=4, b=4)
    photos(tmp_path / "data" / "test", a=2, b=2)
    bad = tmp_path / "data" / split / "a" / "bad.png"
    bad.write_text("no image")
    assert_refused(3, [bad, "not an image"], capsys, tmp_path / "data", "--strict", out=tmp_path / "run")


# Bad input: exit code, one line that names the thing, nothing written


def assert_refused(code, words, capsys, *arguments, out):
    capsys.readouterr()
    before = sorted(out.parent.rglob("*"))
    assert run(*SMALL, "--out", out, *arguments) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("tinycnn train: ")
    assert error.endswith("\n")
    assert error[:-1].isprintable(), error
    for word in words:
        assert str(word) in error
    assert sorted(out.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "0"], ["--epochs", "'0'", "at least 1"]),
        (["--epochs", "-3"], ["--epochs", "'-3'"]),
        (["--epochs", "many"], ["--epochs", "'many'"]),
        (["--epochs", "1.5"], ["--epochs", "'1.5'"]),
        (["--epochs"], ["--epochs", "expected one argument"]),
        (["--batch-size", "0"], ["--batch-size", "'0'"]),
        (["--batch-size", "-1"], ["--batch-size", "'-1'"]),
        (["--steps-per-epoch", "0"], ["--steps-per-epoch", "'0'"]),
        (["--learning-rate", "0"], ["--learning-rate", "'0'"]),
        (["--learning-rate", "-0.1"], ["--learning-rate", "'-0.1'"]),
        (["--learning-rate", "nan"], ["--learning-rate", "'nan'"]),
        (["--learning-rate", "inf"], ["--learning-rate", "'inf'"]),
        (["--seed", "-1"], ["--seed", "'-1'"]),
        (["--threads", "0"], ["--threads", "'0'"]),
        (["--threads", "-2"], ["--threads", "'-2'"]),
        (["--image-size", "5"], ["--image-size 5", "10 to"]),
        (["--image-size", "-64"], ["--image-size", "'-64'"]),
        (["--validation-split", "0"], ["--validation-split", "'0'", "between 0 and 1"]),
        (["--validation-split", "1"], ["--validation-split", "'1'"]),
        (["--validation-split", "20%"], ["--validation-split", "'20%'"]),
        (["--backend", "torch"], ["--backend", "'torch'", "numba"]),
        (["--backend", "cupy"], ["cupy", "numba"]),
        (["--epoch", "1"], ["--epoch"]),
        (["--colour"], ["--colour"]),
        (["second"], ["second"]),
        (["--seed", "1\n2"], [r"'1\n2'"]),
        (["--image-size", "100000"], ["--image-size"]),
        (["--x\ny"], ["--x"]),
        (["\x1b[31m"], ["31m"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("-") else None,
)  # fmt: skip
def test_options_that_cannot_be_used(options, words, small_photos, tmp_path, capsys):
    assert_refused(2, words, capsys, small_photos, *options, out=tmp_path / "run")


def no_folder(data: Path) -> list:
    return [data, "no such folder"]


def a_file(data: Path) -> list:
    data.write_text("x")
    return [data, "not a folder"]


def a_picture(data: Path) -> list:
    data.mkdir()
    picture(data / "one.png")
    return [data, "no class folders"]


def empty_folder(data: Path) -> list:
    data.mkdir()
    return [data, "no class folders"]


def one_class(data: Path) -> list:
    photos(data, only=5)
    return [data, "only one class, only"]


def one_class_in_two_trees(data: Path) -> list:
    photos(data / "train", only=5)
    photos(data / "test", only=5)
    return [data / "train", "only one class, only"]


def class_without_files(data: Path) -> list:
    photos(data, a=5, empty=0)
    return [data / "empty", "without an image"]


def class_without_images(data: Path) -> list:
    photos(data, a=5, words=0)
    (data / "words" / "readme.txt").write_text("x")
    return [data / "words", "without an image"]


def class_of_unreadable_images(data: Path) -> list:
    photos(data, a=5, broken=0)
    for i in range(5):
        (data / "broken" / f"{i}.png").write_text("x")
    return [data / "broken", "without a readable image", "not an image"]


def empty_test_class(data: Path) -> list:
    photos(data / "train", a=5, b=5)
    photos(data / "test", a=5, b=0)
    return [data / "test" / "b", "without an image"]


def other_test_classes(data: Path) -> list:
    photos(data / "train", a=5, b=5)
    photos(data / "test", a=5, c=5)
    return [data / "test", "(a, c)", data / "train", "(a, b)"]


def more_test_classes(data: Path) -> list:
    photos(data / "train", a=5, b=5)
    photos(data / "test", a=5, b=5, c=5)
    return [data / "test", "a, b, c"]


def fewer_test_classes(data: Path) -> list:
    photos(data / "train", a=5, b=5, c=5)
    photos(data / "test", a=5, b=5)
    return [data / "test", "(a, b)", data / "train", "(a, b, c)"]


def empty_trees(data: Path) -> list:
    (data / "train").mkdir(parents=True)
    (data / "test").mkdir()
    return [data / "train", "no class folders"]


def too_few_to_split(data: Path) -> list:
    photos(data, a=2, b=2)
    return [data, "too few images"]


BAD_DATA = [
    no_folder, a_file, a_picture, empty_folder, one_class, one_class_in_two_trees, class_without_files,
    class_without_images, class_of_unreadable_images, empty_test_class, other_test_classes, more_test_classes,
    fewer_test_classes, empty_trees, too_few_to_split,
]  # fmt: skip


@pytest.mark.parametrize("make", BAD_DATA, ids=lambda make: make.__name__)
def test_data_that_cannot_be_used(make, tmp_path, capsys):
    assert_refused(3, make(tmp_path / "data"), capsys, tmp_path / "data", out=tmp_path / "run")


def test_names_of_bad_data_are_printed_harmlessly(tmp_path, capsys):
    assert_refused(3, [r"\x1b[31m\n"], capsys, tmp_path / "\x1b[31m\n", out=tmp_path / "run")


def test_name_of_a_folder_of_one_class_is_printed_harmlessly(tmp_path, capsys):
    data = photos(tmp_path / "\x1b[31m", only=3)
    assert_refused(3, [r"\x1b[31m"], capsys, data, out=tmp_path / "run")


@pytest.mark.parametrize("kind", ["a file", "a run folder", "below a file"])
def test_out_that_cannot_be_used(kind, small_photos, tmp_path, capsys):
    out = tmp_path / "run"
    if kind == "a run folder":
        out.mkdir()
        (out / "model.safetensors").write_text("precious")
    else:
        out.write_text("precious")
    out = out / "deeper" / "still" if kind == "below a file" else out
    words = [f"--out {out}", "choose another folder"]
    assert_refused(2, words, capsys, small_photos, "--out", out, out=tmp_path / "unused")


def test_out_is_looked_at_before_the_images(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert_refused(2, ["--out"], capsys, tmp_path / "no data", "--out", tmp_path / "file", out=tmp_path / "unused")


@pytest.mark.parametrize("command", ["walk", "", "x\ny", "--colour"])
def test_unknown_command(command, capsys):
    assert every_command.main([command]) == 2
    error = capsys.readouterr().err
    assert repr(command) in error
    assert "train, predict, evaluate" in error
    assert error.count("\n") == 1


def test_errors_of_a_process(tmp_path):
    """What the shell sees: the exit code and one line."""
    for module, arguments in (("tinycnn.train", []), ("tinycnn", ["train"])):
        done = subprocess_run(*arguments, tmp_path / "none", *SMALL, "--out", tmp_path / "run", module=module)
        assert (done.returncode, done.stdout) == (3, b"")
        assert done.stderr.decode().splitlines() == [f"tinycnn train: {tmp_path / 'none'}: no such folder"]
    assert subprocess_run("walk", module="tinycnn").returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_interrupting_keeps_the_checkpoint(small_photos, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "tinycnn.train",
        str(small_photos),
        *SMALL,
        "--epochs",
        "1000000",
        "--out",
        str(out),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("Epoch 3/"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    goes_on = f"tinycnn train: interrupted; `tinycnn train --resume {out}` goes on from here\n"
    assert (process.returncode, error) == (130, goes_on)
    _, position = load_checkpoint(out / "checkpoint.safetensors")
    assert position.epoch >= 3
    assert not (out / "model.safetensors").exists()
    assert not list(out.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
def test_a_reader_that_goes_does_not_end_training_as_done(small_photos, tmp_path):
    out = tmp_path / "run"
    command = command_line(small_photos, *SMALL, "--epochs", 20, "--out", out)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        process.stderr.read()
    assert (process.wait() == 0) == (out / "model.safetensors").exists()


def test_backend_of_the_environment(small_photos, tmp_path):
    out = tmp_path / "run"
    options = (small_photos, "--epochs", 1, "--image-size", 16, "--out", out, "--quiet")
    assert subprocess_run(*options, TINYCNN_BACKEND="numpy").returncode == 0
    assert settings(out)["backend"] == "numpy"


def test_diverging_is_said_in_one_line(small_photos, tmp_path):
    options = (*SMALL, "--epochs", 3, "--learning-rate", "1e30", "--quiet", "--out", tmp_path / "run")
    error = subprocess_run(small_photos, *options).stderr.decode()
    assert "--learning-rate" in error
    assert error.count("\n") == 1
