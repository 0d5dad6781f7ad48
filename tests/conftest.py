"""What several test files share: where the real images are."""

import os
from pathlib import Path

import numpy as np
import pytest
from checks import no_leaks, planted  # noqa: F401
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_images() -> Path:
    """A folder of real photographs that is not part of the project (TINYCNN_TEST_IMAGES, or ../shared/data)."""
    folder = Path(os.environ.get("TINYCNN_TEST_IMAGES", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is absent (set TINYCNN_TEST_IMAGES)")
    return folder


@pytest.fixture(scope="session")
def small_photos(tmp_path_factory) -> Path:
    """A folder of 24 + 12 pictures in two classes that differ by their pattern, in two trees."""
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 12), ("test", 6)):
        for kind in ("stripes", "plain"):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng([count, len(kind), i])
                pixels = rng.integers(0, 90, (40, 48, 3)) + rng.integers(0, 90, 3)
                pixels[:, ::6] += 70 * (kind == "stripes")
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / kind / f"{i:02}.png")
    return folder


def pytest_terminal_summary(terminalreporter) -> None:
    """Says how far the CUDA kernels were tried: a machine without a GPU, a compiler or nvcc tries less."""
    parts = {
        "compiled for GPUs": "test_cuda_compile.py",
        "run on the processor": "test_cuda",
        "run on a GPU": "test_gpu",
    }
    counts = {what: dict.fromkeys(("passed", "failed", "skipped"), 0) for what in parts}
    for outcome in counts["run on a GPU"]:
        for report in terminalreporter.stats.get(outcome, ()):
            file = report.nodeid.split("::")[0].rpartition("/")[2]
            if what := next((what for what, start in parts.items() if file.startswith(start)), None):
                counts[what][outcome] += 1
    if any(any(found.values()) for found in counts.values()):
        told = (f"{what} " + ", ".join(f"{n} {o}" for o, n in found.items() if n) for what, found in counts.items())
        terminalreporter.write_line("CUDA kernels: " + "; ".join(line for line in told if line[-1] != " "))
