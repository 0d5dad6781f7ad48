"""Does the cupy backend keep its promises on a real GPU: right numbers, the same bits again, memory that does not grow?

Where no GPU answers these tests are skipped, and the reason is named (pytest -m gpu -rs); test_cuda.py and
test_cuda_training.py ask the same kernels on the host.
"""

import gc
import hashlib
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from cases import CASES, PATHS, Case
from checks import ROOT, compare, every_case, run
from host_cupy import cache_of_kernels, kernels_on_host  # noqa: F401
from networks import compiled, fish, photos, same_bits, using
from test_cuda import fish_step

from benchmarks import gpu, gpu_kernels, networks, peer_gpu
from benchmarks.worker import PeerFailedError
from tinycnn import Tensor, backend
from tinycnn.errors import BackendError
from tinycnn.fused import FusedOp
from tinycnn.models import Sequential, load_model
from tinycnn.preprocessing.image import ImageDataGenerator
from tinycnn.tensor import Op

each_path = pytest.mark.parametrize("case", PATHS, ids=lambda case: case.name)
SMALL = 32, 32, 32, 13  # samples of the batches: every fourth is another kind for the kernels
LARGE = 256, 256, 256, 300  # from here on a library makes the products of dense layers


def missing_gpu() -> str | None:
    """Why no GPU answers; loads CuPy where one does, with whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            backend.get("cupy")
        except BackendError as error:
            return str(error)
    return None


WITHOUT = missing_gpu()  # asked here, since CuPy may change the environment, which is no leak of the first test


def on_gpu(test: Any) -> Any:
    """Marks a test that needs a GPU; what CuPy warns of is not for tinycnn to mend."""
    for mark in (pytest.mark.gpu, pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT or ""),
                 pytest.mark.filterwarnings("ignore:::cupy"), pytest.mark.usefixtures("cupy_in_use")):  # fmt: skip
        test = mark(test)
    return test


@pytest.fixture
def cupy_in_use() -> Iterator[None]:
    with using("cupy"):
        yield


@pytest.fixture
def cupy() -> Iterator[Any]:
    """CuPy; afterwards its pool has no limit and lends nothing that is idle."""
    module = pytest.importorskip("cupy")
    yield module
    module.get_default_memory_pool().set_limit(size=0)
    free(module)


def free(cupy: Any) -> None:
    gc.collect()
    cupy.cuda.Device().synchronize()
    cupy.get_default_memory_pool().free_all_blocks()


def on_host(y: Tensor, gradients: Sequence[Any]) -> tuple[Tensor, list[np.ndarray]]:
    """A case's results in the host's memory, where they can be compared."""
    gathered = [y.backend.to_numpy(array) for array in (y.data, *gradients)]
    assert all(array.dtype == np.float32 for array in gathered)
    return Tensor(gathered[0], backend=backend.get("numpy")), gathered[1:]


def check_on_gpu(case: Case) -> None:
    """Forward and gradients in float32 as those of the reference in float64, and the kernel that was meant."""
    y, gradients = run(case, "cupy", np.float32)
    assert y.backend.name == "cupy"
    assert all(y.backend.holds(array) for array in (y.data, *gradients))
    compare(on_host(y, gradients), run(case), case.float32_tolerance)


@on_gpu
@every_case
def test_every_op_is_near_float64(case):
    check_on_gpu(case)


@on_gpu
@each_path
def test_every_path_is_near_float64(case):
    check_on_gpu(case)
    assert run(case, "cupy", np.float32)[0].op.name == case.op


FUSED_ROWS = [case for case in CASES if issubclass(Op.registry[case.op], FusedOp)]


@on_gpu
@pytest.mark.parametrize("case", FUSED_ROWS, ids=lambda case: case.name)
def test_the_gpus_own_kernel_runs_where_it_fits(case):
    op = Op.registry[case.op]
    arrays = [x.astype(np.float32) for x in case.arrays()]
    alone = op.kernel is None or op.has_kernel(backend.get("cupy"), arrays, case.attributes)
    assert run(case, "cupy", np.float32)[0].op.name == (op.name if alone else op.parts[-1].name)


def trained(steps: int, sizes: Sequence[int] = (32,), **options: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The losses of some steps of the fish network on the backend in use, and its weights after them."""
    model = fish()
    model.compile("adam", "binary_crossentropy", **options)
    found = [model.train_on_batch(*photos(sizes[key % len(sizes)], 64, key=key))[0] for key in range(steps)]
    return np.array(found), model.get_weights()


@on_gpu
def test_the_fish_network_trains_as_on_the_cpu():
    """Nearly equal numbers in a pool's window may win differently, and Adam makes a whole step of a small gradient."""
    losses, ours = trained(20)
    with using("numba"):
        wanted, theirs = trained(20)
        first = fish().get_weights()
    assert np.abs(losses[:5] / wanted[:5] - 1).max() < 1e-4
    assert np.abs(losses / wanted - 1).max() < 1e-2
    for one, other, start in zip(ours, theirs, first, strict=True):
        assert np.linalg.norm(one - other) < 0.3 * np.linalg.norm(other - start)


