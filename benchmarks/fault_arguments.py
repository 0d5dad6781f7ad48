"""A campaign of faults: the commands with made-up arguments on made-up folders and files.

    python -m benchmarks.fault_arguments FOLDER FIRST LAST

is the process that runs cases FIRST to LAST in FOLDER, which `run` has filled, and prints the outcomes as JSON. A case
is a list of arguments made from its number alone, from what the command's own parser knows: options with values that
fit and that do not, without values, twice, unknown; paths to all kinds of things. One case in twenty is a real process.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from tinycnn import backend
from tinycnn.__main__ import COMMANDS
from tinycnn.datasets import fish
from tinycnn.preprocessing.image import Preprocessing

from .common import ROOT
from .fault_flips import write_files
from .findings import Finding, Part, in_process_of_its_own, needs_linux

NAME = "arguments"
USUAL = 2000
REAL = 20  # one case in so many is a process
CODES = range(5)  # what --help promises, but for interrupts and closed pipes
SECONDS = 30
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "1.5",
    "x",
    "",
    "1e3",
    "nan",
    "inf",
    "9" * 30,
    "9" * 5000,
    "٣",
    " 7",
    "0x10",
    "-",
    "\u202e1",
]
LONG = {"epochs", "steps_per_epoch", "image_size"}  # options with which a large number is sound, and takes long
SHORT = ["1", "2", "0", "-1", "x", "", "1.5", "10", "9", "16", "5000", "nan"]
VALUES = {"image_size": ["10", "12", "9", "0", "5000", "x"], "epochs": SHORT[:7], "steps_per_epoch": SHORT[:7]}
NAMES = ["=1+1", "-x", "\x1b[31mred", "\u202egnp", "two\nlines", "fish\udcff", "<script>", 'a"b', "naïve 🐠"]


class HangError(BaseException):
    """A case took longer than it may."""


def run(part: Part) -> list[Finding]:
    """The campaign."""
    needs_linux()
    numbers = part.of(USUAL)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "around" / "top"  # its parent, which some arguments name, holds nothing else
        prepare(top)
        answer = in_process_of_its_own("benchmarks.fault_arguments", str(top), str(numbers.start), str(numbers.stop))
    codes = {f"exit {code}": n for code, n in sorted(answer["codes"].items())}
    figures = {"processes": answer["processes"], **codes}
    return [
        Finding(
            NAME, "a traceback, a hang, another exit code than those promised", len(numbers), answer["broken"], figures
        ),
        Finding(NAME, "an error without its line, or a line that does not print", len(numbers), answer["unclear"]),
    ]


def prepare(top: Path) -> None:
    """Fill a folder with all that the arguments name."""
    for tree in ("photos", "photos3", "tested/train", "tested/test"):
        for number, name in enumerate(["a", "b", "c"][: 3 if tree == "photos3" else 2]):
            _pictures(top / tree / name, number)
    for name in NAMES:
        _pictures(top / "odd names" / name, 1)
    _pictures(top / "one class" / "a")
    _pictures(top / "damaged" / "a")
    for name in ("damaged/b", "empty", "empty class/a", "empty class/b", "hidden/.a"):
        (top / name).mkdir(parents=True)
    (top / "damaged" / "b" / "0.png").write_bytes((top / "damaged" / "a" / "0.png").read_bytes()[:-30])
    _pictures(top / "mixed" / "a")
    _pictures(top / "mixed" / "b", 1)
    os.mkfifo(top / "mixed" / "a" / "pipe.jpg")
    (top / "mixed" / "b" / "circle.png").symlink_to("circle.png")
    (top / "mixed" / "circle").symlink_to("circle")
    (top / "mixed" / "b" / "again").symlink_to("..")
    (top / "text.txt").write_text("not an image\n" * 20)
    (top / "nothing").touch()
    os.mkfifo(top / "pipe")
    (top / "gone").symlink_to("nowhere")
    _models(top)


def _pictures(folder: Path, number: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng([number, i]).integers(0, 256, (11, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def _models(top: Path) -> None:
    from tinycnn.train import fish_network

    model = fish_network(10, 2)
    model.class_names, model.preprocessing = ["a", "b"], Preprocessing((10, 10), rescale=1 / 255)
    (top / "run").mkdir()
    model.save(top / "run" / "model.safetensors")
    model.class_names = ["=1+1", "\x1b[31m\u202e"]
    model.save(top / "odd.safetensors")
    model.class_names = ["a", "b", "c"]
    model.save(top / "misfit.safetensors")
    plain, checkpoint = write_files(top)
    whole = plain.read_bytes()
    (top / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (top / "spoilt.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    checkpoint.rename(top / "state.safetensors")


def paths(top: Path) -> list[str]:
    """What an argument may name: things that are there, and things that cannot be."""
    inside = [str(path.relative_to(top)) for path in sorted(top.iterdir())]
    nested = ["photos/a", "photos/a/0.png", "mixed/a/pipe.jpg", "run/model.safetensors", "odd names/fish\udcff/0.png"]
    return [
        *inside,
        *nested,
        "",
        ".",
        "..",
        "/",
        "/dev/null",
        "/dev/zero",
        "~",
        "x" * 300,
        "a\nb",
        "\x1b[31m",
        "\udcff",
        "-",
        "photos/",
    ]


def case(number: int, places: list[str]) -> tuple[str, list[str]]:
    """The command and its arguments; `places` is what `paths` tells."""
    rng = random.Random(number)
    command = rng.choice(sorted(COMMANDS))
    actions = parser_of(command)._actions
    likely = {
        "model": ["run", "run/model.safetensors", "odd.safetensors"],
        "data": ["photos", "tested", "mixed"],
        "paths": ["photos", "photos/a/0.png", "mixed"],
    }

    def value(action: argparse.Action) -> str:
        if action.dest in likely and rng.random() < 0.75:
            return rng.choice(likely[action.dest])
        if action.dest in ("epochs", "image_size") and rng.random() < 0.7:
            return "1" if action.dest == "epochs" else "10"
        if action.dest in VALUES:
            return rng.choice(VALUES[action.dest])
        if action.choices:
            return rng.choice([*(c for c in map(str, action.choices) if c not in ("numba", "auto")), "nope", ""])
        if action.dest in ("data", "paths"):
            return rng.choice([place for place in places if place != "/"])  # or the whole machine would be searched
        return rng.choice(places if action.type is Path else NUMBERS)

    arguments: list[str] = []
    for action in actions:
        if not action.option_strings:
            for _ in range(
                rng.choice([1, 1, 1, 1, 1, 1, 2 if action.nargs == "+" else 1, 0 if command != "train" else 1])
            ):
                arguments.append(value(action))
        elif action.dest in ("epochs", "image_size") or rng.random() < 0.15:
            name = rng.choice(action.option_strings)
            arguments += (
                [name]
                if action.nargs == 0
                else rng.choice([[name, value(action)]] * 8 + [[f"{name}={value(action)}"], [name]])
            )
    if rng.random() < 0.1:
        arguments.insert(
            rng.randint(0, len(arguments)),
            rng.choice(["--nope", "--", "-h", "-q", "--epoch", "--=", "\x1b[0m", "--strict=1"]),
        )
    if rng.random() < 0.1:
        rng.shuffle(arguments)
    return command, arguments


def parser_of(command: str) -> argparse.ArgumentParser:
    """The command's own parser."""
    return importlib.import_module(f"tinycnn.{command}").parser()


