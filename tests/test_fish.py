"""The drawn data set: the same pictures each time, a folder that is complete or absent, no answer in the colours."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinycnn.datasets import fish
from tinycnn.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parent.parent
TRAIN, TEST = 120, 40  # large enough to be interrupted, small enough for a second or two


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(*arguments: object, **options) -> subprocess.Popen:
    """The command, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tinycnn.datasets.fish", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A set made without interruption."""
    return fish.make(tmp_path_factory.mktemp("fish") / "set", train=TRAIN, test=TEST, seed=3, progress=False)


@pytest.mark.parametrize("kind", fish.KINDS)
def test_a_picture_depends_on_its_arguments_alone(kind):
    first = pixels(fish.draw(kind, 0, "train", 5))
    fish.draw(kind, 0, "train", 6)
    np.testing.assert_array_equal(first, pixels(fish.draw(kind, 0, "train", 5)))
    for other in ((1, "train", 5), (0, "test", 5), (0, "train", 6)):
        assert np.abs(first - pixels(fish.draw(kind, *other))).mean() > 5


@pytest.mark.parametrize("size", [32, 64, 200])
def test_the_size_changes_the_resolution_and_not_the_picture(size):
    image = fish.draw("clownfish", 0, "train", 1, size=size)
    assert image.size == (size, size)
    assert image.mode == "RGB"
    usual = fish.draw("clownfish", 0, "train", 1)
    small, usual = (pixels(i.resize((16, 16), Image.Resampling.BOX)) for i in (image, usual))
    assert np.abs(small - usual).mean() < 12


@pytest.mark.parametrize(
    ("kind", "size", "told"), [("shark", 128, "kind"), ("clownfish", 8, "size"), ("clownfish", 65, "size")]
)
def test_draw_refuses_what_it_cannot_draw(kind, size, told):
    with pytest.raises(UsageError, match=f"^{told} must be"):
        fish.draw(kind, 0, "train", 1, size)


