"""Does NVIDIA's compiler take the kernels, for every kind of GPU that is promised, without spilling registers?"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_cupy import CUDA, HostCupy, above
from tinycnn.kernels.shapes import windows

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")
Module = tuple[str, tuple[str, ...]]


class Recorder(HostCupy):
    """Computes nothing: it notes which source is compiled with which options."""

    ascontiguousarray = asarray = staticmethod(lambda array, dtype=None: array)
    dot = staticmethod(lambda *_, **__: None)

    def __init__(self) -> None:
        super().__init__(Path())
        self.modules: set[Module] = set()

    def empty(self, shape, dtype=np.float32) -> np.ndarray:
        return nothing(*((shape,) if isinstance(shape, int) else shape), dtype=dtype)

    def RawModule(self, *, code: str, options: tuple[str, ...], backend: str) -> Any:  # noqa: N802
        (file,) = (path.name for path in CUDA.parent.glob("*.cu") if path.read_text() == code)
        self.modules.add((file, options))
        return self

    def get_function(self, name: str) -> Any:
        return lambda *_: None


def nothing(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def modules(*, all_of_them: bool) -> list[Module]:
    """What is compiled for the fish network at batch 32, or also for large batches, for odd shapes and double."""
    recorder = Recorder()
    kernels = above(recorder)
    for n in (32, 8192) if all_of_them else (32,):
        ask(kernels, (n, 64, 64, 3), (3, 3, 3, 32), alone=all_of_them)
        ask(kernels, (n, 31, 31, 32), (3, 3, 32, 32), alone=all_of_them)
        x, w, b = nothing(n, 6272), nothing(6272, 128), nothing(128)
        y = kernels.dense(x, w, b, True)
        kernels.dense_backward(y, y, x, w, True, True)
    if all_of_them:
        ask(kernels, (3, 224, 221, 3), (11, 7, 3, 70), (4, 3), 3, 2)
        ask(kernels, (3, 19, 23, 37), (5, 3, 37, 9), 1, (5, 7), (3, 4))
    kernels.sigmoid_binary_cross_entropy(nothing(32, 1), nothing(32, 1))
    for dtype in (np.float32, np.float64) if all_of_them else (np.float32,):
        w = nothing(7, dtype=dtype)
        kernels.sgd_update(w, w, w, 0.1, 0.9, True)
        kernels.max_pool2d(nothing(1, 4, 4, 1, dtype=dtype), windows((4, 4), 2))
    for dtype in (np.uint8, np.float32, np.float64) if all_of_them else (np.uint8,):
        kernels.warp(nothing(1, 4, 4, 1, dtype=dtype), nothing(1, 2, 3), "nearest", 0.0, 1.0)
    return sorted(recorder.modules)


def ask(kernels, image, weights, strides: Any = 1, size: Any = 2, step: Any = 2, *, alone: bool = True) -> None:
    """Every kernel of a convolution with its pool, and alone."""
    x, w, b = nothing(*image), nothing(*weights), nothing(weights[3])
    win = windows(image[1:3], weights[:2], strides)
    pool = windows((win.oh, win.ow), size, step)
    y, winner = kernels.conv_relu_max_pool2d(x, w, b, win, pool)
    kernels.conv_relu_max_pool2d_backward(y, winner, x, w, win, pool, True)
    if alone:
        y = kernels.conv2d(x, w, b, win, True)
        kernels.conv2d_backward(y, y, x, w, win, True, True)


def nvcc() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not installed: the CUDA kernels are not compiled for a GPU")
    return found


def compiled(module: Module, architecture: str, out: Path) -> list[tuple[str, int, int]]:
    """(kernel, its registers, bytes it spills) of each kernel of a module."""
    file, options = module
    command = [nvcc(), f"-arch={architecture}", "-cubin", "-Xptxas=-v", *options, "-o", str(out / "kernel.cubin")]
    done = subprocess.run([*command, str(CUDA.with_name(file))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return [
        (name, int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in re.findall(
            r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
            done.stderr,
            re.DOTALL,
        )
    ]


def test_every_file_is_compiled_by_these_tests():
    files = {file for file, _ in modules(all_of_them=False)}
    assert files == {path.name for path in CUDA.parent.glob("*.cu")}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_for_every_architecture(architecture, tmp_path, record_property):
    check_no_spills(modules(all_of_them=True), architecture, tmp_path, record_property)


def test_kernels_of_the_fish_network_compile_without_spilling_registers(tmp_path, record_property):
    check_no_spills(modules(all_of_them=False), "sm_90", tmp_path, record_property)


def check_no_spills(wanted: list[Module], architecture: str, out: Path, record_property) -> None:
    seen = set()
    for module in wanted:
        for name, registers, spilled in compiled(module, architecture, out):
            seen.add(name)
            record_property(f"{module[0]}: {name}", registers)
            assert spilled == 0, f"{name} spills {spilled} bytes, compiled with {' '.join(module[1])}"
    text = "".join(path.read_text() for path in CUDA.parent.glob("*.cu"))
    assert seen == set(re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)', text))


def test_a_spill_would_be_seen(tmp_path):
    file, options = next(m for m in modules(all_of_them=True) if m[0] == "convolution.cu" and "-DWINDOWS=8" in m[1])
    greedy = tuple(re.sub("WINDOWS=8", "WINDOWS=32", re.sub("CHUNK=.*", "CHUNK=1", option)) for option in options)
    assert any(spilled for _, _, spilled in compiled((file, greedy), "sm_90", tmp_path))
