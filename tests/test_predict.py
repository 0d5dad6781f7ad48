"""The predict command: the forms of its output, what it does with what is no image, its pictures as in training."""

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycnn import backend, evaluate, predict, train, use_backend
from tinycnn.layers import Conv2D, Dense, Flatten
from tinycnn.models import Sequential, load_model
from tinycnn.predict import main

ROOT = Path(__file__).resolve().parent.parent


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
    options = ["--epochs", "2", "--image-size", "16", "--backend", "numpy", "--batch-size", "8", "--quiet"]
    assert train.main([str(data), *options, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def two_classes(small_photos, tmp_path_factory) -> Path:
    """The run folder of a model that tells `plain` from `stripes`."""
    return trained(small_photos, tmp_path_factory.mktemp("two") / "run")


@pytest.fixture(scope="module")
def three_classes(small_photos, tmp_path_factory) -> Path:
    """The run folder of a model with a third class."""
    data = tmp_path_factory.mktemp("three")
    shutil.copytree(small_photos / "train", data / "photos")
    (data / "photos" / "white").mkdir()
    for i in range(12):
        Image.new("RGB", (30, 30), (255, 255 - i, 255)).save(data / "photos" / "white" / f"{i}.png")
    return trained(data / "photos", data / "run")


@pytest.fixture
def album(small_photos, tmp_path) -> Path:
    """Five pictures, two of them deeper, beside files that are none."""
    folder = tmp_path / "album"
    (folder / "deep" / "er").mkdir(parents=True)
    for name, source in (
        ("b.png", "plain/00"), ("a.PNG", "plain/01"), ("deep/c.png", "plain/02"), ("deep/er/d.png", "stripes/00"),
    ):  # fmt: skip
        shutil.copy(small_photos / "test" / f"{source}.png", folder / name)
    Image.open(small_photos / "test" / "stripes" / "01.png").save(folder / "deep" / "e.bmp")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


FOUND = ["a.PNG", "b.png", "deep/c.png", "deep/e.bmp", "deep/er/d.png"]


def as_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def expected(run_folder: Path, files: list[Path]) -> np.ndarray:
    """The outputs of the model for files prepared one by one."""
    use_backend("numpy")
    model = load_model(run_folder / "model.safetensors")
    return model.predict(np.stack([model.preprocessing.load(file) for file in files]))


# The forms of the output


def test_text(two_classes, album, capsys):
    assert run(two_classes, album) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.rsplit(maxsplit=2) for line in lines]
    assert [cell[0] for cell in cells] == [str(album / name) for name in FOUND]
    assert {cell[1] for cell in cells} <= {"plain", "stripes"}
    assert all(len(cell[2]) == 6 and 0.5 <= float(cell[2]) <= 1 for cell in cells)
    assert len({line.rindex(cell[1], len(cell[0])) for line, cell in zip(lines, cells, strict=True)}) == 1


def test_csv(two_classes, album, capsys):
    assert run(two_classes, album, "--format", "csv") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "path,class,probability"
    assert [row["path"] for row in as_csv(text)] == [str(album / name) for name in FOUND]


def test_json(two_classes, album, capsys):
    assert run(two_classes, album, "--format", "json") == 0
    items = json.loads(capsys.readouterr().out)
    assert [item["path"] for item in items] == [str(album / name) for name in FOUND]
    assert all(list(item) == ["path", "class", "probability"] for item in items)
    assert all(isinstance(item["probability"], float) for item in items)


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_forms_agree(form, two_classes, album, capsys):
    files = [album / name for name in FOUND]
    outputs = expected(two_classes, files)[:, 0]
    assert run(two_classes, album, "--format", form) == 0
    text = capsys.readouterr().out
    if form == "text":
        got = [(line.split()[-2], float(line.split()[-1])) for line in text.splitlines()]
    else:
        rows = as_csv(text) if form == "csv" else json.loads(text)
        got = [(row["class"], float(row["probability"])) for row in rows]
    places = {"text": 4, "csv": 6, "json": 9}[form]
    for (name, probability), output in zip(got, outputs, strict=True):
        assert name == ("stripes" if output > 0.5 else "plain")
        assert probability == pytest.approx(max(output, 1 - output), abs=0.51 * 10**-places + 1e-6)


def test_three_classes_give_the_largest(three_classes, small_photos, capsys):
    files = sorted((small_photos / "test").glob("*/*.png"))
    outputs = expected(three_classes, files)
    assert run(three_classes, small_photos / "test", "--format", "json") == 0
    items = json.loads(capsys.readouterr().out)
    assert [item["path"] for item in items] == [str(file) for file in files]
    names = np.array(["plain", "stripes", "white"])
    assert [item["class"] for item in items] == names[outputs.argmax(axis=1)].tolist()
    assert np.allclose([item["probability"] for item in items], outputs.max(axis=1), rtol=0, atol=1e-6)


# What may be named


def test_run_folder_and_model_file_are_the_same(two_classes, album, capsys):
    texts = []
    for model in (two_classes, two_classes / "model.safetensors"):
        assert run(model, album, "--format", "json") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_files_and_folders_mixed_in_the_order_given(two_classes, album, capsys):
    given = [album / "deep" / "er", album / "b.png", album / "deep", album / "b.png"]
    assert run(two_classes, *given, "--format", "csv") == 0
    names = ["deep/er/d.png", "b.png", "deep/c.png", "deep/e.bmp", "deep/er/d.png", "b.png"]
    assert [row["path"] for row in as_csv(capsys.readouterr().out)] == [str(album / name) for name in names]


def test_a_named_file_needs_no_suffix(two_classes, album, capsys):
    (album / "b.png").rename(album / "picture")
    assert run(two_classes, album / "picture") == 0
    assert str(album / "picture") in capsys.readouterr().out


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_names_that_are_not_text(form, two_classes, album, capsys):
    name = os.path.join(os.fsencode(album), b"fish\xff.png")
    try:
        shutil.copy(album / "b.png", name)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert run(two_classes, os.fsdecode(name), "--format", form) == 0
    assert r"fish\udcff.png" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "tinycnn.predict", two_classes, name, "--format", form, "--backend", "numpy"],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"fish\udcff.png" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="its file names are plainer")
