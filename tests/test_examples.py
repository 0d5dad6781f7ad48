"""The lessons and the notebook run, with matplotlib and without; their README lists them and asks about each."""

import ast
import os
import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_stand_in import HostGpu, importable
from host_cupy import cache_of_kernels  # noqa: F401
from networks import using
from PIL import Image
from test_architecture import imports
from tinycnn.kernels import threads

from tinycnn import backend

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
LESSONS = sorted(EXAMPLES.glob("[0-9]*.py"))
QUICK = LESSONS[:10]  # those after them train or compile
SKIPPED = "skipped: matplotlib is not installed"
SECONDS = 30  # that a lesson may take on two cores

by_name = {"ids": lambda path: path.stem}


def picture_name(lesson: Path) -> str:
    return re.search(r'^picture\("(\w+)"', lesson.read_text(encoding="utf-8"), re.MULTILINE)[1] + ".png"


def check_picture(path: Path) -> None:
    """A PNG that shows something, not larger than a screen."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] <= 1400
    assert len(np.unique(pixels)) > 10


def check_output(text: str, lesson: Path) -> None:
    """Small tables, not walls, and one line about the picture."""
    lines = text.splitlines()
    assert 10 <= len(lines) <= 70
    assert max(map(len, lines)) <= 150
    assert sum(line.startswith("(picture") for line in lines) == 1, lesson.name


@pytest.fixture
def as_a_script(monkeypatch, tmp_path):
    """Running files of `examples/` from an empty folder, without leaving a trace in this process."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backend, "_threads", backend._threads)
    monkeypatch.setattr(threads, "_limit", threads.usable_threads())

    def run(path: Path, *arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        return runpy.run_path(str(path), run_name="__main__")

    return run


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("lesson", QUICK, **by_name)
def test_quick_lesson_runs_without_matplotlib(lesson, as_a_script, no_matplotlib, tmp_path, capsys):
    as_a_script(lesson)
    printed = capsys.readouterr().out
    check_output(printed, lesson)
    assert SKIPPED in printed.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lesson", QUICK, **by_name)
def test_quick_lesson_saves_its_picture(lesson, as_a_script, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    as_a_script(lesson)
    check_output(capsys.readouterr().out, lesson)
    (saved,) = tmp_path.rglob("*.png")
    assert saved == tmp_path / "lesson_pictures" / picture_name(lesson)
    check_picture(saved)


@pytest.mark.slow
@pytest.mark.parametrize("plots", [True, False], ids=["matplotlib", "no matplotlib"])
@pytest.mark.parametrize("lesson", LESSONS, **by_name)
def test_lesson_as_a_user_runs_it(lesson, plots, tmp_path):
    """In a process of its own, from another folder, the picture into a folder named on the command line."""
    paths = [str(ROOT)]
    if plots:
        pytest.importorskip("matplotlib")
    else:
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "matplotlib.py").write_text("raise ModuleNotFoundError('hidden', name='matplotlib')\n")
        paths.insert(0, str(tmp_path / "hidden"))
    (tmp_path / "work").mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(lesson), "pictures"],
        cwd=tmp_path / "work",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=20 * SECONDS,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    check_output(done.stdout, lesson)
    assert "Warning" not in done.stderr
    if plots:
        check_picture(tmp_path / "work" / "pictures" / picture_name(lesson))
    else:
        assert SKIPPED in done.stdout
        assert not list((tmp_path / "work").iterdir())
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # other programs do not count
    assert busy <= 2 * SECONDS


@pytest.mark.slow
def test_the_lesson_on_backends_shows_a_gpu_too(as_a_script, cache, no_matplotlib, tmp_path, capsys):
    """With the CUDA kernels on the stand-in for a GPU, which is slow: for few fish."""
    lesson = next(path for path in LESSONS if path.stem == "12_three_backends")
    text = lesson.read_text(encoding="utf-8")
    assert text.count("FISH, STEPS = 32, 8") == 1
    (tmp_path / "lesson12.py").write_text(text.replace("FISH, STEPS = 32, 8", "FISH, STEPS = 2, 5"), encoding="utf-8")
    with using("numba"), importable(HostGpu(cache)):
        as_a_script(tmp_path / "lesson12.py")
    rows = re.findall(r"^(\w+) +[\d.]+ +[\d.e-]+ +[\d.]+ +[\d.]+ +[\d.]+$", capsys.readouterr().out, re.MULTILINE)
    assert rows == list(backend.NAMES)


