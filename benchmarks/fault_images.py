"""A campaign of faults: corrupt and odd image files, each in a process with limits, then all of them as one folder.

    python -m benchmarks.fault_images FILE...

is the process that opens FILEs, each in a child of its own with 1 GiB of address space and 5 seconds, and prints what
became of them as JSON. A manifest says of each file whether to accept it: "yes", "no" or "depends". What depends is
decided so:

| what it is | what happens |
| --- | --- |
| of a format that is not read (ICO, CUR, DIB, TGA, ...) | refused: "not an image, or none of ..." |
| claims more pixels than allowed, however small the file | refused before it is decoded |
| valid, of a format that is read; several frames | accepted: the first frame |
| damaged, and Pillow's decoder says so at the first try (the manifest's "exif:OSError") | refused with its words |
| damaged or suspect, and the decoder makes a picture of it without complaint | accepted: that picture |
| sound, with damaged metadata | accepted: the picture, not turned |
"""

import csv
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tinycnn.errors import DataError
from tinycnn.preprocessing.load import FORMATS, MAX_PIXELS, load_img
from tinycnn.preprocessing.scan import is_image_name

from .common import ROOT
from .findings import Finding, Part, SkippedError, in_process_of_its_own, needs_linux

NAME = "images"
MEMORY, SECONDS = 2**30, 5
DECODER_COMPLAINED = "exif:OSError"  # in the manifest: Pillow looked for the orientation after the picture
WORDS = {  # of a reason, for what the manifest says is wrong; a format that is not read is "not an image" at once
    "pixel count": ("pixels", "not an image"),
    "not a recognisable image": ("not an image",),
    "truncated": ("truncated", "not an image"),
    "decoder error": ("",),
}


def corpus() -> Path:
    """The folder of odd images, which is no part of the project. Raises SkippedError where it is absent."""
    folder = Path(os.environ.get("TINYCNN_TEST_IMAGES", ROOT.parent / "shared" / "data")) / "odd_images"
    if not (folder / "manifest.tsv").is_file():
        raise SkippedError("no odd images: TINYCNN_TEST_IMAGES names no folder that holds odd_images/manifest.tsv")
    return folder


def run(part: Part) -> list[Finding]:
    """The campaign."""
    needs_linux()
    folder = corpus()
    with (folder / "manifest.tsv").open(newline="") as file:
        every = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [every[i] for i in part.sample(len(every))]
    files = [str(folder / row["file"]) for row in rows]
    answers = in_process_of_its_own("benchmarks.fault_images", *files)
    return [*judge(rows, answers), _as_a_folder(folder, rows, answers)]


def judge(rows: list[dict[str, str]], answers: list[dict[str, Any]]) -> list[Finding]:
    """What the files became, against what the manifest and the rules above say."""
    pairs = [(row, answer, accepts(row)) for row, answer in zip(rows, answers, strict=True)]
    good, bad = ([(r, a) for r, a, accept in pairs if accept == wanted] for wanted in (True, False))
    ended = [f"{r['file']}: {a['verdict']} {a.get('reason', '')}" for r, a, _ in pairs if not _has_ended_well(a)]
    figures = {
        "read": sum(a["verdict"] == "read" for a in answers),
        "refused": sum(a["verdict"] == "refused" for a in answers),
        "of them by the rules": sum(r["should_accept"] == "depends" for r in rows),
        "with a line of libtiff's own on stderr": sum(bool(a["noise"]) for a in answers),
        "most seconds": max((a["seconds"] for a in answers), default=0),
        "most MB": max((a["bytes"] for a in answers), default=0) // 10**6,
    }
    return [
        Finding(NAME, "a crash, a hang, another exception, unprintable output", len(pairs), ended, figures),
        Finding(NAME, "a file to accept is refused", len(good), [_case(r, a) for r, a in good if not _is_read(a)]),
        Finding(
            NAME, "other pixels than Pillow's, turned upright", sum(_is_read(a) for a in answers),
            [r["file"] for r, a, _ in pairs if _is_read(a) and not a["same"]],
        ),
        Finding(NAME, "a file to refuse is accepted", len(bad), [r["file"] for r, a in bad if _is_read(a)]),
        Finding(
            NAME, "a refusal for another reason", len(bad),
            [_case(r, a) for r, a in bad if a["verdict"] == "refused" and not _fits(r, a["reason"])],
        ),
    ]  # fmt: skip


def accepts(row: dict[str, str]) -> bool:
    """Whether a file is to be accepted: the manifest's word, or the rules above."""
    if row["should_accept"] != "depends":
        return row["should_accept"] == "yes"
    width, height = map(int, row["size"].split("x"))
    whole = row["exif_orientation"] != DECODER_COMPLAINED
    return row["format"] in FORMATS and width * height <= MAX_PIXELS and whole


def _fits(row: dict[str, str], reason: str) -> bool:
    kinds = [words for start, words in WORDS.items() if row["why"].startswith(start)] or [("",)]
    if row["should_accept"] == "depends":
        complained = row["exif_orientation"] == DECODER_COMPLAINED
        kinds = [("not an image",)] if row["format"] not in FORMATS else [("",) if complained else ("pixels",)]
    return reason.isprintable() and any(word in reason.lower() for word in kinds[0])


