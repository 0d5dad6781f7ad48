"""The campaigns of faults, small here and larger where `slow` is asked for; and that each of them can find a fault."""

import json
import os
import subprocess
import sys

import pytest
from checks import ROOT
from safetensors import SafetensorError, safe_open

from benchmarks import fault_arguments, fault_flips, fault_headers, fault_images, faults, findings
from benchmarks.findings import Finding, Part
from tinycnn import tensorfile
from tinycnn.errors import DataError
from tinycnn.models import load_model

linux = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="limits of memory as Linux has them")


def small_and_large(small, large):
    """A number of cases for every run of the tests, and one for the slow runs."""
    return pytest.mark.parametrize("count", [small, pytest.param(large, marks=pytest.mark.slow)])


def assert_kept(found: list[Finding], least: int) -> None:
    """Every promise was tried, often enough together, and held."""
    assert all(finding.count for finding in found)
    assert sum(finding.count for finding in found) >= least
    assert not [case for finding in found for case in finding.broken], findings.tell(found)


@linux
@small_and_large(24, None)
def test_images(count, real_images, monkeypatch):
    monkeypatch.setenv("TINYCNN_TEST_IMAGES", str(real_images))
    assert_kept(fault_images.run(Part(count=count)), 100 if count else 1500)


@small_and_large(60, None)
def test_flips(count):
    assert_kept(fault_flips.run(Part(count=count)), 6 * (count or 3000))


@linux
@small_and_large(400, 20_000)
def test_headers(count):
    found = fault_headers.run(Part(count=count))
    assert_kept(found, 2 * count)
    assert found[0].figures["loaded"] > count / 200, "some changes mean nothing, or something sound"
    assert found[0].figures["refused"] > count / 2


@linux
@small_and_large(60, 600)
def test_arguments(count):
    found = fault_arguments.run(Part(count=count))
    assert_kept(found, 2 * count)
    assert {"exit 0", "exit 2", "exit 3"} <= set(found[0].figures)
    assert found[0].figures["processes"] >= count // 30


# That they can fail


def test_flips_find_a_reader_without_a_hash(monkeypatch):
    """The library's own reader: it takes whatever numbers it finds."""

    def read(path):
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = {k: v for k, v in (file.metadata() or {}).items() if k != tensorfile.HASH_FIELD}
                return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(str(error)) from None

    monkeypatch.setattr(tensorfile, "read", read)
    found = {finding.never: len(finding.broken) for finding in fault_flips.run(Part(count=40))}
    assert found["a model file loads with one bit changed"] > 5
    assert found["a checkpoint loads with one bit changed"] > 5
    assert not found["a model file loads that was cut"]


def test_flips_tell_an_exception_that_should_not_come(tmp_path):
    def load(path):
        raise KeyError("x")

    assert fault_flips.outcome(tmp_path / "f", b"", load) == "KeyError: 'x'"
    assert fault_flips.outcome(tmp_path / "f", b"", lambda path: None) == "loaded"
    assert fault_flips.outcome(tmp_path / "f", b"text", load_model) == "refused"
    assert [fault_flips.flipped(b"\x00\x00", bit) for bit in (0, 15)] == [b"\x01\x00", b"\x00\x80"]


def row(should_accept, why="", **more):
    return {"file": "f", "should_accept": should_accept, "why": why, "format": "PNG", "size": "9x9",
            "exif_orientation": ""} | more  # fmt: skip


def answer(verdict="read", reason="", same=True, noise=""):
    return {"verdict": verdict, "reason": reason, "same": same, "noise": noise, "seconds": 0.1, "bytes": 10**6}


REFUSED = "not an image, or none of PNG"


@pytest.mark.parametrize(
    ("row", "answer", "broken"),
    [
        (row("yes"), answer(), []),
        (row("yes"), answer("refused", "cut"), [1]),
        (row("yes"), answer(same=False), [2]),
        (row("yes"), answer("raised", "KeyError"), [0, 1]),
        (row("yes"), answer("ended by signal 14"), [0, 1]),
        (row("yes"), answer(noise="TIFF: odd\n"), []),
        (row("yes"), answer(noise="\x1b[31m"), [0]),
        (row("no", "decoder error"), answer("refused", "any"), []),
        (row("no", "decoder error"), answer(), [3]),
        (row("no", "truncated: a clear error"), answer("refused", "broken"), [4]),
        (row("no", "truncated: a clear error"), answer("refused", "it is Truncated"), []),
        (row("no", "pixel count far over"), answer("refused", "no memory"), [4]),
        (row("no", "not a recognisable image"), answer("refused", REFUSED), []),
        (row("depends"), answer(), []),
        (row("depends"), answer("refused", REFUSED), [1]),
        (row("depends", format="ICO"), answer("refused", REFUSED), []),
        (row("depends", format="ICO"), answer(), [3]),
        (row("depends", size="9000x9000"), answer("refused", "9000x9000 pixels"), []),
        (row("depends", size="9000x9000"), answer("refused", "broken"), [4]),
        (row("depends", exif_orientation="exif:OSError"), answer("refused", "broken"), []),
        (row("depends", exif_orientation="exif:OSError"), answer(), [3]),
    ],
)
def test_images_are_judged_by_the_manifest_and_the_rules(row, answer, broken):
    found = fault_images.judge([row], [answer])
    assert [i for i, finding in enumerate(found) if finding.broken] == broken


