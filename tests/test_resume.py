"""A run that was stopped goes on to the same bits, from any step; or says why it cannot."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_train import ROOT, command_line, machine, picture, run, threads, weights  # noqa: F401

from tinycnn import train as command
from tinycnn.callbacks import Callback
from tinycnn.errors import DivergenceError, UsageError
from tinycnn.interrupts import Interrupts
from tinycnn.models import load_checkpoint
from tinycnn.run_folder import USUAL, Checkpoints, Every, held, sweep

OPTIONS = ("--image-size", 12, "--batch-size", 5, "--epochs", 3, "--backend", "numba", "--quiet")  # 5 steps an epoch
SAME = ("model.safetensors", "best.safetensors", "checkpoint.safetensors", "history.csv", "images.txt", "snapshots")


@pytest.fixture(scope="module")
def whole(small_photos, tmp_path_factory) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(small_photos, *OPTIONS, "--out", out) == 0
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Every byte that must not depend on whether a run was stopped."""
    files = [file for name in SAME for file in ((out / name).iterdir() if (out / name).is_dir() else [out / name])]
    figures = json.loads((out / "metrics.json").read_text())
    del figures["seconds"], figures["checkpoint_seconds"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files} | {"metrics": json.dumps(figures).encode()}


class StopAfter(Interrupts):
    """The signal comes after so many batches, of training and of testing."""

    batches = 0

    def look(self) -> None:
        StopAfter.batches -= 1
        self.number = signal.SIGTERM if StopAfter.batches == 0 else 0
        super().look()


def stopped(photos: Path, out: Path, batches: int, monkeypatch, *options) -> None:
    """A run that a signal stops after so many batches."""
    monkeypatch.setattr(StopAfter, "batches", batches)
    with monkeypatch.context() as patched:
        patched.setattr(command, "Interrupts", StopAfter)
        assert run(photos, *OPTIONS, "--out", out, *options) == 143


@pytest.mark.parametrize("batches", [1, 4, 5, 6, 8, 9, 21, 24])  # an epoch is 5 of training and 3 of testing
def test_a_stopped_run_goes_on_to_the_same_bytes(batches, whole, small_photos, tmp_path, monkeypatch):
    out = tmp_path / "run"
    stopped(small_photos, out, batches, monkeypatch)
    assert not (out / "model.safetensors").exists()
    assert run("--resume", out, "--threads", 1 + batches % 2, "--quiet") == 0
    assert contents(out) == contents(whole)


def test_a_run_stopped_again_and_again(whole, small_photos, tmp_path, monkeypatch):
    out = tmp_path / "run"
    stopped(small_photos, out, 3, monkeypatch)
    for batches in (1, 2, 7):
        monkeypatch.setattr(StopAfter, "batches", batches)
        with monkeypatch.context() as patched:
            patched.setattr(command, "Interrupts", StopAfter)
            assert run("--resume", out, "--quiet") == 143
    assert run("--resume", out, "--quiet") == 0
    assert contents(out) == contents(whole)


