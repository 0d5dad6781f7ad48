"""What the README promises: its programs run, its numbers hold, its files and commands exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinycnn import __main__ as every_command
from tinycnn import backend, explain, predict, train, use_backend

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
START = "python3 -m venv .venv"


def section(title: str) -> str:
    """The text below a heading, up to the next."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def twelve_lines() -> str:
    return re.search(r"```python\n(.*?)```", section("The engine in twelve lines"), re.DOTALL)[1]


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run_as_written(number, name, capsys):
    use_backend(name)
    exec(PROGRAMS[number], {})
    assert capsys.readouterr().out


def test_there_are_programs():
    assert len(PROGRAMS) >= 2
    assert twelve_lines() in PROGRAMS
    assert len(twelve_lines().splitlines()) == 12


def promised(text: str) -> list[tuple[str, object, int]]:
    """What a comment says of the line in front of it: (expression, its value, digits after the point)."""
    found = []
    for line in text.splitlines():
        code, _, comment = line.partition("#")
        try:
            value = ast.literal_eval(comment.strip())
        except (SyntaxError, ValueError):
            continue
        statement = ast.parse(code.strip()).body[0]
        expression = statement.targets[0] if isinstance(statement, ast.Assign) else statement.value.args[0]
        found.append((ast.unparse(expression), value, max(map(len, re.findall(r"\.(\d+)", comment)))))
    return found


def test_numbers_in_comments_hold():
    use_backend("numpy")
    names: dict = {}
    exec(twelve_lines(), names)
    checked = promised(twelve_lines())
    assert [expression for expression, _, _ in checked] == ["p", "loss", "w.grad", "b.grad"]
    for expression, wanted, digits in checked:
        value = eval(expression, names)
        got = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        assert got.shape == np.shape(wanted)
        assert np.abs(got - np.asarray(wanted)).max() <= 0.501 * 10.0**-digits, expression


def test_the_sentence_on_the_first_weight_holds():
    """What the text says about raising a weight, by raising it."""
    step, rise, slope = re.search(
        r"Raise the first weight by ([\d.]+) and the loss rises by ([\d.]+): that is what ([\d.]+) says", README
    ).groups()
    names: dict = {}
    exec(twelve_lines(), names)
    raised: dict = {}
    exec(twelve_lines().replace("[[0.5]", f"[[{0.5 + float(step)}]"), raised)
    assert raised["loss"].item() - names["loss"].item() == pytest.approx(float(rise), abs=0.5e-5)
    assert float(rise) == pytest.approx(float(step) * float(slope), abs=0.5e-5)
    assert f"{np.asarray(names['w'].grad)[0, 0]:.4f}" == slope


def test_two_commands_need_nothing_but_python():
    commands = [text.strip() for language, text in BLOCKS if not language and START in text]
    assert len(commands) == 2
    for title, command in zip(("Train it", "Test it"), commands, strict=True):
        assert command in section(title)
        assert command.startswith(START)
        assert "\n" not in command
        assert all(part.startswith((START, ".venv/bin/")) for part in command.split(" && "))
    assert "-m tinycnn.train" in commands[0]
    assert "-m pytest" in commands[1]
    assert section("Train it").index(START) < min(section("Train it").index(text) for text in (".predict", ".evaluate"))


def test_commands_and_their_options_exist():
    for command in re.findall(r"-m tinycnn\.(\w+)", README):
        assert command in every_command.COMMANDS
    known = {
        option
        for module in (train, predict, explain)
        for action in module.parser()._actions
        for option in action.option_strings
    }
    for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", README):
        assert option in known, option


def test_every_file_of_the_map_exists():
    table = section("The code, in reading order")
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        names = re.findall(r"`([^`]+)`", row)
        folder = Path(names[0]).parent
        for path in [Path(names[0]), *(folder / name for name in names[1:])]:
            assert (ROOT / path).exists(), path


def test_links_and_other_files_exist():
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:tests|kernels|examples|tinycnn|benchmarks)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@@|TODO|FIXME|XXX", README)


HELP = [
    "DATA", "--epochs", "--batch-size", "--steps-per-epoch", "--learning-rate", "--seed", "--backend", "--threads",
    "--image-size", "--no-augment", "--validation-split", "--out", "--quiet", "--strict",
]  # fmt: skip


def test_help_shows_every_option():
    done = subprocess.run(
        [sys.executable, "-m", "tinycnn", "train", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    for option in HELP:
        assert re.search(rf"^  {re.escape(option)}\b", done.stdout, re.MULTILINE), option
    assert "exit codes:" in done.stdout


@pytest.mark.parametrize("name", list(every_command.COMMANDS))
def test_help_fits_a_terminal_and_explains_all(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        every_command.main([name, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 110
    module = sys.modules[f"tinycnn.{name}"]
    assert all(action.help for action in module.parser()._actions)


def test_backends_named_are_backends():
    rows = re.findall(r"^\| `(\w+)` \|", section("Backends"), re.MULTILINE)
    assert rows
    assert set(rows) <= set(backend.NAMES)
    for name in rows:
        if name != "cupy":  # needs a GPU
            assert use_backend(name).name == name