@linux
def test_an_image_that_takes_too_long_or_too_much_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(fault_images, "SECONDS", 1)

    def answer_of(loading):
        code = (
            "import sys, json, time\nfrom benchmarks import fault_images\nfrom tinycnn.errors import DataError\n"
            f"fault_images.SECONDS = 1\ndef load(path):\n    {loading}\nfault_images.load_img = load\n"
            "print(json.dumps(fault_images.open_in_children(['f'])))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)[0]

    assert answer_of("time.sleep(9)")["verdict"] == "ended by signal 14"
    assert answer_of("import os; os.abort()")["verdict"] == "ended by signal 6"
    assert answer_of("bytearray(2 * 2**30)")["verdict"] == "raised"
    assert answer_of("raise DataError('no')")["verdict"] == "refused"


def test_absent_images_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TINYCNN_TEST_IMAGES", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["faults", "--only", "images"])
    assert faults.main() == 0
    assert "images: skipped: no odd images" in capsys.readouterr().err


def test_a_header_is_made_from_its_number_alone(tmp_path):
    content = fault_flips.write_files(tmp_path)[0].read_bytes()
    cases = [fault_headers.case(number, content) for number in range(300)]
    assert cases[::-1] == [fault_headers.case(number, content) for number in reversed(range(300))]
    assert len(set(cases)) > 250
    sealed = 0
    for case in cases:
        (tmp_path / "case").write_bytes(case)
        try:
            tensorfile.read(tmp_path / "case")
        except DataError as error:
            sealed += "SHA-256" not in str(error)
        else:
            sealed += 1
    assert sealed > 200


@pytest.mark.parametrize(
    ("code", "output", "errors", "clear"),
    [
        (0, "fine\n", "", True),
        (0, "\x1b[31m\n", "", False),
        (0, "fine\n", "a warning\u202e\n", False),
        (2, "", "tinycnn train: no\n", True),
        (3, "", "skipped x: y\ntinycnn predict: no\n", True),
        (3, "", "no\n", False),
    ],
)
def test_what_a_command_says_is_judged(code, output, errors, clear):
    assert fault_arguments._is_clear(code, output, errors, False) is clear
    assert fault_arguments._is_clear(0, "=\x1b", "", True)


def test_parts_of_a_campaign():
    assert list(Part().of(5)) == [0, 1, 2, 3, 4]
    assert list(Part(3, 2).of(5)) == [3, 4]
    assert list(Part(3, 20).of(5)) == list(range(3, 23))
    assert Part().sample(4) == [0, 1, 2, 3]
    assert Part(count=3).sample(10) == [0, 3, 6]
    assert Part(8, 5).sample(10) == [8, 9]


def test_help_names_every_option_and_campaign(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["faults", "--help"])
    with pytest.raises(SystemExit):
        faults.main()
    text = capsys.readouterr().out
    assert all(action.help for action in faults.parser()._actions)
    assert all(f"  {name} " in text for name in faults.CAMPAIGNS)


def test_the_table_says_what_happened(tmp_path, monkeypatch, capsys):
    found = [Finding("flips", "x", 7, [], {"n": 3}), Finding("flips", "y", 9, [f"case {i}" for i in range(20)])]
    monkeypatch.setitem(faults.CAMPAIGNS, "flips", lambda part: found)
    monkeypatch.setattr(sys, "argv", ["faults", "--only", "flips", "--output", str(tmp_path / "out.json")])
    assert faults.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[2:4]] == [["7", "0"], ["9", "20"]]
    assert "flips: n 3" in lines
    assert lines[-1] == "BROKEN flips: case 4"
    kept = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["count"], len(r["broken"])) for r in kept] == [(7, 0), (9, 20)]
