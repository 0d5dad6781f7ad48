"""What `tinycnn explain` tells its page, and how the command behaves; test_explorer.py looks at the page itself."""

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from networks import using

from tinycnn import explain, train
from tinycnn.errors import UsageError
from tinycnn.explanation import Subject, explain_photo
from tinycnn.layers import Conv2D, Dense, Flatten
from tinycnn.models import Sequential, load_model
from tinycnn.preprocessing.settings import Preprocessing
from tinycnn.webpage import FOLDER, IMPORT, SCRIPTS, packed, webpage


@pytest.fixture(scope="module", autouse=True)
def machine():
    with using("numpy"):
        yield


@pytest.fixture(scope="module")
def run_folder(small_photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("explained") / "run"
    options = ["--epochs", "3", "--image-size", "20", "--backend", "numpy", "--quiet", "--out", str(out)]
    assert train.main([str(small_photos), *options]) == 0
    return out


def meta_of(page: Path) -> dict:
    return json.loads(re.search(r'id="meta">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def array_of(page: Path, name: str) -> np.ndarray:
    text = re.search(rf'id="array:{re.escape(name)}">(.*?)</script>', page.read_text())[1]
    described = meta_of(page)["arrays"][name]
    dtype, raw = np.dtype(described["type"]), zlib.decompress(base64.b64decode(text), -15)
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(described["shape"])


def test_a_run_and_a_photo_become_a_page(run_folder, small_photos, tmp_path, capsys):
    photo, page = small_photos / "test" / "plain" / "03.png", tmp_path / "page.html"
    assert explain.main([str(run_folder), str(photo), "--output", str(page)]) == 0
    assert re.fullmatch(rf"{page}: \d+\.\d MiB, \d+\.\d s\n", capsys.readouterr().out)
    meta = meta_of(page)
    assert (meta["photo"], meta["run"], meta["labelled"], meta["true"]) == ("03.png", "run", True, 0)
    assert [stage["kind"] for stage in meta["stages"]] == [
        "photo",
        "conv",
        "pool",
        "conv",
        "pool",
        "flatten",
        "dense",
        "dense",
    ]
    assert meta["step"]["iteration"] == 4, "Adam goes on where the run stopped: one step an epoch"
    assert meta["epochs"]["numbers"] == [0, 1, 2, 3]
    assert len(meta["history"]["val_accuracy"]) == 3
    model = load_model(run_folder / "model.safetensors")
    assert np.array_equal(array_of(page, "w.1"), model.get_weights()[0])
    x = model.preprocessing.load(photo)
    assert np.array_equal(array_of(page, "y.0"), x)
    assert array_of(page, "p") == pytest.approx(model.predict_on_batch(x[None])[0], rel=1e-6)


def test_without_an_image_the_least_certain_is_taken(run_folder, capsys):
    assert explain.main([str(run_folder)]) == 0
    capsys.readouterr()
    meta = meta_of(run_folder / "explain.html")
    assert re.fullmatch(r"0\d\.png", meta["photo"])
    chosen = meta["loss"]
    for kind in ("plain", "stripes"):
        for i in range(0, 6, 2):
            photo = (
                Path(json.loads(json.dumps(str(explain._settings(run_folder)["data"])))) / "test" / kind / f"{i:02}.png"
            )
            assert explain.main([str(run_folder), str(photo)]) == 0
            assert meta_of(run_folder / "explain.html")["loss"] <= chosen * 1.0001


def test_the_newest_run_is_found(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert explain._newest_run() is None
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(run_folder)
    assert explain.main([]) == 0
    assert (tmp_path / "runs" / "one" / "explain.html").is_file()


@pytest.mark.slow
def test_without_a_run_a_small_one_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert explain.main([]) == 0
    (page,) = tmp_path.glob("runs/*-quick/explain.html")
    assert page.stat().st_size < 16 * 2**20
    assert meta_of(page)["classes"] == ["angelfish", "clownfish"]


def test_a_model_file_alone_has_no_past(run_folder, small_photos, tmp_path):
    file = tmp_path / "alone.safetensors"
    file.write_bytes((run_folder / "model.safetensors").read_bytes())
    page = tmp_path / "page.html"
    photo = tmp_path / "photo.png"
    photo.write_bytes((small_photos / "test" / "plain" / "00.png").read_bytes())
    assert explain.main([str(file), str(photo), "--output", str(page)]) == 0
    meta = meta_of(page)
    assert meta["epochs"] is None
    assert meta["step"]["iteration"] == 1
    assert meta["labelled"] is False
    assert meta["true"] == meta["predicted"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["RUN", "PHOTO", "--label", "whale"], 2, "--label whale: the classes are plain, stripes"),
        (["RUN", "nowhere.png"], 3, "nowhere.png"),
        (["RUN", "PHOTO", "--output", "FOLDER"], 2, "is a folder"),
        (["nowhere"], 3, "nowhere"),
        (["FOLDER"], 3, "no model.safetensors"),
    ],
)
def test_errors_are_one_line(arguments, code, words, run_folder, small_photos, tmp_path, capsys):
    known = {"RUN": run_folder, "PHOTO": small_photos / "test" / "plain" / "00.png", "FOLDER": tmp_path}
    assert explain.main([str(known.get(word, word)) for word in arguments]) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_model_that_cannot_be_shown_is_refused(small_photos):
    model = Sequential([Conv2D(2, 3, input_shape=(8, 8, 3)), Flatten(), Dense(2)])
    with pytest.raises(UsageError, match="sigmoid"):
        explain_photo(Subject(model, ["a", "b"], Preprocessing((8, 8)), small_photos / "test" / "plain" / "00.png"))


def test_explaining_changes_no_weight(run_folder, small_photos):
    photos = explain.image_model(run_folder)
    before = photos.model.get_weights()
    shots = explain._snapshots(run_folder, photos.model)
    explain_photo(Subject(*photos, photo=small_photos / "test" / "plain" / "00.png", snapshots=shots))
    assert all(np.array_equal(a, b) for a, b in zip(before, photos.model.get_weights(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32"])
def test_numbers_are_packed_without_loss(dtype):
    array = np.random.default_rng(0).integers(0, 200, (3, 5)).astype(dtype) / (1 if dtype[0] in "ui" else 7)
    array = array.astype(dtype)
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed(array)), -15), np.uint8).reshape(array.itemsize, -1)
    assert np.array_equal(np.ascontiguousarray(planes.T).view(dtype).reshape(3, 5), array)


def test_no_text_from_outside_can_leave_its_place():
    bad = "</script><img src=x onerror=alert(1)>&amp;{{SCRIPT}}"
    page = webpage({"classes": [bad]}, {})
    assert page.count("</script>") == webpage({"classes": ["a"]}, {}).count("</script>")
    assert "<img" not in page
    assert json.loads(re.search(r'id="meta">(.*?)</script>', page, re.DOTALL)[1])["classes"] == [bad]


def test_modules_import_what_others_export_and_come_after_them():
    exported: dict[str, set[str]] = {}
    for name in SCRIPTS:
        source = (FOLDER / name).read_text()
        assert source.startswith("// "), f"{name}: the first line says why the file exists"
        for found in IMPORT.finditer(source):
            wanted = {part.strip() for part in found[1].split(",") if part.strip()}
            assert wanted <= exported.get(found[2], set()), f"{name} imports from {found[2]}"
            for word in wanted:
                assert len(re.findall(rf"\b{word}\b", source)) > 1, f"{name} does not use {word}"
        exported[name] = {
            m[1] for m in re.finditer(r"^export (?:async )?(?:function|const|class) (\w+)", source, re.MULTILINE)
        }
        assert "innerHTML" not in source
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source)
    assert {path.name for path in FOLDER.iterdir()} == {*SCRIPTS, "page.html", "style.css"}