def test_odd_names(two_classes, album, capsys):
    """A line of text for each picture, whatever it is called; csv and json give back the very name."""
    odd = album / "odd"
    odd.mkdir()
    names = sorted(["a,b.png", 'q"uote.png', "new\nline.png", "-x.png", "=1+1.png", "esc\x1b[31m.png", "ñ 魚 🐟.png"])
    for name in names:
        shutil.copy(album / "b.png", odd / name)
    assert run(two_classes, odd) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == len(names)
    assert "\x1b" not in text
    for form, read in (("csv", as_csv), ("json", json.loads)):
        assert run(two_classes, odd, "--format", form) == 0
        assert [row["path"] for row in read(capsys.readouterr().out)] == [str(odd / name) for name in names]


@pytest.mark.skipif(sys.platform == "win32", reason="its file names are plainer")
def test_no_cell_of_csv_is_a_formula(two_classes, album, tmp_path, monkeypatch, capsys):
    model = load_model(two_classes / "model.safetensors")
    model.class_names = ["=HYPERLINK(1)", "@SUM(1)"]
    model.save(tmp_path / "odd.safetensors")
    monkeypatch.chdir(album)
    names = {"=1+1.png", "-x.png", "@a.png", "+1.png"}
    for name in names:
        shutil.copy(album / "b.png", name)
    assert run(tmp_path / "odd.safetensors", ".", "--format", "csv") == 0
    rows = as_csv(capsys.readouterr().out)
    assert {row["path"] for row in rows} == {f"./{name}" for name in names} | set(FOUND)
    assert all(Path(row["path"]).is_file() for row in rows)
    assert {row["class"] for row in rows} <= {"'=HYPERLINK(1)", "'@SUM(1)"}


@pytest.mark.skipif(sys.platform == "win32", reason="its file names are plainer")
@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_no_name_reaches_a_terminal_raw(form, two_classes, album, tmp_path, monkeypatch, capsys):
    model = load_model(two_classes / "model.safetensors")
    model.class_names = ["\x1b]0;title\x07", "\u202egnp.exe"]
    model.save(tmp_path / "odd.safetensors")
    shutil.copy(album / "b.png", album / "\x1b[2J\u202e\x9b31m.png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(tmp_path / "odd.safetensors", album, "--format", form) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    "what", ["three names", "one name", "a smaller picture", "grey pictures", "an image comes out"]
)
def test_a_model_that_does_not_fit_its_own_description(what, two_classes, album, tmp_path, capsys):
    model = load_model(two_classes / "model.safetensors")
    settings = model.preprocessing
    if what.endswith("name") or what.endswith("names"):
        model.class_names = ["a", "b", "c"] if what == "three names" else ["a"]
    elif what == "an image comes out":
        model = Sequential([Conv2D(2, 1, input_shape=settings.image_shape)])
        model.class_names = [str(row) for row in range(settings.image_shape[0])]
        model.preprocessing = settings
    else:
        change = {"target_size": (8, 8)} if what == "a smaller picture" else {"color_mode": "grayscale"}
        model.preprocessing = dataclasses.replace(settings, **change)
    model.save(tmp_path / "m.safetensors")
    assert_refused(3, ["m.safetensors", "do not fit its model"], capsys, tmp_path / "m.safetensors", album)


def test_max_pixels(two_classes, album, capsys):
    Image.new("RGB", (60, 50)).save(album / "z.png")
    assert run(two_classes, album, "--max-pixels", 40 * 48, "--format", "csv") == 0
    printed = capsys.readouterr()
    assert [row["path"] for row in as_csv(printed.out)] == [str(album / name) for name in FOUND]
    assert printed.err == f"skipped {album / 'z.png'}: 60x50 pixels are more than max_pixels=1920 allows\n"
    assert run(two_classes, album / "z.png") == 0


# What computes


def test_a_photo_needs_no_numba(two_classes, album):
    """Nothing is compiled, and nothing that could compile is loaded; what numba would have said is the same."""
    code = "import sys, tinycnn.predict; tinycnn.predict.main(sys.argv[1:]); print('numba' in sys.modules)"
    clean = {name: value for name, value in os.environ.items() if name != "TINYCNN_BACKEND"}
    command = [sys.executable, "-c", code, two_classes, album / "b.png"]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == ["False"]


@pytest.mark.parametrize("kind", ["two_classes", "three_classes"])
def test_numpy_and_numba_say_the_same(kind, album, request, capsys):
    results = []
    for name in ("auto", "numba"):
        assert main([str(request.getfixturevalue(kind)), str(album), "--format", "json", "--backend", name]) == 0
        assert backend.current().name == {"auto": "numpy"}.get(name, name)
        results.append(json.loads(capsys.readouterr().out))
    numpy, numba = results
    assert [(r["path"], r["class"]) for r in numpy] == [(r["path"], r["class"]) for r in numba]
    assert np.allclose([r["probability"] for r in numpy], [r["probability"] for r in numba], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("few", "chosen", "options", "used"),
    [
        (5, "auto", [], "numpy"),
        (4, "auto", [], "numba"),
        (5, "auto", ["--backend", "numba"], "numba"),
        (5, "numba", [], "numba"),
        (4, "numpy", [], "numpy"),
        (4, "numba", ["--backend", "numpy"], "numpy"),
        (5, "numba", ["--backend", "auto"], "numpy"),
    ],
)
def test_few_images_are_left_to_numpy_unless_the_user_chose(
    few, chosen, options, used, two_classes, album, monkeypatch
):
    """The album holds five."""
    monkeypatch.setattr(predict, "FEW", few)
    monkeypatch.setenv("TINYCNN_BACKEND", chosen)
    assert main([str(two_classes), str(album), *options]) == 0
    assert backend.current().name == used