def test_what_a_killed_run_left_is_swept_and_a_run_without_checkpoint_begins_anew(
    whole, small_photos, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    stopped(small_photos, out, 7, monkeypatch)
    (out / "checkpoint.safetensors").unlink()
    left = [out / ".checkpoint.safetensors.ab12cd34", out / "snapshots" / ".epoch-00001.safetensors.x"]
    for file in left:
        file.write_bytes(b"half")
    (out / ".mine").write_bytes(b"not ours")
    assert run("--resume", out, "--quiet") == 0
    assert not any(file.exists() for file in left)
    assert (out / ".mine").exists()
    assert contents(out) == contents(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no lock")
def test_a_run_is_trained_by_one_process_at_a_time(whole, small_photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    stopped(small_photos, out, 7, monkeypatch)
    half_written = out / ".checkpoint.safetensors.ab12cd34"
    half_written.write_bytes(b"half")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with held(out):
        assert run("--resume", out, "--quiet") == 3
    assert "run: another process is training this run; wait until it has ended" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert run("--resume", out, "--quiet") == 0
    assert contents(out) == contents(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no lock")
def test_a_new_run_is_held_too(small_photos, tmp_path, monkeypatch):
    resumed = []

    class ResumedMeanwhile(Callback):
        def on_epoch_end(self, epoch, logs):
            if not resumed:
                resumed.append(0)
                resumed[:] = [run("--resume", tmp_path / "run", "--quiet")]

    monkeypatch.setattr(command, "StopAtDivergence", ResumedMeanwhile)
    assert run(small_photos, *OPTIONS, "--out", tmp_path / "run") == 0
    assert resumed == [3]


def test_a_drive_without_locks_is_trained_on(whole, small_photos, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run(small_photos, *OPTIONS, "--out", tmp_path / "run") == 0
    assert contents(tmp_path / "run") == contents(whole)


def test_a_finished_run_can_be_finished_again_or_made_longer(whole, small_photos, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "model.safetensors").unlink()
    assert run("--resume", out, "--quiet") == 0
    assert contents(out) == contents(whole)
    assert run("--resume", out, "--quiet", "--epochs", 4) == 0
    assert run(small_photos, *OPTIONS, "--epochs", 4, "--out", tmp_path / "longer") == 0
    assert contents(out) == contents(tmp_path / "longer")


# What cannot be gone on with


def other_seed(out: Path, photos: Path) -> None:
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace("seed = 0", "seed = 1"))


def larger_images(out: Path, photos: Path) -> None:
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace("image_size = 12", "image_size = 14"))


def image_changed(out: Path, photos: Path) -> None:
    picture(photos / "train" / "plain" / "03.png", 5)


def image_gone(out: Path, photos: Path) -> None:
    (photos / "train" / "plain" / "03.png").unlink()


def image_new(out: Path, photos: Path) -> None:
    picture(photos / "test" / "stripes" / "99.png", 5)


def settings_damaged(out: Path, photos: Path) -> None:
    (out / "config.toml").write_text("seed = [")


def settings_of_another_type(out: Path, photos: Path) -> None:
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace("seed = 0", 'seed = "none"'))


def no_number_of_steps(out: Path, photos: Path) -> None:
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text + 'steps_per_epoch = "all"\n')


def settings_gone(out: Path, photos: Path) -> None:
    (out / "config.toml").unlink()


def checkpoint_damaged(out: Path, photos: Path) -> None:
    (out / "checkpoint.safetensors").write_bytes((out / "checkpoint.safetensors").read_bytes()[:-7])


CHANGES = {
    other_seed: "seed is 1, was 0",
    larger_images: "image_size is 14, was 12; the network is another",
    image_changed: "1 changed, first train/plain/03.png",
    image_gone: "1 missing, first train/plain/03.png",
    image_new: "1 new, first test/stripes/99.png",
    settings_damaged: "config.toml cannot be read",
    settings_of_another_type: "config.toml says seed = 'none', which is no such value",
    no_number_of_steps: "config.toml says steps_per_epoch = 'all', which is no such value",
    settings_gone: "no config.toml there; name the folder of a run",
    checkpoint_damaged: "checkpoint.safetensors: ",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_differs_is_named(change, small_photos, tmp_path, monkeypatch, capsys):
    out, photos = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(small_photos, photos)
    stopped(photos, out, 7, monkeypatch)
    change(out, photos)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert run("--resume", out, "--quiet") == 3
    error = capsys.readouterr().err
    assert CHANGES[change] in error
    assert error.count("\n") == 1
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("options", [("--batch-size", 7), ("--seed", 3), ("--no-augment",), ("--out", "x")])
def test_other_settings_are_refused(options, whole, capsys):
    assert run("--resume", whole, *options) == 2
    assert f"leave out {options[0]}" in capsys.readouterr().err


def test_no_run_to_go_on_with(tmp_path, capsys):
    assert run("--resume", tmp_path / "none") == 3
    assert f"--resume {tmp_path / 'none'}: no config.toml there" in capsys.readouterr().err


# When checkpoints are written


@pytest.mark.parametrize(
    ("text", "every"),
    [("30s", Every(seconds=30)), ("5steps", Every(steps=5)), ("1step", Every(steps=1)), ("2epochs", Every(epochs=2)),
     ("1epoch, 30s", Every(seconds=30, epochs=1))],
)  # fmt: skip
def test_how_often_is_said_in_words(text, every):
    assert Every.parse(text) == every


@pytest.mark.parametrize("text", ["", "5", "s", "0s", "-1s", "1.5s", "5minutes", "1epoch,", "²s"])
def test_words_that_say_nothing_are_refused(text, small_photos, tmp_path, capsys):
    with pytest.raises(UsageError, match="30s, 5steps or 1epoch"):
        Every.parse(text)
    assert run(small_photos, "--checkpoint-every", text, "--out", tmp_path / "run") == 2
    assert not (tmp_path / "run").exists()


def written(every: Every, seconds_of_a_step: float, monkeypatch) -> list[tuple[int, int]]:
    """Where in 3 epochs of 5 steps checkpoints are written, each of which takes a tenth of a second."""
    now, places = [0.0], []

    class Model:
        stop_training, weights = False, ()
        optimizer = type("Optimizer", (), {"named_arrays": lambda self: []})()

        def save_checkpoint(self, path, notes):
            places.append(at)
            now[0] += 0.1

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper = Checkpoints(Path("run"), every, {})
    keeper.model, keeper.params = Model(), {"epochs": 3}
    at = (0, 0)
    keeper.on_train_begin()
    for epoch in range(3):
        for step in range(5):
            now[0] += seconds_of_a_step
            at = (epoch, step + 1)
            keeper.on_train_batch_end(step, {})
        at = (epoch + 1, 0)
        keeper.on_epoch_end(epoch, {})
    return places


def test_checkpoints_are_written_when_due(monkeypatch):
    ends = [(1, 0), (2, 0), (3, 0)]
    assert written(Every(epochs=1), 1, monkeypatch) == [(0, 0), *ends]
    assert written(Every(epochs=2), 1, monkeypatch) == [(0, 0), (2, 0), (3, 0)]
    assert written(Every(steps=4), 1, monkeypatch) == [(0, 0), (0, 4), (1, 3), (2, 2), (3, 0)]
    assert written(Every(seconds=7), 1, monkeypatch) == [(0, 0), (1, 2), (2, 4), (3, 0)]
    assert written(USUAL, 100, monkeypatch)[-5:] == [(2, 2), (2, 3), (2, 4), (2, 5), (3, 0)]
    assert written(USUAL, 0.01, monkeypatch) == [(0, 0), (3, 0)], "more would take more than their share of the time"


# Signals, to a process


def begun(photos: Path, out: Path, *options) -> subprocess.Popen:
    """A training that has begun its third epoch."""
    command = command_line(photos, "--image-size", 12, "--epochs", 100000, "--backend", "numpy", "--out", out, *options)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("Epoch 3/"):
            return process
    raise AssertionError(process.stderr.read())


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_training_within_a_second(name, code, small_photos, tmp_path):
    with begun(small_photos, tmp_path / "run") as process:
        began = time.monotonic()
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    assert (process.returncode, error.count("\n")) == (code, 1)
    assert f"--resume {tmp_path / 'run'}" in error
    assert seconds < 5  # one, on a machine that does nothing else
    assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1].epoch >= 3


def test_a_second_signal_leaves_at_once(monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.number, left) == (signal.SIGINT, [])
        os.kill(os.getpid(), signal.SIGTERM)
    assert left == [143]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_run_that_sleeps_goes_on(whole, small_photos, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(command_line(small_photos, *OPTIONS, "--out", out), cwd=ROOT)
    for _ in range(5):
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    assert contents(out) == contents(whole)


# Numbers that are none


def test_divergence_says_where_it_began_and_keeps_the_last_good_checkpoint(small_photos, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(small_photos, *OPTIONS, "--learning-rate", 1e15, "--out", out) == 4
    error = capsys.readouterr().err
    assert "the loss is nan at step 2" in error
    assert "the first to hold one was the output of dense" in error
    assert "at step 2 of epoch 1" in error
    model, position = load_checkpoint(out / "checkpoint.safetensors")
    assert position.step == 0
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert not (out / "model.safetensors").exists()


def test_a_state_that_could_not_be_loaded_is_not_written(small_photos, tmp_path, monkeypatch, capsys):
    class Spoil(Callback):
        def on_train_batch_end(self, batch, logs):
            if batch == 2:
                dict(self.model.optimizer.named_arrays())["v.0"][...] = math.inf

    monkeypatch.setattr(command, "StopAtDivergence", Spoil)
    out = tmp_path / "run"
    assert run(small_photos, *OPTIONS, "--checkpoint-every", "1step", "--out", out) == 4
    assert "checkpoint.safetensors: not written: optimizer.v.0 holds NaN or infinity" in capsys.readouterr().err
    assert load_checkpoint(out / "checkpoint.safetensors")[1].step == 2


def test_only_what_was_half_written_is_swept(tmp_path):
    (tmp_path / "inside").mkdir()
    gone = [tmp_path / ".history.csv.x1", tmp_path / "inside" / ".a.safetensors.zz"]
    kept = [tmp_path / name for name in (".gitignore", "model.safetensors", ".DS_Store.old", "a.csv.txt")]
    for file in (*gone, *kept):
        file.write_text("x")
    sweep(tmp_path)
    assert [file for file in (*gone, *kept) if file.exists()] == kept


def test_divergence_is_an_error_of_its_own():
    assert DivergenceError("x").exit_code == 4