@on_gpu
def test_after_a_hundred_steps_it_is_no_farther_from_the_cpu_than_cpu_backends_are_from_each_other():
    """Roundings grow: 100 steps take NumPy's and Numba's float32 weights 0.7 % of their way apart."""

    def weights_on(name: str) -> list[np.ndarray]:
        with using(name):
            return trained(100)[1]

    wanted, start = weights_on("numba"), fish().get_weights()

    def distance(weights: list[np.ndarray]) -> float:
        return max(
            np.linalg.norm(one - other) / np.linalg.norm(other - first)
            for one, other, first in zip(weights, wanted, start, strict=True)
        )

    assert distance(weights_on("cupy")) < 4 * distance(weights_on("numpy"))


@on_gpu
@pytest.mark.parametrize("outputs", [1, 3], ids=["sigmoid", "softmax"])
def test_steps_tests_and_predictions_are_recorded(outputs):
    model = compiled(outputs)
    x, y = photos(8, classes=max(2, outputs))
    for _ in range(3):
        model.train_on_batch(x, y)
        model.test_on_batch(x, y)
        model.predict_on_batch(x)
    assert {name: len(graphs._graphs) for name, graphs in model._graphs.items()} == {
        "train": 1,
        "test": 1,
        "predict": 1,
    }


@on_gpu
@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
def test_a_graph_gives_the_bits_of_single_launches(sizes):
    (losses, weights), (wanted, others) = (trained(20, sizes, replay=replay) for replay in (True, False))
    np.testing.assert_array_equal(losses, wanted)
    assert same_bits(weights, others)


@on_gpu
@pytest.mark.parametrize("size", [SMALL[0], LARGE[0]])
def test_two_runs_give_the_same_bits(size):
    runs = (b"".join(weight.tobytes() for weight in trained(100, (size,))[1]) for _ in range(2))
    one, other = (hashlib.sha256(weights).hexdigest() for weights in runs)
    assert one == other


@on_gpu
@pytest.mark.parametrize("replay", [True, False])
def test_memory_on_the_gpu_does_not_grow(cupy, replay):
    model = fish()
    model.compile("adam", "binary_crossentropy", replay=replay)
    data = [photos(size, 64) for size in SMALL]

    def held_after(steps: int) -> tuple[int, int, int]:
        """Bytes in use and held by CuPy's pool, and free on the GPU."""
        for step in range(steps):
            model.train_on_batch(*data[step % len(data)])
        gc.collect()
        cupy.cuda.Device().synchronize()
        pool = cupy.get_default_memory_pool()
        return pool.used_bytes(), pool.total_bytes(), cupy.cuda.runtime.memGetInfo()[0]

    held_after(40)
    used, total, left = held_after(40)
    now = held_after(1000)
    assert now[0] <= used
    assert now[1] <= total
    assert now[2] >= left


@on_gpu
def test_a_batch_too_large_raises_memory_error_and_the_next_step_works(cupy):
    small, large = photos(32, 64), photos(2048, 64)
    model, untouched = fish(), fish()
    for each in (model, untouched):
        each.compile("adam", "binary_crossentropy")
        each.train_on_batch(*small)
    images = cupy.asarray(large[0])
    free(cupy)
    pool = cupy.get_default_memory_pool()
    pool.set_limit(size=pool.total_bytes() + 2**24)
    with pytest.raises(MemoryError):
        model.train_on_batch(images, large[1])
    pool.set_limit(size=0)
    for _ in range(3):
        assert model.train_on_batch(*small) == untouched.train_on_batch(*small)
    assert same_bits(model.get_weights(), untouched.get_weights())


@on_gpu
def test_a_model_of_the_gpu_predicts_the_same_on_a_cpu(tmp_path):
    x, y = photos(32, 64)
    model = fish()
    model.compile("adam", "binary_crossentropy")
    for _ in range(5):
        model.train_on_batch(x, y)
    model.save(tmp_path / "model.safetensors")
    wanted = model.predict(x, verbose=0)
    assert type(wanted) is np.ndarray
    with using("numpy"):
        loaded = load_model(tmp_path / "model.safetensors")
        assert same_bits(loaded.get_weights(), model.get_weights())
        np.testing.assert_allclose(loaded.predict(x, verbose=0), wanted, rtol=0, atol=1e-5)


def fitted() -> tuple[Sequential, dict[str, list[float]]]:
    """The tiny network after 30 epochs of augmented images, and its history."""
    x, y = photos(200)
    augment = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    flow = augment.flow((np.minimum(x, 1.3) * 190).astype(np.uint8), y, batch_size=32, seed=0)  # the last batch: 8
    model = compiled()
    return model, model.fit(flow, epochs=30, verbose=0).history


