"""The evaluate command: its numbers against counts by hand and the model's own, its output, its refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycnn import backend, train, use_backend
from tinycnn.evaluate import main
from tinycnn.folders import TEST_NAMES
from tinycnn.models import load_model
from tinycnn.preprocessing.image import ImageDataGenerator


@pytest.fixture(scope="module", autouse=True)
def machine():
    """The commands set the backend for the whole process; the next test file gets its own back."""
    before = backend._current
    yield
    backend._current = before


def run(*arguments) -> int:
    """The exit code, whether argparse or the command itself ends."""
    try:
        return main([*map(str, arguments), "--backend", "numpy"])
    except SystemExit as end:
        return end.code


def trained(data: Path, out: Path) -> Path:
    options = ["--epochs", "6", "--image-size", "20", "--backend", "numpy", "--batch-size", "8", "--quiet"]
    assert train.main([str(data), *options, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def two_classes(small_photos, tmp_path_factory) -> Path:
    """The run folder of a model that tells `plain` from `stripes`."""
    return trained(small_photos, tmp_path_factory.mktemp("two") / "run")


@pytest.fixture(scope="module")
def three(small_photos, tmp_path_factory) -> Path:
    """A folder of pictures in three classes of different sizes."""
    data = tmp_path_factory.mktemp("three") / "photos"
    shutil.copytree(small_photos / "train", data)
    (data / "white").mkdir()
    for i in range(5):
        Image.new("RGB", (30, 30), (255, 255 - i, 255)).save(data / "white" / f"{i}.png")
    return data


@pytest.fixture(scope="module")
def three_classes(three) -> Path:
    """The run folder of a model of them."""
    return trained(three, three.parent / "run")


def measured(capsys, *arguments) -> dict:
    """What the command gives as JSON, refusing all that only looks like it."""
    capsys.readouterr()
    assert run(*arguments, "--format", "json") == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def outputs_and_labels(model, folder: Path) -> tuple[np.ndarray, list[int]]:
    """The model's outputs for files prepared one by one, and the number of each one's folder."""
    files = sorted(folder.glob("*/*.png"))
    labels = [model.class_names.index(file.parent.name) for file in files]
    return model.predict(np.stack([model.preprocessing.load(file) for file in files])), labels


def by_hand(predicted: list[int], labels: list[int], number: int) -> dict:
    """Precision, recall and count of one class, from their definitions."""
    both = sum(p == t == number for p, t in zip(predicted, labels, strict=True))
    said, are = predicted.count(number), labels.count(number)
    return {"precision": both / said if said else None, "recall": both / are if are else None, "images": are}


def assert_by_hand(result: dict, names: list[str], predicted: list[int], labels: list[int]) -> None:
    pairs = list(zip(labels, predicted, strict=True))
    numbers = range(len(names))
    assert result["images"] == len(labels)
    assert result["skipped"] == 0
    assert result["accuracy"] == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))
    assert result["confusion_matrix"] == [[pairs.count((t, p)) for p in numbers] for t in numbers]
    assert list(result["classes"]) == names
    for number, name in enumerate(names):
        assert result["classes"][name] == pytest.approx(by_hand(predicted, labels, number))


def test_two_classes_by_hand(two_classes, small_photos, capsys):
    use_backend("numpy")
    result = measured(capsys, two_classes, small_photos / "train")
    assert list(result) == ["images", "skipped", "loss", "accuracy", "classes", "confusion_matrix"]
    model = load_model(two_classes / "model.safetensors")
    outputs, labels = outputs_and_labels(model, small_photos / "train")
    assert_by_hand(result, ["plain", "stripes"], [int(p > 0.5) for p in outputs[:, 0]], labels)
    chance = [p if t else 1 - p for p, t in zip(outputs[:, 0].astype(float), labels, strict=True)]
    assert result["loss"] == pytest.approx(-np.log(chance).mean(), rel=1e-5)


def test_three_classes_by_hand(three_classes, three, capsys):
    use_backend("numpy")
    result = measured(capsys, three_classes, three)
    model = load_model(three_classes / "model.safetensors")
    outputs, labels = outputs_and_labels(model, three)
    assert_by_hand(result, ["plain", "stripes", "white"], outputs.argmax(axis=1).tolist(), labels)
    chance = outputs.astype(float)[np.arange(len(labels)), labels]
    assert result["loss"] == pytest.approx(-np.log(chance).mean(), rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_loss_and_accuracy_are_those_of_the_model(kind, two_classes, three_classes, small_photos, three, capsys):
    run_folder, data = (two_classes, small_photos / "test") if kind == "binary" else (three_classes, three)
    result = measured(capsys, run_folder, data)
    model = load_model(run_folder / "model.safetensors")
    model.compile("adam", f"{kind}_crossentropy", ["accuracy"])
    images = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        data, target_size=(20, 20), class_mode=kind, shuffle=False, interpolation="lanczos"
    )
    loss, accuracy = model.evaluate(images)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["accuracy"] == pytest.approx(accuracy)


def test_it_repeats_what_training_measured(two_classes, small_photos, capsys):
    result = measured(capsys, two_classes, small_photos)
    metrics = json.loads((two_classes / "metrics.json").read_text())
    assert result["loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    assert result["accuracy"] == metrics["test_accuracy"]
    assert result["images"] == metrics["test_images"]


@pytest.mark.parametrize("name", TEST_NAMES)
def test_the_test_tree_is_taken(name, two_classes, small_photos, tmp_path, capsys):
    shutil.copytree(small_photos / "test", tmp_path / name)
    shutil.copytree(small_photos / "train", tmp_path / "train")
    assert measured(capsys, two_classes, tmp_path)["images"] == 12
    assert measured(capsys, two_classes, tmp_path / "train")["images"] == 24


def test_text(two_classes, small_photos, capsys):
    result = measured(capsys, two_classes, small_photos)
    assert run(two_classes, small_photos) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["images", "12"]
    assert lines[1].split() == ["loss", f"{result['loss']:.4f}"]
    assert lines[2].split() == ["accuracy", f"{result['accuracy']:.4f}"]
    for name, row in result["classes"].items():
        numbers = ["-" if row[k] is None else f"{row[k]:.4f}" for k in ("precision", "recall")]
        assert [name, *numbers, str(row["images"])] in [line.split() for line in lines]
    matrix = [line.split() for line in lines[-2:]]
    assert matrix == [
        [name, *map(str, row)] for name, row in zip(result["classes"], result["confusion_matrix"], strict=True)
    ]
    assert lines[-3].split() == list(result["classes"])
    assert len({len(line) for line in lines[-3:]}) == 1


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(("threshold", "absent"), [(1.0, "stripes"), (0.0, "plain")])
def test_a_class_never_predicted_has_no_precision(threshold, absent, form, two_classes, small_photos, tmp_path, capsys):
    model = load_model(two_classes / "model.safetensors")
    model.threshold = threshold
    model.save(tmp_path / "model.safetensors")
    if form == "json":
        result = measured(capsys, tmp_path / "model.safetensors", small_photos)
        assert result["classes"][absent] == {"precision": None, "recall": 0.0, "images": 6}
        assert result["accuracy"] == 0.5
    else:
        assert run(tmp_path / "model.safetensors", small_photos) == 0
        words = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [absent, "-", "0.0000", "6"] in words


def test_batch_size_changes_nothing(two_classes, small_photos, capsys):
    one = measured(capsys, two_classes, small_photos, "--batch-size", 1)
    many = measured(capsys, two_classes, small_photos, "--batch-size", 7)
    assert one.pop("loss") == pytest.approx(many.pop("loss"), rel=1e-5)
    assert one == many


def test_json_is_alone_on_standard_output(two_classes, small_photos, tmp_path, capsys):
    shutil.copytree(small_photos / "test", tmp_path / "photos")
    (tmp_path / "photos" / "plain" / "bad.png").write_text("no image")
    assert run(two_classes, tmp_path / "photos", "--format", "json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["images"], result["skipped"]) == (12, 1)
    assert printed.out.startswith("{")
    assert "Skipped 1 unreadable file: " in printed.err
    assert run(two_classes, tmp_path / "photos") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["images", "12", "(1", "skipped)"]


def assert_refused(code: int, words: list, capsys, *arguments, after: int = 0) -> None:
    """One line on standard error that names the thing, after so many of progress, and no half of a result."""
    capsys.readouterr()
    assert run(*arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    *progress, line = printed.err.splitlines()
    assert len(progress) == after
    assert line.startswith("tinycnn evaluate: ")
    assert line.isprintable()
    for word in words:
        assert str(word) in line


def test_strict_refuses_unreadable_pictures(two_classes, small_photos, tmp_path, capsys):
    shutil.copytree(small_photos / "test", tmp_path / "photos")
    bad = tmp_path / "photos" / "plain" / "bad.png"
    bad.write_text("no image")
    assert_refused(3, [bad, "not an image"], capsys, two_classes, tmp_path / "photos", "--strict")


def test_max_pixels(two_classes, small_photos, tmp_path, capsys):
    shutil.copytree(small_photos / "test", tmp_path / "photos")
    Image.new("RGB", (60, 50)).save(tmp_path / "photos" / "plain" / "large.png")
    assert main([str(two_classes), str(tmp_path / "photos"), "--max-pixels", "1920"]) == 0
    printed = capsys.readouterr()
    assert "(1 skipped)" in printed.out
    assert "60x50 pixels are more than max_pixels=1920 allows" in printed.err


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("plain", "dots"), ["dots, plain", "plain, stripes"]),
        (("plain",), ["its folders are plain", "plain, stripes"]),
        (("plain", "stripes", "dots"), ["dots, plain, stripes"]),
        ((), ["no class folders"]),
    ],
)
def test_other_classes_than_the_models(folders, words, two_classes, small_photos, tmp_path, capsys):
    data = tmp_path / "photos"
    data.mkdir()
    for name in folders:
        shutil.copytree(small_photos / "test" / "plain", data / name)
    assert_refused(3, [data, *words], capsys, two_classes, data)


def test_data_that_cannot_be_used(two_classes, small_photos, tmp_path, capsys):
    assert_refused(3, [tmp_path / "none", "no such folder"], capsys, two_classes, tmp_path / "none")
    photo = small_photos / "test" / "plain" / "00.png"
    assert_refused(3, [photo, "not a folder"], capsys, two_classes, photo)
    shutil.copytree(small_photos / "test", tmp_path / "photos")
    shutil.rmtree(tmp_path / "photos" / "plain")
    (tmp_path / "photos" / "plain").mkdir()
    assert_refused(3, [tmp_path / "photos" / "plain", "without an image"], capsys, two_classes, tmp_path / "photos")


def test_what_is_no_model(two_classes, small_photos, tmp_path, capsys):
    photo = small_photos / "test" / "plain" / "00.png"
    assert_refused(3, [photo, "not a tinycnn-model file"], capsys, photo, small_photos)
    assert_refused(3, [tmp_path, "no model.safetensors"], capsys, tmp_path, small_photos)
    assert_refused(3, [tmp_path / "none", "no such file"], capsys, tmp_path / "none", small_photos)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "csv"], ["--format", "'csv'"]),
        (["--batch-size", "0"], ["--batch-size", "'0'"]),
        (["--threads", "many"], ["--threads", "'many'"]),
    ],
)
def test_options_that_cannot_be_used(options, words, two_classes, small_photos, capsys):
    assert_refused(2, words, capsys, two_classes, small_photos, *options)


def test_backend_that_this_machine_has_not(two_classes, small_photos, capsys):
    assert main([str(two_classes), str(small_photos), "--backend", "cupy"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("tinycnn evaluate: backend 'cupy'")
    assert line.count("\n") == 1


def test_json_of_a_model_that_diverged(two_classes, small_photos, tmp_path, capsys):
    model = load_model(two_classes / "model.safetensors")
    first, *rest = model.get_weights()
    model.set_weights([np.full_like(first, 3e38), *map(np.zeros_like, rest)])  # predictions: infinity times 0
    model.save(tmp_path / "model.safetensors")
    assert measured(capsys, tmp_path / "model.safetensors", small_photos)["loss"] is None
