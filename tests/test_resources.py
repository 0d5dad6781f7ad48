"""What happens to a training when the machine has no more to give: one line, a known exit code, a whole checkpoint."""

import resource
import shutil
import subprocess
import sys

import pytest
from test_train import ROOT, command_line, run

from tinycnn.models import load_checkpoint

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's mounts and limits")
OPTIONS = ("--image-size", 12, "--batch-size", 5, "--epochs", 50, "--backend", "numpy", "--quiet")


def in_mounts_of_its_own(script: str) -> subprocess.CompletedProcess:
    """A shell script that may mount what others do not see."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no unshare here, or not allowed: mounts need root")
    command = ["unshare", "-m", "bash", "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def words(*arguments) -> str:
    return " ".join(f"'{part}'" for part in command_line(*arguments))


def test_a_full_disk_is_said_and_the_last_checkpoint_is_whole(small_photos, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "checkpoint.safetensors"
    disk.mkdir()
    done = in_mounts_of_its_own(
        f"mount -t tmpfs -o size=900k none {disk} && {words(small_photos, *OPTIONS, '--out', disk / 'run')}; code=$?; "
        f"ls -A {disk}/run; cp {disk}/run/checkpoint.safetensors {kept}; exit $code"
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "cannot be written (No space left on device)" in done.stderr
    assert not any(name.startswith(".") for name in done.stdout.split())
    model, position = load_checkpoint(kept)
    assert model.optimizer.iterations == 5 * position.epoch + position.step


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_read(small_photos, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    done = in_mounts_of_its_own(
        f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && "
        f"{words(small_photos, *OPTIONS, '--out', folder / 'run')}"
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"tinycnn train: --out {folder / 'run'}: nothing can be written in {folder}; choose another folder\n"
    )


def test_too_little_memory_is_said(small_photos, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))

    command = command_line(
        small_photos, "--image-size", 1000, "--batch-size", 24, "--backend", "numpy", "--out", tmp_path / "run"
    )
    environment = {"OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, preexec_fn=limit
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tinycnn train: out of memory; try a smaller --batch-size")


def test_data_that_vanishes_costs_nothing_that_was_read(small_photos, tmp_path):
    """Images are read once, before training; a run goes on only where they still are."""
    photos, out = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(small_photos, photos)
    assert run(photos, *OPTIONS, "--epochs", 2, "--out", out) == 0
    shutil.rmtree(photos)
    assert run("--resume", out, "--quiet", "--epochs", 3) == 3
    assert load_checkpoint(out / "checkpoint.safetensors")[1].epoch == 2