@on_gpu
def test_fit_learns_from_augmented_images():
    model, history = fitted()
    with using("numba"):
        wanted = fitted()[1]
    assert np.mean(history["loss"][-3:]) < 0.95 * np.mean(history["loss"][:3])
    np.testing.assert_allclose(history["loss"][:3], wanted["loss"][:3], rtol=1e-2)
    np.testing.assert_allclose(history["accuracy"][:3], wanted["accuracy"][:3], atol=0.05)
    assert model.backend is backend.get("cupy")


# The benchmark of the GPU, where there is none


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_benchmark_without_a_gpu_says_so_in_one_line(tmp_path):
    done = benchmark("--output", str(tmp_path / "out.json"))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("backend 'cupy': ")
    assert not (tmp_path / "out.json").exists()


def test_the_benchmarks_help_names_every_option_and_part():
    done = benchmark("--help")
    assert done.returncode == 0, done.stderr
    assert all(f"  {part} " in done.stdout for part in gpu.PARTS)
    assert all(name in done.stdout for name in gpu.PEERS)
    assert all(action.help for action in gpu.parser()._actions)


@pytest.mark.parametrize("arguments", [("--only", "stop"), ("--batches", "0"), ("--peers", "nobody")])
def test_the_benchmark_refuses_bad_arguments(arguments):
    done = benchmark(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr.splitlines()[-1]


def test_the_arithmetic_of_a_step_is_that_of_its_layers():
    """Products of the layers, forward and twice backward, but for the gradient of the images."""
    convolutions, dense = 62 * 62 * 27 * 32, 29 * 29 * 288 * 32 + 6272 * 128 + 128
    assert gpu_kernels.operations(networks.fish(batch=32)) == 2 * 32 * (2 * convolutions + 3 * dense)
    assert gpu_kernels.operations(networks.fish(batch=32)) == pytest.approx(2.06e9, rel=0.01)


def test_noted_launches_are_those_of_the_step_and_can_be_done_again(cuda):
    cuda.cupy.launches.clear()
    launch = cuda._launch
    with gpu_kernels.noted(cuda) as found:
        fish_step(cuda)
    assert cuda._launch is launch
    assert [each.name for each in found] == cuda.cupy.launches
    assert all(each.bytes > 0 for each in found)
    first = found[0]
    image, weights, bias, y = (2, 34, 34, 3), (3, 3, 3, 32), (32,), (2, 16, 16, 32)
    assert first.bytes == 4 * sum(map(int, map(np.prod, (image, weights, bias, y)))) + int(np.prod(y))
    first.again()
    assert cuda.cupy.launches[-1] == "convolve"


def test_a_peer_that_hangs_or_fails_is_out_and_its_reason_is_kept():
    def hang(contender):
        with gpu.limited(0.05):
            time.sleep(30)

    contender = gpu.Contender("torch", "step", networks.fish(), ([], np.zeros(0), np.zeros(0)), {})
    contender.attempt(hang)
    assert contender.row.problem == "TimeoutError: no end within 0.05 seconds"
    contender.attempt(lambda _: pytest.fail("it is out"))
    assert contender.row.seconds is None


def test_the_first_peer_that_can_is_taken():
    def work(peer):
        assert isinstance(peer, peer_gpu.OnNumPy), "it cannot"
        return 5

    with using("numpy"):
        assert peer_gpu.first_that_can((peer_gpu.OnCpu, peer_gpu.OnNumPy), work) == (peer_gpu.OnNumPy, 5)
        with pytest.raises(PeerFailedError, match=r"^OnCpu: AssertionError: it cannot"):
            peer_gpu.first_that_can((peer_gpu.OnCpu,), work)


def test_the_table_of_kernels_holds_shares_and_floors():
    rows = [{"kernel": name, "seconds": 0.002, "bytes": 10**6, "floor": 0.001} for name in ("convolve", "dense")]
    figures = {"rows": rows, "seconds": 0.008, "peer": "tinycnn", "peak": 1e12, "bandwidth": 1e9,
               "operations": 2 * 10**9, "arithmetic_floor": 0.002, "memory_floor": 0.002}  # fmt: skip
    told = gpu_kernels.show(32, figures).splitlines()
    assert [line.split() for line in told[3:6]] == [
        ["convolve", "2.0000", "25.0%", "1.0000", "50%"],
        ["dense", "2.0000", "25.0%", "1.0000", "50%"],
        ["all", "kernels", "4.0000", "50.0%", "2.0000", "50%"],
    ]
    assert told[7].startswith("arithmetic floor: 2.0000 ms, 25.0% of the step (2.00 GFLOP at 1.0 TFLOP/s)")
    assert told[8].startswith("memory floor: 2.0000 ms, 25.0% of the step")
