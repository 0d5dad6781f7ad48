"""The comparison benchmarks: what they hand to each library, their arithmetic, and that wrong peers are found out."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from benchmarks import cold, common, compare, epochs, neighbour, networks, peers, results, rounds, scaling, size
from benchmarks.results import Row
from benchmarks.rounds import Setting
from benchmarks.worker import PeerFailedError, Worker
from tinycnn.layers import Conv2D, Dense
from tinycnn.models import Sequential
from tinycnn.tensor import Tensor

ROOT = Path(__file__).resolve().parent.parent
TINY = {"name": "fish", "side": 12, "filters": 2, "batch": 4}
each_network = pytest.mark.parametrize("make", networks.NETWORKS.values(), ids=networks.NETWORKS)


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )


def test_the_fish_network_is_the_papers():
    assert sum(np.prod(shape) for shape in networks.fish().weight_shapes()) == 813_217
    assert networks.lenet().shapes()[-4] == (400,)  # 16 maps of 5x5, as in LeNet-5


@each_network
def test_weights_and_work_are_those_of_the_same_layers_in_tinycnn(make):
    from benchmarks import peer_tinycnn

    network = make(side=32)
    model: Sequential = peer_tinycnn.build(network)
    shapes = model.shapes()
    assert [w.shape for w in networks.weights(network)] == [w.shape for w in model.get_weights()]
    assert network.shapes() == shapes
    assert network.multiply_adds() == sum(
        layer.multiply_adds(shape)
        for layer, shape in zip(model.layers, shapes[:-1], strict=True)
        if isinstance(layer, Conv2D | Dense)
    )


@each_network
def test_every_image_comes_with_two_labels(make):
    network = make(side=32)
    x, y = networks.batches(network, 4)
    assert x.shape == (4, network.batch, *network.input_shape)
    assert y.shape == (4, network.batch, network.outputs)
    assert (x.dtype, y.dtype) == (np.float32, np.float32)
    assert 0 <= x.min() < x.max() <= 1
    np.testing.assert_array_equal(x[:2], x[2:])
    assert not (y[:2] == y[2:]).all(axis=-1).any()
    np.testing.assert_array_equal(x, networks.batches(network, 4)[0])


@pytest.mark.parametrize("make", [networks.fish, networks.vgg], ids=["fish", "vgg"])
def test_relus_stay_as_open_as_they_were_while_steps_are_timed(make):
    from benchmarks.peer_tinycnn import TinyCNNTraining

    network = make(side=32)
    training = TinyCNNTraining(network, networks.weights(network), *networks.batches(network))

    def open_ones() -> float:
        maps = Tensor(training.batches[0][0])
        for layer in training.model.layers[:4]:  # convolution with ReLU and pooling, twice
            maps = layer(maps)
        return (maps.data > 0).mean()

    at_first = open_ones()
    for _ in range(100):
        training.step()
    assert open_ones() > 0.95 * at_first


def test_channels_first_weights_give_the_same_sums():
    network = networks.fish(side=12, filters=2)
    given = networks.weights(network)
    kernel, turned = given[4], networks.channels_first(network, given)[4]
    maps = np.random.default_rng(0).random((3, *network.shapes()[4]), np.float32)  # (N, H, W, C)
    ours = maps.reshape(3, -1) @ kernel
    theirs = maps.transpose(0, 3, 1, 2).reshape(3, -1) @ turned.T  # (N, C*H*W)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert networks.channels_first(network, given)[0].shape == (2, 3, 3, 3)


def test_data_files_come_back_as_they_were(tmp_path):
    network = networks.make(**TINY)
    given, (x, y) = networks.weights(network), networks.batches(network)
    networks.write(tmp_path / "data.npz", given, x, y)
    back, bx, by = networks.read(tmp_path / "data.npz")
    for wanted, got in zip([*given, x, y], [*back, bx, by], strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.fixture
def data(tmp_path) -> str:
    """A file with weights and batches of the tiny network."""
    network = networks.make(**TINY)
    networks.write(tmp_path / "data.npz", networks.weights(network), *networks.batches(network))
    return str(tmp_path / "data.npz")


def test_a_worker_trains_predicts_and_says_what_goes_wrong(data):
    with Worker("tinycnn-numpy", 1) as worker:
        with pytest.raises(PeerFailedError, match="comes after prepare"):
            worker.ask("check")
        with pytest.raises(PeerFailedError, match="absent"):
            worker.ask("prepare", kind="training", network=TINY, data="absent.npz")
        with pytest.raises(PeerFailedError, match="KeyError: 'dance'"):
            worker.ask("dance")
        worker.ask("prepare", kind="training", network=TINY, data=data)
        first = worker.ask("check", steps=3)
        assert len(first["losses"]) == 3
        assert len(first["moved"]) == 8
        assert all(0 < moved < 0.01 for moved in first["moved"])
        (seconds,) = worker.ask("time", calls=2)["seconds"]
        assert seconds > 0
        assert worker.ask("check", steps=3) == first, "timing must leave no trace"
        assert len(worker.ask("time", calls=3, each=True)["seconds"]) == 3
        worker.ask("prepare", kind="inference", network=TINY, data=data)
        assert np.shape(worker.ask("check")["predictions"]) == (TINY["batch"], 1)
        assert worker.ask("memory")["bytes"] > 1e7
    assert worker._process.returncode == 0


def test_a_worker_that_dies_gives_its_last_words():
    with Worker("tinycnn-numpy", 1) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(PeerFailedError, match="the process ended with code -9"):
            worker.ask("memory")


@pytest.mark.slow
def test_the_kernels_agree_with_the_reference_in_a_real_run():
    (step,) = rounds.measure(Setting("step", TINY, 1), ["tinycnn"], rounds=2)
    assert step.problem is None
    assert len(step.rounds) == 2
    (asked,) = rounds.measure(Setting("inference", TINY | {"batch": 1}, 1), ["tinycnn"], rounds=1)
    assert asked.problem is None
    assert len(asked.singles) == rounds.SINGLE_CALLS
    assert asked.p99 >= np.median(asked.singles)


RIGHT = {"losses": [0.7, 0.6], "moved": [0.001, 0.002]}


class CannedWorker:
    """A worker that has its answers from a table: seconds of a call, and what it answers to each `check` in turn."""

    table: ClassVar[dict[str, tuple[float, list[dict]]]] = {
        peers.REFERENCE: (9.0, [RIGHT]),
        "tinycnn": (0.020, [RIGHT, RIGHT]),
        "torch": (0.030, [RIGHT | {"losses": [0.701, 0.601]}, RIGHT]),  # its Adam differs a little
        "keras": (0.001, [RIGHT | {"losses": [0.7, 0.61]}]),
        "jax": (0.001, [RIGHT | {"moved": [0.001, 0.0]}]),  # has left out an array of weights
        "tensorflow": (0.001, [RIGHT, RIGHT | {"losses": [0.7, float("nan")]}]),  # right at first
        "tensorflow-xla": (0.001, []),
    }

    def __init__(self, name: str, threads: int) -> None:
        self.seconds, answers = self.table[name]
        self.answers = list(answers)
        if not answers:
            raise PeerFailedError("it does not start")

    def ask(self, do: str, **arguments) -> dict:
        if do == "check":
            return self.answers.pop(0)
        return {"seconds": [self.seconds * arguments["calls"]]} if do == "time" else {}

    def __enter__(self) -> "CannedWorker":
        return self

    def __exit__(self, *_) -> None: ...


@pytest.fixture
def canned(monkeypatch) -> None:
    monkeypatch.setattr(rounds, "Worker", CannedWorker)
    monkeypatch.setattr(rounds, "absence", lambda name: "openvino not installed" if name == "openvino" else None)
    monkeypatch.setattr(rounds, "PAUSE_SECONDS", 0)


def test_peers_that_are_wrong_or_fail_are_told_and_not_timed(canned):
    setting = Setting("step", TINY, 1)
    names = [name for name in CannedWorker.table if name != peers.REFERENCE]
    rows = {row.peer: row for row in rounds.measure(setting, [*names, "onnxruntime"], rounds=3)}
    assert "onnxruntime" not in rows, "it cannot train"
    assert rows["keras"].problem == "wrong: losses off by 1.7e-02, allowed 1e-03"
    assert rows["jax"].problem == "wrong: moved off by 1.0e+00, allowed 3e-01"
    assert rows["tensorflow"].problem == "wrong: losses off by nan, allowed 1e-03"
    assert rows["tensorflow-xla"].problem == "it does not start"
    assert not rows["keras"].rounds
    assert all(rows[name].seconds is None for name in ("keras", "jax", "tensorflow", "tensorflow-xla"))
    assert rows["tinycnn"].rounds == pytest.approx([0.020] * 3)
    told = rounds.tell(setting, list(rows.values())).splitlines()
    assert told[0] == "training step: fish, batch 4, threads 1"
    assert told[3].split() == ["tinycnn", "20.0", "1.00", "20.0", "20.0"]
    assert told[4].split() == ["torch", "30.0", "1.50", "30.0", "30.0"]
    assert told[5:9] == [f"{row.peer}: {row.problem}" for row in rows.values() if row.problem]
    assert told[9:] == ["fastest peer: torch, ratio 1.50"]


def test_an_absent_library_is_listed(canned, monkeypatch):
    monkeypatch.setitem(CannedWorker.table, peers.REFERENCE, (1.0, [{"predictions": [[0.5]]}]))
    (row,) = rounds.measure(Setting("inference", TINY, 1), ["openvino"], rounds=1)
    assert row.problem == "openvino not installed"


@pytest.mark.parametrize(
    ("wanted", "found", "wrong"),
    [
        ({"predictions": [[0.5], [0.25]]}, {"predictions": [[0.50009], [0.25]]}, None),
        ({"predictions": [[0.5], [0.25]]}, {"predictions": [[0.5], [0.2502]]}, "off by 2.0e-04"),
        ({"predictions": [[0.5], [0.25]]}, {"predictions": [[0.5]]}, "of shape"),
        ({"losses": [20.0, 1.0]}, {"losses": [20.01, 1.0]}, None),
        ({"losses": [20.0, 1.0]}, {"losses": [20.0, 1.01]}, "off by 1.0e-02"),
        ({"losses": [1.0]}, {"losses": [float("inf")]}, "off by inf"),
    ],
)
def test_disagreement(wanted, found, wrong):
    problem = rounds.disagreement(wanted, found, peers.SAME_ADAM)
    assert problem is None if wrong is None else wrong in problem


def test_arithmetic_of_a_table():
    rows = [
        Row("slow", [0.3, 0.1, 0.2]),
        Row("tinycnn", [0.004, 0.005, 0.1]),
        Row("tinycnn, first run", [0.001]),
        Row("quick", [0.002]),
        Row("broken", [0.0001], problem="wrong"),
    ]
    assert [row.seconds for row in rows] == [0.2, 0.005, 0.001, 0.002, None]
    told = results.report("title", rows, {"ms": lambda row: results.milliseconds(row.seconds)}).splitlines()
    assert [line.split()[-2:] for line in told[3:7]] == [
        ["1.000", "0.20"], ["2.000", "0.40"], ["5.000", "1.00"], ["200.0", "40.00"],
    ]  # fmt: skip
    assert told[7:] == ["broken: wrong", "fastest peer: quick, ratio 0.40"]
    assert results.fastest({"tinycnn": 1.0}) == "fastest peer: none was measured"
    assert results.ratio(1.0, None) == "-"
    held = [Row("tinycnn", figures={"bytes": 2e6}), Row("torch", figures={"bytes": 5e6}), Row("jax", problem="absent")]
    assert results.report_bytes("title", held).splitlines()[-4:] == [
        "tinycnn   2   1.00", "torch     5   2.50", "jax: absent", "smallest peer: torch, ratio 2.50",
    ]  # fmt: skip


def test_p99_of_single_calls():
    assert Row("peer", [1.0], singles=[*range(101)]).p99 == 99


def test_results_are_json_that_says_nothing_of_this_computer(tmp_path):
    rows = [Row("tinycnn", [0.5, 0.25], figures={"loss": float("nan")}), Row("torch", problem="absent")]
    found = [{"part": "step", "rows": [row.to_json() for row in rows]}]
    file = common.output_file(str(tmp_path / "new" / "results.json"))
    common.write_results(file, {"rounds": 2}, found)
    content = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["results"] == found
    assert content["results"][0]["rows"][0]["figures"] == {"loss": None}
    assert content["settings"] == {"rounds": 2}
    assert content["versions"]["numpy"] == np.__version__
    assert content["machine"]["cores"] >= 1
    assert not [name for name in (platform.node(), str(ROOT), str(Path.home())) if f'"{name}' in file.read_text()]


def test_reasons_are_one_line_without_folders():
    assert common.one_line(OSError("/some/where/lib.so: bad\nmore")) == "OSError: lib.so: bad"
    assert common.one_line("") == "no reason given"


def test_threads_and_cores():
    environment = common.thread_environment(3)
    assert {environment[name] for name in common.THREAD_VARIABLES} == {"3"}
    assert common.cores_for(1) == common.usable_cores()[-1:]
    assert common.cores_for(1000) == common.usable_cores()


@pytest.mark.slow
def test_compare_from_the_command_line(tmp_path):
    arguments = [
        "--only",
        "step,inference",
        "--networks",
        "lenet",
        "--peers",
        "tinycnn",
        "--rounds",
        "1",
        "--threads",
        "1",
    ]
    done = command("benchmarks.compare", *arguments, "--output", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("training step: lenet, batch 32, threads 1\npeer")
    assert done.stdout.rstrip().endswith("fastest peer: none was measured")
    assert "round 1 of 1" in done.stderr
    parts = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(part["part"], part["network"]["batch"]) for part in parts] == [
        ("step", 32), ("inference", 1), ("inference", 32), ("inference", 256),
    ]  # fmt: skip
    assert all(row["problem"] is None and row["seconds"] > 0 for part in parts for row in part["rows"])
    assert parts[1]["rows"][0]["p99"] > 0


@pytest.mark.parametrize(
    "arguments",
    [("--only", "stop"), ("--threads", "0"), ("--rounds", "x"), ("--peers", "nobody"), ("--output", "/proc/no/file")],
)
def test_bad_arguments_are_refused(arguments):
    done = command("benchmarks.compare", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("module", [compare, scaling])
def test_help_names_every_option_and_what_can_be_chosen(module, capsys):
    parser = module.parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert all(action.help for action in parser._actions)
    chosen = compare.PARTS if module is compare else scaling.SERIES
    assert all(f"  {name} " in text for name in chosen)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_interrupt_ends_all_processes():
    arguments = ["--only", "step", "--networks", "lenet", "--peers", "tinycnn-numpy", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.compare", *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        lines = iter(process.stderr.readline, "")
        assert any("round 1" in line for line in lines)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert workers
        assert not [pid for pid in workers if Path("/proc", pid).exists()]


def test_pictures_are_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        epochs.draw_pictures(tmp_path / name, 3)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.jpg"))
    assert [file.parent.name for file in files] == ["disc", "disc", "square"]
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    with Image.open(tmp_path / "one" / files[0]) as image:
        assert image.size == (256, 256)


def test_epochs_from_files(tmp_path):
    epochs.draw_pictures(tmp_path, 64)
    (row,) = epochs.measure(tmp_path, ["tinycnn"], threads=1, epochs=3)
    assert row.problem is None
    assert len(row.rounds) == 2
    assert row.figures["first"] > 0
    assert 0 < row.figures["waiting"] < 1
    assert 0.4 < row.figures["accuracy"] <= 1
    told = epochs.tell("title", [row])
    assert "fastest peer: none was measured" in told


def test_a_pipeline_that_learns_nothing_is_wrong():
    row = Row("pipeline")
    one = {"seconds": 1.0, "waiting": None, "loss": 0.7, "accuracy": 0.5, "children": 100}
    epochs._fill(row, [one, one], memory=1000)
    assert row.problem == "wrong: has learned nothing, loss 0.700, then 0.700"
    assert row.figures["bytes"] == 1100
    assert "waiting" not in row.figures


@pytest.mark.slow
def test_one_photo_asked_of_a_whole_process():
    (warm, first) = cold.measure_one_photo(["tinycnn"], threads=1, rounds=1)
    assert (warm.peer, first.peer) == ("tinycnn", "tinycnn, first run")
    assert warm.problem is first.problem is None
    assert warm.seconds > 0
    assert warm.figures["bytes"] > 1e7


def test_a_process_that_prints_the_wrong_number_is_wrong():
    process = cold.Process(Row("peer"), ["-c", "print('chatter', 0.75)"], 1)
    process.time({"predictions": 0.5})
    assert process.row.problem.startswith("wrong: predictions off by 2.5e-01")
    process = cold.Process(Row("peer"), ["-c", "raise SystemExit('no such thing')"], 1)
    process.time({"predictions": 0.5})
    assert process.row.problem == "exit code 1: no such thing"


def test_installed_size_counts_all_that_is_needed():
    (row,) = size.measure(["tinycnn", "tinycnn-numpy"])
    needed = size.our_dependencies()
    assert {"numpy", "numba", "llvmlite", "pillow"} <= set(needed)
    assert row.figures["packages"] == len(needed) + 1
    assert row.figures["bytes"] > size.size(needed["numpy"]) + size.size(needed["llvmlite"]) > 1e7
    assert ROOT / "kernels" / "reference.py" in size.our_files()


def test_scaling_compares_each_line_with_the_one_before_and_that_of_half_the_value():
    def row(value, milliseconds, images, work, problem=None):
        seconds = [each / 1000 for each in milliseconds]
        return Row("tinycnn", seconds, figures={"value": value, "images": images, "work": work}, problem=problem)

    # In the last round of the first two the machine was slow: that is no part of their ratio.
    rows = [row(8, [8, 8, 80], 8, 5), row(16, [32, 40, 320], 16, 5), row(32, [1000] * 3, 32, 5, "wrong")]
    rows += [row(64, [64] * 3, 64, 10), row(128, [256] * 3, 128, 40)]
    told = [line.split() for line in scaling.tell("batch", rows).splitlines()[2:]]
    assert told == [
        ["8", "8.000", "1000.0", "-", "-", "-", "-"],
        ["16", "40.0", "2500.0", "2.00", "1.00", "2.00", "1.00"],
        ["32", "wrong"],
        ["64", "64.0", "1000.0", "0.40", "2.00", "-", "-"],
        ["128", "256.0", "2000.0", "2.00", "4.00", "2.00", "4.00"],
    ]
    not_in_turn = scaling.tell("images", rows[:2]).splitlines()[-1].split()
    assert not_in_turn == ["16", "40.0", "2500.0", "2.50", "1.00", "2.50", "1.00"]


def test_a_neighbours_cost_is_told_beside_a_fair_share():
    steps = [90, 100, 110], [60, 75, 76], [50, 50, 51], [50, 45, 40]
    shares = [0.9, 0.8, 0.7], [0.6], [0.5, 0.6, 0.7], [0.4]
    blocks = [{"steps": s, "share": f} for s, f in zip(steps, shares, strict=True)]
    told = neighbour.tell(dict(zip(neighbour.NEIGHBOURS, blocks, strict=True))).splitlines()[2:]
    assert told[0].split()[-1] == "100.0"
    assert [line.split()[-4:] for line in told[1:]] == [
        ["75.0", "0.75", "0.75", "1.00"],
        ["50.0", "0.50", "0.75", "0.67"],
        ["45.0", "0.45", "0.50", "0.90"],
    ]


@pytest.mark.slow
@pytest.mark.skipif(len(common.usable_cores()) < 2 or not hasattr(os, "sched_setaffinity"), reason="needs two cores")
def test_neighbour_from_the_command_line(tmp_path):
    arguments = ["--rounds", "1", "--seconds", "1", "--output", str(tmp_path / "out.json")]
    done = command("benchmarks.neighbour", *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["beside"] for row in results] == [*neighbour.NEIGHBOURS]
    assert all(len(row["steps"]) == 1 and row["steps"][0] > 0 for row in results)
    assert all(len(row["share"]) == 1 and 0 < row["share"][0] < 1.1 for row in results)


def test_scaling_from_the_command_line(tmp_path):
    arguments = ["--only", "images", "--limit", "500", "--threads", "1", "--output", str(tmp_path / "out.json")]
    done = command("benchmarks.scaling", *arguments)
    assert done.returncode == 0, done.stderr
    (part,) = json.loads((tmp_path / "out.json").read_text())["results"]
    (row,) = part["rows"]
    assert (part["part"], row["figures"]["value"], len(row["rounds"])) == ("images", 500, scaling.EPOCHS - 1)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["step", "inference"])
@pytest.mark.parametrize("network", [TINY, {"name": "lenet", "batch": 4}], ids=["fish", "lenet"])
@pytest.mark.parametrize("peer", [name for name in peers.PEERS if name not in ("tinycnn", peers.REFERENCE)])
def test_each_installed_peer_agrees_with_the_reference(peer, network, part):
    if absent := rounds.absence(peer):
        pytest.skip(absent)
    found = {row.peer: row for row in rounds.measure(Setting(part, network, 1), ["tinycnn", peer], rounds=1)}
    assert found["tinycnn"].problem is None
    if peer in found:  # else it cannot train
        assert found[peer].problem is None
        assert found[peer].seconds > 0


@pytest.mark.slow
def test_first_runs_are_told_apart():
    warm, first = cold.measure_first_step(["tinycnn"], threads=1, rounds=1)
    assert warm.problem is first.problem is None
    assert first.seconds > warm.seconds, "it compiles"


# The profile and the ladder


def test_profile_writes_what_it_shows(tmp_path):
    out = tmp_path / "profile.json"
    options = "--network", "lenet", "--threads", "1", "--steps", "2", "--output", str(out)
    done = command("benchmarks.profile", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["results"]
    assert [row["kernel"] for row in rows][-2:] == ["the rest", "the step"]
    assert sum(row["seconds"] for row in rows[:-1]) == pytest.approx(rows[-1]["seconds"])
    assert all(row["multiply_adds"] > 0 for row in rows if "direct" in row["kernel"])
    assert all(row["kernel"] in done.stdout for row in rows)


def test_the_ladder_can_be_climbed():
    done = command("benchmarks.ladder", "--batch", "2", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert [name for name in ("loops", "BLAS", "tiled", "fused", "routed backward") if name not in done.stdout] == []


@pytest.mark.parametrize("wrong", [1.001, np.nan])
def test_a_wrong_rung_is_found(wrong):
    from benchmarks import ladder

    good = np.ones((2, 3), np.float32)
    with pytest.raises(AssertionError, match="tiled gives other numbers"):
        ladder._check((good,), (good * np.float32(wrong),), "tiled")