def run_all(top: Path, first: int, last: int) -> dict[str, Any]:
    """The outcomes of these cases, most of them in this process."""
    os.chdir(top)
    fish.make = lambda *arguments, **options: top / "photos"  # arguments that name no data mean the drawn fish
    signal.signal(signal.SIGALRM, _hang)
    codes: Counter[str] = Counter()
    answer: dict[str, Any] = {"broken": [], "unclear": [], "processes": 0, "codes": codes}
    places = paths(top)  # now: the cases leave files
    for number in range(first, last):
        command, arguments = case(number, places)
        real = number % REAL == 0 and _names_data(command, arguments)
        answer["processes"] += real
        code, output, errors = (_as_process if real else _in_this_process)(command, arguments)
        codes[str(code)] += 1
        told = f"case {number}: tinycnn {command} {json.dumps(arguments)[:200]}: {code} {errors[-200:]!r}"
        if code not in CODES or "Traceback" in errors:
            answer["broken"].append(told)
        elif not _is_clear(code, output, errors, "csv" in " ".join(arguments)):
            answer["unclear"].append(told)
    return answer


def _is_clear(code: Any, output: str, errors: str, is_csv: bool) -> bool:
    lines = errors.splitlines() + ([] if is_csv else output.splitlines())
    return all(line.isprintable() for line in lines) and (code == 0 or errors.splitlines()[-1].startswith("tinycnn "))


def _names_data(command: str, arguments: list[str]) -> bool:
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = parser_of(command).parse_args(arguments)
    except SystemExit:
        return True  # it will end as soon
    return getattr(options, "data", None) is not None or command != "train"


def _as_process(command: str, arguments: list[str]) -> tuple[Any, str, str]:
    full = [sys.executable, "-m", "tinycnn", command, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(full, capture_output=True, timeout=SECONDS, env=environment, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "hang", "", ""
    return done.returncode, done.stdout.decode(errors="backslashreplace"), done.stderr.decode(errors="backslashreplace")


def _in_this_process(command: str, arguments: list[str]) -> tuple[Any, str, str]:
    code: Any
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        signal.alarm(SECONDS)
        backend._threads = None  # of the case before
        try:
            code = importlib.import_module(f"tinycnn.{command}").main(arguments)
        except SystemExit as end:
            code = end.code
        except HangError:
            code = "hang"
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"[:200]
        signal.alarm(0)
    return code, output.getvalue(), errors.getvalue()


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError


if __name__ == "__main__":
    print(json.dumps(run_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
