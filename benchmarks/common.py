"""What the benchmarks share: what machine this is, how many threads and cores may work, tables, result files."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TINYCNN_NUM_THREADS",
)
DISTRIBUTIONS = (  # whose versions a result names
    "tinycnn", "numpy", "numba", "llvmlite", "pillow", "scipy", "torch", "tensorflow", "tensorflow-cpu", "keras",
    "onnx", "onnxruntime", "openvino", "jax", "jaxlib", "tinygrad",
)  # fmt: skip
VECTOR_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "asimd", "sve", "amx_tile", "amx_bf16")  # and all of AVX-512

T = TypeVar("T")


def say(line: str) -> None:
    """Progress: on standard error, so that standard output holds the tables alone."""
    print(line, file=sys.stderr, flush=True)


def thread_environment(threads: int) -> dict[str, str]:
    """This process's environment with every library known here told to use `threads` threads and no GPU."""
    # On processors without AVX-512 TensorFlow leaves oneDNN out unless told otherwise, and is half as fast without it.
    chosen = {"CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **chosen, **quiet}


def kill_group(process: subprocess.Popen) -> None:
    """End a process that leads a group, and all that it started, at once; wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_for(threads: int) -> list[int]:
    """The cores for a process of so many threads: no more of them, so that no library borrows one."""
    return usable_cores()[-threads:]


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once."""
    with contextlib.suppress(OSError):  # getrusage also counts what the parent held when it started this process
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def children_memory() -> int:
    """The bytes that this process's living children hold and share with nobody; 0 where Linux does not tell."""
    total = 0
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            with contextlib.suppress(OSError):  # it may have ended since
                rollup = Path("/proc", child, "smaps_rollup").read_text()
                total += sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))) * 1024
    return total


def machine() -> dict[str, Any]:
    """The processor, as far as it decides speed; nothing that names the computer."""
    facts = _processor_facts()
    flags = set(facts.pop("flags", "").split())
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cores": len(usable_cores()),
        **facts,
        "vector_flags": sorted(flag for flag in flags if flag in VECTOR_FLAGS or flag.startswith("avx512")),
    }


def _processor_facts() -> dict[str, str]:
    """Model, caches and flags as `lscpu` knows them; the model alone elsewhere."""
    wanted = {"Model name": "model", "Flags": "flags", "Socket(s)": "sockets", "Thread(s) per core": "threads_per_core"}
    wanted |= {f"{level} cache": f"{level.lower()}_cache" for level in ("L1d", "L2", "L3")}
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env=environment).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"model": platform.processor()}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {wanted[name.strip()]: value.strip() for name, value in pairs if name.strip() in wanted}


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed version of each of these distributions; those that are absent are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def one_line(error: BaseException | str) -> str:
    """An error as one line that holds no folder of this machine."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return re.sub(r"(/[\w.+@-]+)+/", "", lines[0])[:200]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns side by side: the first to the left, numbers to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def text(line: list[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join([line[0].ljust(widths[0]), *cells]).rstrip()

    return "\n".join([text(lines[0]), "  ".join("-" * width for width in widths), *map(text, lines[1:])])


def write_results(path: Path, settings: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """One JSON file with what was measured, on what, with which versions, and when; replaced in one go."""
    from tinycnn.storage import to_json, write_atomically

    content = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": machine(),
        "versions": versions(DISTRIBUTIONS),
        "settings": settings,
        "results": results,
    }
    write_atomically(path, to_json(content))


def output_file(text: str) -> Path:
    """An argument type: a file to write, in a folder that is there or can be made."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path.parent}: cannot be made ({error.strerror})") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def listed(kind: Callable[[str], T], known: Sequence[T] | None = None) -> Callable[[str], list[T]]:
    """An argument type: values with commas between them, each once, all of them known ones."""

    def parse(text: str) -> list[T]:
        values = list(dict.fromkeys(map(kind, text.split(","))))
        for value in values:
            if known is not None and value not in known:
                raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(map(str, known))}")
        return values

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """An argument type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse
