"""The wheel holds what the tree holds; wheel, editable install and bare checkout all run; importing stays cheap."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source / "tinycnn")], check=True)
    built = run(sys.executable, "-m", "build", "--wheel", "--outdir", str(out), cwd=source / "tinycnn")
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = out.glob("*.whl")
    return found


def tracked(folder: str) -> set[str]:
    names = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(names.stdout.split())


@pytest.mark.slow
def test_wheel_holds_the_tree(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kernels = {f"tinycnn/{name}" for name in tracked("kernels")}
    assert packed == tracked("tinycnn") | kernels


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_installed_trains(how, wheel, tmp_path, small_photos):
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = str(tmp_path / "venv/bin/python")
    what = [str(wheel)] if how == "wheel" else ["-e", str(ROOT)]
    installed = run(python, "-m", "pip", "install", "-q", *what, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    for cwd in (tmp_path, ROOT):  # in the checkout, the checkout's own code must not get half mixed in
        out = tmp_path / f"run in {cwd.name}"
        command = [python, "-m", "tinycnn.train", str(small_photos), "--epochs", "1", "--out", str(out)]
        done = run(*command, "--image-size", "16", cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert (out / "model.safetensors").is_file()
    console = run(str(tmp_path / "venv/bin/tinycnn"), "--help", cwd=tmp_path)
    assert console.returncode == 0
    assert "train" in console.stdout


@pytest.mark.parametrize("cwd", ["checkout", "elsewhere"])
def test_checkout_trains(cwd, tmp_path, small_photos):
    """Uninstalled, from its own folder or through PYTHONPATH."""
    out = tmp_path / "run"
    done = run(
        sys.executable, "-m", "tinycnn.train", str(small_photos), "--epochs", "1", "--out", str(out), "--quiet",
        "--image-size", "16", "--backend", "numpy",
        cwd=ROOT if cwd == "checkout" else tmp_path, PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (out / "model.safetensors").is_file()


@pytest.mark.slow
def test_import_is_cheap(tmp_path):
    """At most 60 ms over numpy, in the best of several tries: what a loaded machine adds is not the import's."""
    script = "import sys, time; import numpy; t = time.perf_counter(); import tinycnn; print(time.perf_counter() - t)"
    tries = [float(run(sys.executable, "-c", script, cwd=ROOT).stdout) for _ in range(7)]
    assert min(tries) <= 0.060