@pytest.mark.parametrize("lesson", LESSONS, **by_name)
def test_lesson_opens_and_ends_as_promised(lesson):
    text = lesson.read_text(encoding="utf-8")
    number = int(lesson.name[:2])
    opening = ast.get_docstring(ast.parse(text))
    assert text.startswith('# %% [markdown]\n"""\n')
    assert opening.startswith(f"# {number}. ")
    questions = opening.split("Afterwards you can answer:\n\n", 1)[1].split("\n\n")[0]
    assert 2 <= len(re.findall("^- ", questions, re.MULTILINE)) <= 4
    assert questions.count("?") >= 2
    assert re.search(r"^assert ", text, re.MULTILINE)
    assert "picture(" in text
    assert picture_name(lesson).startswith(f"{number:02}_")


@pytest.mark.parametrize("path", [*LESSONS, EXAMPLES / "lesson.py", EXAMPLES / "fish.py"], **by_name)
def test_lessons_show_this_engine_and_no_other(path):
    known = {"numpy", "PIL", "tinycnn", "lesson", "benchmarks", "matplotlib", "IPython", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= known


def test_readme_lists_every_file_in_order():
    listed = re.findall(r"^\| \[`([\w.]+)`\]\(([\w.]+)\)", README, re.MULTILINE)
    assert all(name == link for name, link in listed)
    names = [name for name, _ in listed]
    assert names[: len(LESSONS)] == [path.name for path in LESSONS]
    assert [int(name[:2]) for name in names[: len(LESSONS)]] == list(range(1, len(LESSONS) + 1))
    mentioned = {*names, "fish.py", "README.md"}
    assert mentioned == {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.suffix != ".png"}


def test_readme_asks_two_or_three_questions_for_each_lesson():
    asked = re.findall(r"^\*\*(\d+)\. .*?(?=^\*\*|\Z)", README, re.MULTILINE | re.DOTALL)
    assert [int(number) for number in asked] == list(range(1, len(LESSONS) + 1))
    for paragraph in re.split(r"^\*\*\d+\. ", README.split("## Can you answer?")[1], flags=re.MULTILINE)[1:]:
        assert 2 <= paragraph.count("?") <= 3, paragraph


def test_a_picture_that_cannot_be_saved_is_one_line(as_a_script, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit, match=r"taken.*01_convolution.png: cannot save the picture: "):
        as_a_script(LESSONS[0], "taken")


def test_the_arguments_of_a_notebook_kernel_are_no_folder(as_a_script, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    as_a_script(LESSONS[0], "--f=/run/kernel.json")
    assert (tmp_path / "lesson_pictures" / picture_name(LESSONS[0])).is_file()


def test_the_notebook_is_its_script():
    jupytext = pytest.importorskip("jupytext")
    cells = [
        [(cell.cell_type, cell.source) for cell in jupytext.read(EXAMPLES / name).cells]
        for name in ("fish.py", "fish.ipynb")
    ]
    assert cells[0] == cells[1], "make it again: examples/README.md says how"
    assert all(not cell.get("outputs") for cell in jupytext.read(EXAMPLES / "fish.ipynb").cells)


@pytest.mark.parametrize("lesson", LESSONS, **by_name)
def test_lesson_opens_as_a_notebook(lesson):
    jupytext = pytest.importorskip("jupytext")
    kinds = [cell.cell_type for cell in jupytext.read(lesson).cells]
    assert kinds[0] == "markdown"
    assert {"markdown", "code"} == set(kinds)
    assert len(kinds) >= 8


EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
settings = [cell for cell in notebook.cells if "QUICK = False" in cell.source]
assert len(settings) == 1
settings[0].source = settings[0].source.replace("QUICK = False", "QUICK = True")
NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.slow
def test_the_notebook_runs_top_to_bottom(tmp_path):
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name)
    nbformat = pytest.importorskip("nbformat")
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(EXAMPLES / "fish.ipynb"), "done.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    outputs = [out for cell in nbformat.read(tmp_path / "done.ipynb", 4).cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.output_type == "error"]
    assert (
        sum("image/png" in out.get("data", {}) for out in outputs) == 5
    )  # fish, one of them, its maps twice, the answer
    text = "".join(out.text for out in outputs if out.output_type == "stream")
    assert float(re.search(r"accuracy on 256 test pictures: ([\d.]+)", text)[1]) > 0.7
    assert re.search(r"^clownfish_00128.jpg: (clown|angel)fish \(probability of clownfish: [01]\.\d{4}\)", text, re.M)