def test_names_counts_and_format(whole):
    for split, each in (("train", TRAIN // 2), ("test", TEST // 2)):
        assert sorted(os.listdir(whole / split)) == ["angelfish", "clownfish"]
        for kind in fish.KINDS:
            names = sorted(os.listdir(whole / split / kind))
            assert names == [f"{kind}_{i:05d}.jpg" for i in range(1, each + 1)]
    with Image.open(whole / "train" / "angelfish" / "angelfish_00001.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (128, 128), "RGB")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", fish.KINDS)
def test_each_kind_lies_in_its_own_folder(whole, split, kind):
    other = next(k for k in fish.KINDS if k != kind)
    for index in (1, 7):
        with Image.open(whole / split / kind / f"{kind}_{index:05d}.jpg") as image:
            stored = pixels(image)
        assert np.abs(stored - pixels(fish.draw(kind, 3, split, index))).mean() < 8  # what JPEG loses
        assert np.abs(stored - pixels(fish.draw(other, 3, split, index))).mean() > 12


def test_quality_differs_from_file_to_file(whole):
    tables = set()
    for path in (whole / "train" / "clownfish").iterdir():
        with Image.open(path) as image:
            tables.add(tuple(image.quantization[0]))
    assert len(tables) > 10


def test_odd_counts_give_the_extra_image_to_the_first_kind(tmp_path):
    folder = fish.make(tmp_path / "odd", train=3, test=2, progress=False)
    assert [len(os.listdir(folder / "train" / kind)) for kind in fish.KINDS] == [2, 1]


def test_making_it_again_gives_the_same_bytes_and_a_finished_one_is_left_alone(whole, tmp_path):
    assert tree(fish.make(tmp_path / "again", train=TRAIN, test=TEST, seed=3, progress=False)) == tree(whole)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert fish.make(whole, train=TRAIN, test=TEST, seed=3) == whole
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert not whole.with_name("set.partial").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_leaves_nothing_under_the_final_name_and_is_continued(whole, tmp_path):
    folder, arguments = tmp_path / "set", ("--train", TRAIN, "--test", TEST, "--seed", 3)
    unfinished = tmp_path / "set.partial" / "set"
    with start(folder, *arguments) as process:
        while len(list(unfinished.rglob("*.jpg"))) < 12:
            assert process.poll() is None, process.stderr.read()
            assert not folder.exists()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done = -1
    while done != (done := len(list(unfinished.rglob("*.jpg")))):
        time.sleep(0.5)  # the workers notice at their next image that nobody listens
    assert not folder.exists()
    assert 12 <= done < TRAIN + TEST
    kept = {path.relative_to(unfinished): path.stat().st_mtime_ns for path in unfinished.rglob("*.jpg")}
    cut_short = next(iter(kept))  # as a power cut may leave a file
    (unfinished / cut_short).write_bytes((unfinished / cut_short).read_bytes()[:200])
    del kept[cut_short]

    fish.make(folder, train=TRAIN, test=TEST, seed=3, progress=False)
    assert tree(folder) == tree(whole)
    assert {path: (folder / path).stat().st_mtime_ns for path in kept} == kept, "finished images were drawn again"
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.slow
def test_processes_that_make_the_same_set_at_once_do_not_disturb_each_other(whole, tmp_path):
    arguments = (tmp_path / "set", "--train", TRAIN, "--test", TEST, "--seed", 3)
    processes = [start(*arguments) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / "set")
    assert tree(tmp_path / "set") == tree(whole)
    assert os.listdir(tmp_path) == ["set"]


def test_the_cache_folder_can_be_chosen_and_its_name_tells_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCNN_CACHE", str(tmp_path / "cache"))
    folder = fish.make(train=2, test=2, seed=7, progress=False)
    assert folder.parent == tmp_path / "cache"
    assert len(list(folder.rglob("*.jpg"))) == 4
    others = {fish.default_folder(*numbers) for numbers in ((2, 2, 7), (4, 2, 7), (2, 4, 7), (2, 2, 8))}
    assert len(others) == 4
    assert folder in others
    assert f"v{fish.VERSION}" in folder.name


@pytest.mark.parametrize(
    ("platform", "variable", "below"),
    [("linux", "XDG_CACHE_HOME", ""), ("darwin", "HOME", "Library/Caches"), ("win32", "LOCALAPPDATA", "")],
)
def test_without_a_choice_the_platforms_cache_is_used(tmp_path, monkeypatch, platform, variable, below):
    monkeypatch.delenv("TINYCNN_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    assert fish.default_folder(8000, 2000, 0).parent == tmp_path / below / "tinycnn"


def test_works_from_another_folder_without_a_main_guard(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit('a module of the user was imported')")
    script = tmp_path / "scripts" / "script.py"
    script.parent.mkdir()
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tinycnn.datasets import fish\n"
        "print(fish.make('set', train=4, test=2, progress=False))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, script], cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(here / "set"), "")


@pytest.mark.parametrize("counts", [{"train": 1}, {"test": 0}, {"train": -4}])
def test_counts_must_allow_one_of_each_kind(tmp_path, counts):
    with pytest.raises(UsageError, match="at least 2"):
        fish.make(tmp_path / "set", **counts)
    assert os.listdir(tmp_path) == []


def refusals(tmp_path: Path) -> dict[str, Path]:
    """Folders that cannot hold the set, by what stands in the way."""
    for name in ("a photograph", "mine/photo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"precious")
    fish.make(tmp_path / "other", train=2, test=2, seed=1, progress=False)
    begun = tmp_path / "begun.partial" / "set"
    begun.mkdir(parents=True)
    (begun / fish.ABOUT).write_text(json.dumps({"train": 9}))
    holed = fish.make(tmp_path / "holed", train=2, test=2, progress=False)
    (holed / "train" / "angelfish" / "angelfish_00001.jpg").unlink()
    return {
        "below a file": tmp_path / "a photograph" / "set",
        "is a file": tmp_path / "a photograph",
        "not ours": tmp_path / "mine",
        "another seed": tmp_path / "other",
        "begun with other counts": tmp_path / "begun",
        "an image is missing": holed,
    }


def test_a_folder_that_cannot_be_used_gives_one_clear_line_and_keeps_its_contents(tmp_path, capsys):
    folders = refusals(tmp_path)
    before = tree(tmp_path)
    for why, folder in folders.items():
        with pytest.raises(DataError, match=f"^{folder}") as caught:
            fish.make(folder, train=2, test=2, progress=False)
        assert "\n" not in str(caught.value), why
        assert fish.main([str(folder), "--train=2", "--test=2"]) == DataError.exit_code
        assert capsys.readouterr().err == f"fish: {caught.value}\n", why
    assert tree(tmp_path) == before


def test_an_empty_folder_made_beforehand_is_filled(tmp_path):
    assert len(list(fish.make(tmp_path, train=2, test=2, progress=False).rglob("*.jpg"))) == 4


def test_a_worker_that_cannot_write_is_reported_in_one_line(tmp_path):
    resource = pytest.importorskip("resource")

    def small_files_only() -> None:  # stands for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    with start(tmp_path / "set", "--train", 40, "--test", 10, preexec_fn=small_files_only) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (DataError.exit_code, "")
    told = f"fish: {tmp_path / 'set.partial'}: cannot make the fish images here: File too large"
    assert err.splitlines()[-1] == told
    assert "Traceback" not in err
    assert not (tmp_path / "set").exists()


def test_progress_is_told_in_a_few_lines_where_there_is_no_terminal(tmp_path):
    with start(tmp_path / "set", "--train", 30, "--test", 10) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == f"{tmp_path / 'set'}\n"
    assert err.splitlines() == [f"drawing fish: {n} of 40 images" for n in range(4, 41, 4)]


def test_contact_sheet(tmp_path, capsys):
    assert fish.main(["--contact-sheet", str(tmp_path / "sheet.png"), "--count", "12"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 10 * 128
        drawn = pixels(sheet)
    assert drawn[20:100, 20:100].std() > 5
    absent = tmp_path / "nowhere" / "sheet.png"
    assert fish.main(["--contact-sheet", str(absent), "--count", "1"]) == DataError.exit_code
    assert "nowhere" in capsys.readouterr().err
    assert fish.main(["--contact-sheet", str(tmp_path / "none.png"), "--count", "0"]) == UsageError.exit_code


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as done:
        fish.main(["--help"])
    assert done.value.code == 0
    told = capsys.readouterr().out
    for word in ("FOLDER", "--train", "--test", "--seed", "--contact-sheet", "--count", "TINYCNN_CACHE"):
        assert word in told


def thumbnails(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images as 16x16 RGB rows, and -1 or 1 for their kind."""
    rows, labels = [], []
    for label, kind in zip((-1, 1), fish.KINDS, strict=True):
        for path in sorted((folder / kind).iterdir()):
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                rows.append(pixels(image.resize((16, 16), Image.Resampling.BOX)).ravel() / 255)
                labels.append(label)
    return np.stack(rows), np.array(labels)


@pytest.mark.slow
def test_a_linear_classifier_on_thumbnails_does_badly(tmp_path):
    folder = fish.make(tmp_path / "set", train=4000, test=1000, progress=False)
    (x, y), (x_test, y_test) = thumbnails(folder / "train"), thumbnails(folder / "test")
    mean, spread = x.mean(axis=0), x.std(axis=0)
    x, x_test = (x - mean) / spread, (x_test - mean) / spread
    for penalty in (10, 100, 1000, 10000):
        w = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        assert np.mean((x @ w > 0) == (y > 0)) > 0.6, "the classifier itself is broken"
        assert np.mean((x_test @ w > 0) == (y_test > 0)) <= 0.80