# Pictures are prepared as in training


def test_batch_size_changes_nothing(two_classes, small_photos, capsys):
    results = []
    for size in (1, 5, 256):
        assert run(two_classes, small_photos, "--format", "json", "--batch-size", size) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert len(results[0]) == 36
    for other in results[1:]:
        assert [(r["path"], r["class"]) for r in other] == [(r["path"], r["class"]) for r in results[0]]
        got, wanted = ([r["probability"] for r in rows] for rows in (other, results[0]))
        assert np.allclose(got, wanted, rtol=0, atol=1e-6)


def test_threshold_of_the_model_file(two_classes, small_photos, tmp_path, capsys):
    files = sorted((small_photos / "test").glob("*/*.png"))
    outputs = np.sort(expected(two_classes, files)[:, 0])
    model = load_model(two_classes / "model.safetensors")
    model.threshold = float(outputs[3] + outputs[4]) / 2
    assert model.threshold != 0.5
    model.save(tmp_path / "model.safetensors")
    assert run(tmp_path / "model.safetensors", small_photos / "test", "--format", "json") == 0
    items = json.loads(capsys.readouterr().out)
    assert [item["class"] for item in items].count("plain") == 4
    for item, output in zip(items, expected(two_classes, files)[:, 0], strict=True):
        assert item["class"] == ("stripes" if output > model.threshold else "plain")
        share = output if item["class"] == "stripes" else 1 - output
        assert item["probability"] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("kind", ["two_classes", "three_classes"])
