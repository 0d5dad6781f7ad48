"""What several test files share: where the real images are."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_images() -> Path:
    """A folder of real photographs that is not part of the project (TINYCNN_TEST_IMAGES, or ../shared/data)."""
    folder = Path(os.environ.get("TINYCNN_TEST_IMAGES", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is absent (set TINYCNN_TEST_IMAGES)")
    return folder
