"""The embedded data set: a folder of drawn clownfish and angelfish, in place of photographs that cannot be shipped."""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from ..errors import DataError, TinycnnError, UsageError
from ..random import generator
from .fish_drawing import KINDS, VERSION, draw

__all__ = ["KINDS", "VERSION", "contact_sheet", "default_folder", "draw", "make"]

ABOUT = "about.json"  # lies in the set's folder and says what is in it
DONE, FAILED = "done", "failed: "  # how the lines begin that a worker prints


def cache_folder() -> Path:
    """Where this user's caches lie: TINYCNN_CACHE, or the platform's convention followed by "tinycnn"."""
    if chosen := os.environ.get("TINYCNN_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinycnn"


def default_folder(train: int, test: int, seed: int) -> Path:
    """The folder of a set in the cache; sets that differ in anything have different names."""
    return cache_folder() / f"fish-train{train}-test{test}-seed{seed}-v{VERSION}"


def make(
    folder: Path | str | None = None, *, train: int = 8000, test: int = 2000, seed: int = 0, progress: bool = True
) -> Path:
    """Draw the data set into `folder` unless it is there already, and return the folder.

    `train` and `test` count both kinds together, half each. The tree is train/angelfish, train/clownfish,
    test/angelfish, test/clownfish with JPEG files of 128x128 pixels. Without `folder` it lies in the user's cache.

    The folder is complete or absent: it grows as `<folder>.partial/set` and is renamed at the end. An interrupted
    run is continued by the next one. Several processes may make the same set at once, without a lock: each file
    appears by a rename, so any of them may skip what another wrote, and the first to finish renames the folder;
    the others then find it complete.

    Raises UsageError for a count below 2, DataError if the folder holds something else or cannot be written.
    """
    if train < 2 or test < 2:
        raise UsageError(f"train and test must be at least 2 (one image of each kind), not {train} and {test}")
    folder = Path(os.path.abspath(folder if folder is not None else default_folder(train, test, seed)))
    about = {"what": "tinycnn fish images", "version": VERSION, "train": train, "test": test, "seed": seed}
    if _is_complete(folder, about):
        return folder
    partial = folder.with_name(folder.name + ".partial")
    try:
        _start(partial, about)
        if not _is_complete(folder, about):  # another process may have finished since
            _run_workers(partial, about, progress)
            _publish(partial, folder)
    except (DataError, OSError) as error:
        if not _is_complete(folder, about):  # else another process finished first and took the partial folder away
            raise error if isinstance(error, DataError) else DataError(_reason(error, partial)) from None
    for rest in ("temporary", "set"):
        shutil.rmtree(partial / rest, ignore_errors=True)
    with suppress(OSError):
        partial.rmdir()
    return folder


def files(about: dict) -> Iterator[tuple[str, str, int, str]]:
    """Each file of a set: its split, kind, index, and path inside the folder."""
    for split in ("train", "test"):
        count = about[split]
        for kind, many in zip(KINDS, (count - count // 2, count // 2), strict=True):
            for index in range(1, many + 1):
                yield split, kind, index, f"{split}/{kind}/{kind}_{index:05d}.jpg"


def _reason(error: OSError, folder: Path) -> str:
    """One line for an operating system's refusal: a full disk, a folder that may not be written."""
    return f"{error.filename or folder}: cannot make the fish images here: {error.strerror or error}"


def _is_complete(folder: Path, about: dict) -> bool:
    """Whether the folder holds this very set; DataError if it holds anything else."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
        if not _is_about(folder / ABOUT, about):
            raise DataError(f"{folder}: is not the set of fish images asked for; name another folder")
        present = {f"{d.parent.name}/{d.name}/{name}" for d in folder.glob("*/*") for name in os.listdir(d)}
    except OSError as error:
        raise DataError(_reason(error, folder)) from None
    missing = sum(path not in present for *_, path in files(about))
    if missing:
        raise DataError(f"{folder}: {missing} of its images are missing; delete the folder to have it drawn again")
    return True


def _is_about(file: Path, about: dict) -> bool:
    """Whether the file describes this set."""
    try:
        return json.loads(file.read_text("utf-8")) == about
    except (OSError, ValueError):
        return False


def _start(partial: Path, about: dict) -> None:
    """Make the unfinished folder, or check that the one found was begun with the same settings."""
    (partial / "temporary").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        for kind in KINDS:
            (partial / "set" / split / kind).mkdir(parents=True, exist_ok=True)
    if not (partial / "set" / ABOUT).exists():
        _write_whole(partial, ABOUT, json.dumps(about).encode())
    if not _is_about(partial / "set" / ABOUT, about):
        raise DataError(f"{partial}: is an unfinished set with other settings; delete it or name another folder")


def _write_whole(partial: Path, name: str, data: bytes) -> None:
    """Write a file of the set so that its name never stands for half of it."""
    temporary = partial / "temporary" / f"{uuid.uuid4().hex}.tmp"
    temporary.write_bytes(data)
    os.replace(temporary, partial / "set" / name)


def _is_whole(path: Path) -> bool:
    """Whether the file is there down to JPEG's end marker, which a power cut may have kept from the disk."""
    try:
        with open(path, "rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == b"\xff\xd9"
    except OSError:
        return False


def _publish(partial: Path, folder: Path) -> None:
    """Give the complete set its name."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # an empty folder made beforehand, which not every system lets a rename replace
    os.rename(partial / "set", folder)


def _say(line: str) -> None:
    """Tell make(): the whole line in one write, since all workers share its pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _draw_share(partial: Path, about: dict, share: int, shares: int) -> None:
    """A worker's part: draw every `shares`-th image that is not yet there, printing a line for each."""
    for split, kind, index, name in islice(files(about), share, None, shares):
        if not _is_whole(partial / "set" / name):
            rng = generator(about["seed"], f"fish-{split}-quality", index, KINDS.index(kind))
            data = io.BytesIO()
            draw(kind, about["seed"], split, index).save(data, "JPEG", quality=int(rng.integers(60, 96)))
            _write_whole(partial, name, data.getvalue())
        _say(DONE)


def _run_workers(partial: Path, about: dict, progress: bool) -> None:
    """Draw what is missing with one Python process per usable core; DataError with the reason if one fails."""
    total = about["train"] + about["test"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = min(cores, total)
    # -P keeps Python from importing what lies in the user's working folder.
    command = [sys.executable, "-P", "-m", "tinycnn.datasets.fish", str(partial)]
    command += [f"--{name}={about[name]}" for name in ("train", "test", "seed")]
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    workers: list[subprocess.Popen] = []
    reader, writer = os.pipe()  # one for all of them: a short line is written in one piece
    try:
        with open(reader, encoding="utf-8", errors="replace") as lines:
            with open(writer, "wb") as output:
                for share in range(shares):
                    arguments = [*command, f"--worker={share}/{shares}"]
                    workers.append(
                        subprocess.Popen(
                            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
                        )
                    )
            last_words = _follow(lines, total, progress)
        code = next(filter(None, [worker.wait() for worker in workers]), 0)
        if code:
            raise DataError(f"{partial}: a drawing process ended with code {code}, run this again; {last_words}")
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
            worker.wait()


def _follow(lines: Iterable[str], total: int, progress: bool) -> str:
    """Show the progress that the workers report; DataError at the first failure, else their last other line."""
    on_terminal = progress and sys.stderr.isatty()
    done, last_words = 0, ""
    with tqdm(total=total, desc="drawing fish", unit="image", disable=not on_terminal) as bar:
        for line in lines:
            if line.startswith(FAILED):
                raise DataError(line.removeprefix(FAILED).strip())
            if line.strip() != DONE:
                last_words = line.strip() or last_words
                continue
            done += 1
            bar.update()
            if progress and not on_terminal and (10 * done) // total > (10 * (done - 1)) // total:
                print(f"drawing fish: {done} of {total} images", file=sys.stderr, flush=True)
    return last_words


def contact_sheet(file: Path | str, *, count: int = 100, seed: int = 0, columns: int = 10) -> None:
    """Draw the first `count` training images, both kinds in turn, with their labels, into one PNG file.

    Raises UsageError for a count below 1, DataError if the file cannot be written.
    """
    if count < 1:
        raise UsageError(f"count must be at least 1, not {count}")
    columns = min(columns, count)
    wide, high = 128 + 4, 128 + 16
    sheet = Image.new("RGB", (columns * wide, -(-count // columns) * high), "white")
    label = ImageDraw.Draw(sheet)
    for position in tqdm(range(count), desc="drawing fish", disable=not sys.stderr.isatty()):
        x, y = position % columns * wide + 2, position // columns * high + 14
        kind, index = KINDS[position % 2], position // 2 + 1
        sheet.paste(draw(kind, seed, "train", index), (x, y))
        label.text((x, y - 13), f"{kind} {index}", fill="black")
    try:
        sheet.save(file, "PNG")
    except OSError as error:
        raise DataError(f"{file}: cannot write the contact sheet: {error.strerror or error}") from None


def _parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tinycnn.datasets.fish",
        description="Draw the embedded data set of tinycnn, clownfish and angelfish, as 128x128 JPEG files in "
        "train/ and test/ with one folder per kind. The same arguments always give the same pictures. "
        "An interrupted run is continued by the same command.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER",
        help="where to put the set (default: a folder in the user's cache, or in TINYCNN_CACHE)",
    )  # fmt: skip
    parser.add_argument("--train", type=int, default=8000, metavar="N", help="training images (default: %(default)s)")
    parser.add_argument("--test", type=int, default=2000, metavar="N", help="test images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which set to draw (default: %(default)s)")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE.png",
                        help="draw one labelled picture of many training images instead of the set")  # fmt: skip
    parser.add_argument("--count", type=int, default=100, metavar="N",
                        help="images on the contact sheet (default: %(default)s)")  # fmt: skip
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # "share/shares": how make() starts its workers
    return parser


def _work(folder: Path, about: dict, worker: str) -> int:
    """Be one of the workers of make(); the exit code."""
    share, shares = map(int, worker.split("/"))
    try:
        _draw_share(folder, about, share, shares)
    except BrokenPipeError:  # make() is gone
        return 1
    except OSError as error:
        _say(FAILED + _reason(error, folder))
        return DataError.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    sizes = {"train": options.train, "test": options.test, "seed": options.seed}
    try:
        if options.worker:
            return _work(options.folder, sizes, options.worker)
        if options.contact_sheet:
            contact_sheet(options.contact_sheet, count=options.count, seed=options.seed)
        else:
            print(make(options.folder, **sizes))
    except TinycnnError as error:
        print(f"fish: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fish: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