def test_predictions_add_up_to_the_evaluation(kind, small_photos, tmp_path, request, capsys):
    model, photos = request.getfixturevalue(kind), tmp_path / "photos"
    shutil.copytree(small_photos / "train", photos)
    if kind == "three_classes":
        (photos / "white").mkdir()
        Image.new("RGB", (30, 30), "white").save(photos / "white" / "1.png")
    assert evaluate.main([str(model), str(photos), "--format", "json", "--backend", "numpy"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert run(model, photos, "--format", "csv") == 0
    names = list(result["classes"])
    counted = [[0] * len(names) for _ in names]
    for row in as_csv(capsys.readouterr().out):
        counted[names.index(Path(row["path"]).parent.name)][names.index(row["class"])] += 1
    assert counted == result["confusion_matrix"]
    assert sum(map(sum, counted)) == result["images"] >= 24


# What cannot be read, or is no model


def spoil(album: Path) -> None:
    (album / "bad\x1b.png").write_text("no image")
    whole = (album / "b.png").read_bytes()
    (album / "deep" / "cut.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("size", [1, 256])
def test_unreadable_pictures_are_skipped_and_listed(size, two_classes, album, capsys):
    spoil(album)
    assert run(two_classes, album, album / "notes.txt", "--format", "csv", "--batch-size", size) == 0
    printed = capsys.readouterr()
    assert [row["path"] for row in as_csv(printed.out)] == [str(album / name) for name in FOUND]
    bad, cut, notes = printed.err.splitlines()
    assert bad.startswith(f"skipped {album}/bad\\x1b.png: not an image")
    assert cut.startswith(f"skipped {album / 'deep' / 'cut.png'}: ")
    assert notes.startswith(f"skipped {album / 'notes.txt'}: not an image")


def assert_refused(code: int, words: list, capsys, *arguments) -> None:
    """One line on standard error that names the thing, and no half of a result."""
    capsys.readouterr()
    assert run(*arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("tinycnn predict: ")
    assert printed.err[:-1].isprintable(), printed.err
    for word in words:
        assert str(word) in printed.err


def test_strict_refuses_unreadable_pictures(two_classes, album, capsys):
    spoil(album)
    assert_refused(3, [r"bad\x1b.png", "not an image"], capsys, two_classes, album, "--strict")


def test_none_readable(two_classes, tmp_path, capsys):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "b.png").write_text("")
    assert run(two_classes, tmp_path) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    *skipped, last = printed.err.splitlines()
    assert [line.split(":")[0] for line in skipped] == [f"skipped {tmp_path / name}" for name in ("a.png", "b.png")]
    assert last == "tinycnn predict: none of the 2 images could be read"


def test_no_images(two_classes, album, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    assert_refused(3, [tmp_path / "empty", "no image"], capsys, two_classes, album, tmp_path / "empty")


def test_no_such_picture(two_classes, album, capsys):
    assert_refused(3, [album / "none.png", "no such file"], capsys, two_classes, album, album / "none.png")


@pytest.mark.parametrize("what", ["missing", "a picture", "empty", "cut", "checkpoint", "not about images", "no run"])
def test_what_is_no_model(what, two_classes, album, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    words = [file]
    if what == "a picture":
        shutil.copy(album / "b.png", file)
    elif what == "empty":
        file.touch()
    elif what == "cut":
        file.write_bytes((two_classes / "model.safetensors").read_bytes()[:-100])
    elif what == "checkpoint":
        file = two_classes / "checkpoint.safetensors"
        words = [file, "not a tinycnn-model file"]
    elif what == "not about images":
        Sequential([Flatten(input_shape=(16, 16, 3)), Dense(1)]).save(file)
        words = [file, "does not say how to prepare images"]
    elif what == "no run":
        file, words = album, [album, "no model.safetensors in this folder"]
    assert_refused(3, words, capsys, file, album)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "xml"], ["--format", "'xml'", "csv"]),
        (["--batch-size", "0"], ["--batch-size", "'0'"]),
        (["--threads", "-1"], ["--threads", "'-1'"]),
        (["--threads", str(10**30)], ["threads", "from 1 to 4096"]),
        (["--max-pixels", "0"], ["--max-pixels", "'0'"]),
        (["--image-size", "64"], ["--image-size"]),
    ],
)
def test_options_that_cannot_be_used(options, words, two_classes, album, capsys):
    assert_refused(2, words, capsys, two_classes, album, *options)


def test_model_and_path_must_be_said(capsys):
    assert_refused(2, ["MODEL", "PATH"], capsys)
    assert_refused(2, ["PATH"], capsys, "model")


def test_name_of_a_missing_model_is_printed_harmlessly(album, tmp_path, capsys):
    assert_refused(3, [r"\x1b[31m"], capsys, tmp_path / "\x1b[31m", album)


def test_json_of_a_model_that_diverged(two_classes, album, tmp_path, capsys):
    spoilt(two_classes).save(tmp_path / "model.safetensors")
    run(tmp_path / "model.safetensors", album, "--format", "json")
    json.loads(capsys.readouterr().out or "null", parse_constant=pytest.fail)


def spoilt(run_folder: Path) -> Sequential:
    """The model with weights that a file may hold and predictions that are no numbers: infinity times 0."""
    model = load_model(run_folder / "model.safetensors")
    first, *rest = model.get_weights()
    model.set_weights([np.full_like(first, 3e38), *map(np.zeros_like, rest)])
    return model


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirection")
@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_closed_standard_output(form, two_classes, album):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "tinycnn.predict", two_classes, album]
    options = ["--backend", "numpy", "--format", form]
    done = subprocess.run([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
def test_a_reader_that_has_seen_enough(two_classes, small_photos):
    command = [sys.executable, "-m", "tinycnn.predict", two_classes, *[small_photos] * 30, "--backend", "numpy"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert (process.wait(), error) == (0, b"")