def _is_read(answer: dict[str, Any]) -> bool:
    return answer["verdict"] == "read"


def _has_ended_well(answer: dict[str, Any]) -> bool:
    return answer["verdict"] in ("read", "refused") and answer["noise"].replace("\n", "").isprintable()


def _case(row: dict[str, str], answer: dict[str, Any]) -> str:
    return f"{row['file']}: {answer['verdict']} {answer.get('reason', '')}"


def _as_a_folder(folder: Path, rows: list[dict[str, str]], answers: list[dict[str, Any]]) -> Finding:
    """All files as a class beside another, read by flow_from_directory and by the predict command."""
    listed = {r["file"]: _is_read(a) for r, a in zip(rows, answers, strict=True) if is_image_name(r["file"])}
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        (top / "odd").mkdir()
        (top / "plain").mkdir()
        for name in listed:
            (top / "odd" / name).symlink_to((folder / name).resolve())
        Image.new("RGB", (8, 8), "teal").save(top / "plain" / "a.png")
        Image.new("RGB", (8, 8), "navy").save(top / "odd" / "zz.png")
        try:
            found = in_process_of_its_own("benchmarks.fault_images", "--folder", temporary, seconds=300)
        except RuntimeError as error:
            return Finding(NAME, "one bad file costs the run of its folder", len(listed), [str(error)[-300:]])
    broken = [
        f"{way}: {name}" for way in ("flow", "predict") for name, read in listed.items() if (name in found[way]) != read
    ]
    figures = {"folder seconds": found["seconds"], "folder MB": found["bytes"] // 10**6}
    return Finding(NAME, "one bad file costs the run of its folder", 2 * len(listed), broken, figures)


def open_in_children(files: list[str]) -> list[dict[str, Any]]:
    """Open each file in a child with limits: verdict, reason, whether its pixels are right, seconds, bytes."""
    return [_in_a_child(file) for file in files]


def _in_a_child(file: str) -> dict[str, Any]:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.close(reading)
            os.dup2(errors.fileno(), 2)
            _limit()
            os.write(writing, json.dumps(_open(file)).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            text = pipe.read()
        _, status, used = os.wait4(child, 0)
        answer = json.loads(text) if text else {"verdict": f"ended by signal {status}", "seconds": used.ru_utime}
        errors.seek(0)
        noise = errors.read().decode(errors="backslashreplace")
    return {"bytes": used.ru_maxrss * 1024, **answer, "noise": noise}


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)


def _open(file: str) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        pixels = np.asarray(load_img(file))
        answer = {"verdict": "read"}
    except DataError as error:
        answer = {"verdict": "refused", "reason": str(error).removeprefix(file)}
    except BaseException as error:
        answer = {"verdict": "raised", "reason": f"{type(error).__name__}: {error}"}
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer |= {"seconds": round(time.perf_counter() - began, 3), "bytes": used}
    if answer["verdict"] == "read":
        signal.alarm(60)  # the limits are for the code under test, not for what it is compared with
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        answer["same"] = np.array_equal(pixels, as_pillow_decodes(file))
    return answer


def as_pillow_decodes(file: str) -> np.ndarray:
    """The pixels (H, W, 3) by Pillow alone, turned upright; more than 8 bits scaled by hand."""
    warnings.simplefilter("ignore")  # in a process of its own
    with Image.open(file) as img:
        img.load()
        try:
            img = ImageOps.exif_transpose(img)
        except Exception:
            img = img.copy()
        if img.mode.startswith("I"):
            grey = np.floor(np.asarray(img).astype(np.float64) * 255 / 65535 + 0.5).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if img.mode == "P" and "transparency" in img.info:
            img = img.convert("RGBA")
        return np.asarray(img.convert("RGB"))


def read_folder(folder: Path) -> dict[str, Any]:
    """The names that flow_from_directory and predict make something of, in this process, with its memory limited."""
    import contextlib
    import io

    from tinycnn import predict
    from tinycnn.preprocessing.image import ImageDataGenerator, Preprocessing
    from tinycnn.train import fish_network

    resource.setrlimit(resource.RLIMIT_AS, (2 * MEMORY, 2 * MEMORY))
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        data = ImageDataGenerator().flow_from_directory(folder, (64, 64), class_mode="binary", interpolation="lanczos")
        sum(len(data[i][0]) for i in range(len(data)))
    model = fish_network(64, 2)
    model.class_names, model.preprocessing = ["odd", "plain"], Preprocessing((64, 64), rescale=1 / 255)
    model.save(folder / "model.safetensors")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = predict.main([str(folder / "model.safetensors"), str(folder / "odd"), "--format", "json"])
    assert code == 0, f"predict: exit code {code}"
    return {
        "flow": [os.path.basename(path) for path in data.filepaths],
        "predict": [os.path.basename(item["path"]) for item in json.loads(output.getvalue())],
        "seconds": round(time.perf_counter() - began, 1),
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    whole_folder = sys.argv[1] == "--folder"
    print(json.dumps(read_folder(Path(sys.argv[2])) if whole_folder else open_in_children(sys.argv[1:])))
