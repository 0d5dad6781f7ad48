"""A stand-in for the part of CuPy that kernels/cuda.py uses: NumPy's arrays, and kernels run on the host.

The .cu files are compiled unchanged as C++ (cuda_shim.h), so what is tested is the code that a GPU would run, and the
Python code that launches it. Each argument is compared with the kernel's parameter: a GPU would take any bytes.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tinycnn.kernels import memory

from tinycnn import backend

HERE = Path(__file__).resolve().parent
CUDA = HERE.parent / "kernels" / "cuda.py"
SANITIZERS = ("-fsanitize=address,undefined", "-fsanitize-sections=shared_memory", "-fno-sanitize-recover=all", "-g")
TYPES = {"f": "float32", "d": "float64", "i": "int32", "x": "int64", "l": "int64", "a": "int8", "h": "uint8"}
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter")


class BarrierError(Exception):
    """Some threads of a block ended where others wait for them."""


def compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++")


class HostCupy(ModuleType):
    """What `import cupy` finds. `seed` draws the order of threads; `faults` are replaced in the kernels' source."""

    ndarray = np.ndarray
    ascontiguousarray = staticmethod(np.ascontiguousarray)
    asarray = staticmethod(np.asarray)
    full = staticmethod(np.full)
    dot = staticmethod(np.dot)

    def __init__(self, cache: Path, *, seed: int = 0, options: Sequence[str] = ()) -> None:
        super().__init__("cupy")
        self.cache, self.seed, self.options = cache, seed, tuple(options)
        self.faults: list[tuple[str, str]] = []
        self.launches: list[str] = []
        self.libraries: dict[Path, ctypes.CDLL] = {}

    def empty(self, shape, dtype=np.float32) -> np.ndarray:
        """Memory that holds NaN, or whole numbers that are no taps."""
        array = memory.empty((shape,) if isinstance(shape, int) else shape, dtype)  # guards.py puts margins around it
        array.fill(np.nan if array.dtype.kind == "f" else 77)
        return array

    def RawModule(self, *, code: str, options: tuple[str, ...], backend: str) -> "HostModule":  # noqa: N802
        assert backend == "nvrtc"
        for old, new in self.faults:
            code = code.replace(old, new)
        macros = [option for option in options if option.startswith("-D")]
        assert set(options) - set(macros) == {"-std=c++17", "--fmad=false"}
        return HostModule(self, code, macros)


class HostModule:
    """A .cu file as a library of the host."""

    def __init__(self, home: HostCupy, code: str, macros: Sequence[str]) -> None:
        self.home = home
        self.barriers = "__syncthreads" in re.sub(r"//.*", "", code)
        names = re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)', code)
        stubs = "".join(
            f'extern "C" void types_{name}(char *out) {{ shim::types(&{name}, out); }}\n'
            f'extern "C" int launch_{name}(const unsigned *grid, unsigned threads, void **arguments,'
            f" unsigned long long seed, bool barriers)\n"
            f"{{ return shim::launch(&{name}, grid, threads, arguments, seed, barriers); }}\n"
            for name in names
        )
        code = f'#include "{HERE / "cuda_shim.h"}"\n{code}\n{stubs}'
        command = [str(compiler()), "-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing",
                   "-fPIC", "-shared", *WARNINGS, *home.options, *macros]  # fmt: skip
        key = hashlib.sha256("\0".join([*command, code, (HERE / "cuda_shim.h").read_text()]).encode()).hexdigest()[:24]
        path = home.cache / f"{key}.so"
        if path not in home.libraries:
            if not path.exists():
                path.with_suffix(".cpp").write_text(code)
                command += ["-o", f"{path}.part", str(path.with_suffix(".cpp"))]
                environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
                done = subprocess.run(command, capture_output=True, env=environment)
                assert done.returncode == 0, done.stderr.decode()
                Path(f"{path}.part").rename(path)
            home.libraries[path] = ctypes.CDLL(str(path))
        self.library = home.libraries[path]

    def get_function(self, name: str) -> "HostKernel":
        return HostKernel(self, name)


class HostKernel:
    """Called as CuPy's RawKernel is: kernel(grid, block, arguments)."""

    def __init__(self, module: HostModule, name: str) -> None:
        self.module, self.name = module, name
        words = ctypes.create_string_buffer(1024)
        module.library[f"types_{name}"](words)
        self.parameters = words.value.decode().split()
        self.function = module.library[f"launch_{name}"]

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        home = self.module.home
        home.launches.append(self.name)
        assert len(arguments) == len(self.parameters), f"{self.name}: {len(self.parameters)} parameters"
        assert 0 < block[0] <= 1024
        assert len(block) == 1
        assert all(0 < size < limit for size, limit in zip(grid, (2**31, 2**16, 2**16), strict=False))
        values = [self._value(*pair) for pair in zip(self.parameters, arguments, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        blocks = (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid)))
        seed = ctypes.c_ulonglong(home.seed)
        if self.function(blocks, ctypes.c_uint(block[0]), pointers, seed, ctypes.c_bool(self.module.barriers)):
            raise BarrierError(f"{self.name}: not all threads of a block reach the same barrier")

    def _value(self, parameter: str, argument: Any) -> Any:
        wanted = TYPES[parameter[-1]]
        if not parameter.startswith("P"):
            assert argument.dtype == wanted, f"{self.name}: {argument.dtype} for {wanted}"
            return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())
        if isinstance(argument, np.intp):
            assert argument == 0
            return ctypes.c_void_p(None)
        assert argument.dtype == wanted, f"{self.name}: an array of {argument.dtype} for {wanted}"
        assert argument.flags.c_contiguous
        assert argument.view(np.ndarray).flags.writeable or "K" in parameter
        return ctypes.c_void_p(argument.ctypes.data)


def above(stand_in: HostCupy) -> Any:
    """kernels/cuda.py, unmodified, above this stand-in, which is then its `cupy`."""
    spec = importlib.util.spec_from_file_location("tinycnn.kernels.cuda_on_host", CUDA)
    assert spec is not None
    assert spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"cupy": stand_in}):
        spec.loader.exec_module(kernels)
    return kernels


@pytest.fixture(scope="session", name="cache")
def cache_of_kernels(request, tmp_path_factory) -> Path:
    """Where compiled kernels stay from one run to the next; their names are hashes of all that went into them."""
    if compiler() is None:
        pytest.skip("no C++ compiler: the CUDA kernels cannot be run on the host")
    kept = getattr(request.config, "cache", None)
    return Path(kept.mkdir("cuda_on_host")) if kept else tmp_path_factory.mktemp("cuda_on_host")


@pytest.fixture(scope="session", name="cuda")
def kernels_on_host(cache):
    """The CUDA kernels, run on the host."""
    return above(HostCupy(cache))


@pytest.fixture(name="instead_of_numba")
def kernels_instead_of_numba(cuda, monkeypatch):
    """The fused ops use the CUDA kernels where tests ask for numba: its arrays, too, are NumPy's."""
    monkeypatch.setattr(backend.get("numba"), "_kernels", cuda)
    return cuda
