"""Kernels, compiled quickly and kept: once, never stale, never foreign, and never needed: whatever fails, they run."""

import abc
import errno
import gc
import importlib
import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import llvmlite
import numba
import numpy as np
import pytest
from checks import ROOT
from numba.core import caching
from numba.core.codegen import CPUCodeLibrary
from numba.core.registry import cpu_target
from tinycnn.kernels import compiling, cpu_dense

from tinycnn.datasets import fish

HELPER = """
import numba

@numba.njit
def scaled(x):
    return x * 3
"""
LOOPS = """
from .compiling import compiled
from .helper import scaled

@compiled
def fill(y, value):
    for i in range(y.size):
        y[i] = scaled(value)

@compiled
def total(x):
    whole = 0.0
    for i in range(x.size):
        whole += scaled(x[i])
    return whole
"""
ANNOUNCEMENT = "tinycnn: compiling kernels for this processor (once; about 10 s) ...\n"
WITHOUT_KEEPING = ANNOUNCEMENT.replace("once; ", "")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder of kernels of its own, with an empty cache beside it."""
    folder = tmp_path / "small"
    folder.mkdir()
    shutil.copy(ROOT / "kernels" / "compiling.py", folder)
    for name, text in (("__init__", ""), ("helper", HELPER), ("loops", LOOPS), ("other", "# read by nobody\n")):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own cache misses edits within a second
    monkeypatch.setenv("TINYCNN_CACHE", str(tmp_path / "cache"))
    yield folder
    forget()


def forget() -> None:
    """The package is unknown again, as in a new process."""
    for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def start(before: Callable[[types.ModuleType], None] = lambda module: None) -> int:
    """Import the package afresh and run a kernel: how often it was compiled. `before` gets the compiling module."""
    forget()
    before(importlib.import_module("small.compiling"))
    kernel = importlib.import_module("small.loops").total
    assert kernel(np.ones(4)) == 12
    stats = kernel.stats
    hits, misses = sum(stats.cache_hits.values()), sum(stats.cache_misses.values())
    assert hits + misses == 1
    return misses


def kept(package: Path) -> list[Path]:
    """The files in the cache, those with hidden names too."""
    return sorted(path for path in (package.parent / "cache").rglob("*") if path.is_file())


# Kept, and for how long

PROCESS = """
import sys
import numpy as np
from numba.core import event
from small import loops
with event.install_recorder("numba:compile") as compiled:
    y = np.empty(4, np.float32)
    loops.fill(y, 2.0)
    print(y[0], loops.total(y), sum(e.is_start for _, e in compiled.buffer), "numba.np.linalg" in sys.modules)
"""


def process(package: Path) -> tuple[list[str], str]:
    done = subprocess.run([sys.executable, "-B", "-c", PROCESS], cwd=package.parent, capture_output=True, text=True)
    return done.stdout.split(), done.stderr


def test_only_the_first_process_compiles_until_a_file_changes(package):
    (value, total, compiled, _), told = process(package)
    assert (value, total, told) == ("6.0", "72.0", ANNOUNCEMENT)
    assert int(compiled) == 4  # two kernels, and the helper for the number type of each
    assert process(package) == (["6.0", "72.0", "0", "False"], ""), "without the parts of Numba that compile"
    (package / "helper.py").write_text(HELPER.replace("3", "5"))
    (value, total, compiled, _), told = process(package)
    assert (value, total, told) == ("10.0", "200.0", ANNOUNCEMENT)
    assert int(compiled) == 4


def test_the_kernels_are_imported_without_what_only_compiling_needs():
    code = "import sys, tinycnn.kernels.cpu; print('numba.np.linalg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("runtime", [None, object()])
def test_a_numba_that_loads_in_another_way_gets_all_its_parts(runtime, package, monkeypatch):
    assert start() == 1
    refreshed = []
    monkeypatch.setattr(cpu_target.target_context, "refresh", lambda: refreshed.append(1))
    assert start(lambda compiling: setattr(compiling, "_runtime", runtime)) == 0
    assert refreshed


def test_every_file_of_the_folder_counts(package):
    assert start() == 1
    assert start() == 0
    for edit in (
        lambda: (package / "other.py").write_text("# still read by nobody\n"),
        lambda: (package / "new.py").touch(),
        lambda: (package / "new.py").rename(package / "newer.py"),
    ):
        edit()
        assert (start(), start()) == (1, 0)
    (package / ".#loops.py").symlink_to("nobody@nowhere")  # an editor's lock
    assert start() == 0
    (package / "loops.py").touch()
    assert start() == 0


def test_an_edit_while_the_files_are_imported_is_noticed(package, capsys):
    """Half old and half new code must not be kept for either."""
    assert start(lambda compiling: (package / "helper.py").write_text(HELPER + "\n")) == 1
    assert kept(package) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tinycnn: kernels cannot be kept on disk (the source files in ")
    assert line.endswith("small have changed since this process started); they are compiled in each process")


def test_kernels_of_one_name_have_a_file_each(package):
    define = "@compiled\ndef add(x):\n    return x + {}\n"
    text = f"from .compiling import compiled\n{define.format(1)}first = add\n{define.format(2)}"
    (package / "twins.py").write_text(text)
    for _ in range(2):
        forget()
        twins = importlib.import_module("small.twins")
        assert (twins.first(10), twins.add(10)) == (11, 12)
        assert len(kept(package)) == 2
    assert [sum(f.stats.cache_hits.values()) for f in vars(twins).values() if hasattr(f, "stats")] == [1] * 2


@pytest.mark.parametrize(
    ("where", "name"), [(numba, "__version__"), (llvmlite, "__version__"), (np, "__version__"), (sys, "version")]
)
def test_another_version_is_another_generation(where, name, monkeypatch):
    codegen = types.SimpleNamespace(magic_tuple=lambda: ("x86_64", "skylake", "+avx2"))
    before = compiling._generation(codegen)
    assert compiling._generation(codegen) == before
    monkeypatch.setattr(where, name, "another")
    assert compiling._generation(codegen) != before


def test_another_processor_or_setting_is_another_generation(monkeypatch):
    processors = [("x86_64", name, features) for name in ("skylake", "znver4") for features in ("+avx2", "+avx512f")]
    codegens = [types.SimpleNamespace(magic_tuple=lambda it=it: it) for it in processors]
    found = {compiling._generation(codegen) for codegen in codegens}
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1)
    found |= {compiling._generation(codegen) for codegen in codegens}
    assert len(found) == 8


def test_generations_that_were_not_used_for_long_are_removed(package):
    cache = package.parent / "cache" / "kernels"
    old = [cache / f"{i:032x}" for i in range(compiling.GENERATIONS + 2)]
    mine = cache / "something of the user's"
    for days, folder in enumerate([mine, *old]):
        folder.mkdir(mode=0o700, parents=True)
        (folder / "file").touch()
        os.utime(folder, (days * 86400, days * 86400))
    cache.chmod(0o700)
    assert start() == 1
    left = sorted(folder.name for folder in cache.iterdir())
    assert mine.name in left
    new = next(path.parent.name for path in kept(package) if path.name != "file")
    assert set(left) == {mine.name, new} | {folder.name for folder in old[-compiling.GENERATIONS + 1 :]}
    os.utime(cache / new, (0, 0))
    assert start() == 0
    assert (cache / new).stat().st_mtime > time.time() - 3600, "a generation in use is no old one"


def test_threads_that_start_together_compile_once(package, capsys):
    loops = importlib.import_module("small.loops")
    with ThreadPool(4) as pool:
        assert pool.map(loops.total, [np.ones(4)] * 4) == [12] * 4
    assert sum(loops.total.stats.cache_misses.values()) == 1
    assert capsys.readouterr().err == ANNOUNCEMENT


# What cannot be trusted


def flipped(content: bytes, at: int) -> bytes:
    damaged = bytearray(content)
    damaged[at] ^= 16
    return bytes(damaged)


def test_a_damaged_file_is_noticed_and_replaced(package, capsys):
    assert start() == 1
    (file,) = kept(package)
    whole = file.read_bytes()
    cut = [whole[:size] for size in (0, 1, 32, len(whole) // 2, -1)]
    for fault in [*cut, whole + b"\0", *(flipped(whole, at) for at in (0, 32, len(whole) // 2, -1))]:
        file.write_bytes(fault)
        capsys.readouterr()
        assert start() == 1
        line, announcement = capsys.readouterr().err.splitlines(keepends=True)
        assert line == f"tinycnn: kernel cache {file} is damaged; its kernel is compiled again\n"
        assert announcement == WITHOUT_KEEPING
        assert start() == 0
        assert capsys.readouterr().err == ""
        assert kept(package) == [file]


def test_a_whole_file_that_numba_cannot_take_is_replaced(package, capsys):
    assert start() == 1
    (file,) = kept(package)
    file.write_bytes(compiling._digest(file, b"no pickle") + b"no pickle")
    capsys.readouterr()
    assert start() == 1
    assert f"kernel cache {file.parent.parent} cannot be read (" in capsys.readouterr().err
    assert start() == 0


def test_a_file_under_the_name_of_another_is_damaged(package, capsys):
    assert start() == 1
    (file,) = kept(package)
    shutil.copy(file, file.parent / "another")
    (package / "other.py").touch()
    with pytest.raises(compiling._DamageError):
        compiling._read(file.parent / "another")
    assert compiling._read(file) == file.read_bytes()[32:]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_what_others_can_write_to_is_not_read(what, mode, package, capsys):
    assert start() == 1
    (file,) = kept(package)
    path = file if what == "file" else file.parent.parent
    path.chmod(mode)
    capsys.readouterr()
    assert start() == 1
    told = capsys.readouterr().err
    assert f"cannot be read (others can write to {path.name}; chmod go-w would mend that)" in told
    path.chmod(0o755)
    assert start() == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
def test_what_belongs_to_another_user_is_not_read(package, capsys, monkeypatch):
    assert start() == 1
    before = [(file, file.read_bytes()) for file in kept(package)]
    capsys.readouterr()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert (start(), start()) == (1, 1)
    assert "cannot be read (kernels belongs to another user)" in capsys.readouterr().err
    assert [(file, file.read_bytes()) for file in kept(package)] == before


def test_the_folder_is_private(package):
    start()
    (file,) = kept(package)
    modes = [path.stat().st_mode & 0o777 for path in (file, file.parent, file.parent.parent)]
    assert modes == [0o600, 0o700, 0o700] or not hasattr(os, "geteuid")


# Where nothing can be kept


def no_folder(package: Path, monkeypatch) -> None:
    (package.parent / "cache").write_text("a file where a folder should be")


def no_home(package: Path, monkeypatch) -> None:
    for name in ("TINYCNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", raising(RuntimeError("Could not determine home directory.")))


def no_reading(package: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.open", failing(open, package.parent / "cache", errno.EACCES))


def no_writing(package: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "mkdir", failing(os.mkdir, package.parent / "cache", errno.EROFS))


def no_room(package: Path, monkeypatch) -> None:
    """Files can be made, and what is written to them does not fit."""
    real = open

    def full(file, mode="r", *rest, **more):
        if isinstance(file, int) and mode == "wb":
            os.close(file)
            return real("/dev/full", mode)
        return real(file, mode, *rest, **more)

    monkeypatch.setattr("builtins.open", full)


def no_replacing(package: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "replace", raising(PermissionError(errno.EACCES, "Permission denied")))


def raising(error: Exception) -> Callable:
    def function(*arguments, **more):
        raise error

    return function


def failing(function: Callable, folder: Path, number: int) -> Callable:
    """The function, but it fails for what lies in the folder."""

    def failing(path, *arguments, **more):
        if isinstance(path, str | Path) and Path(path).is_relative_to(folder):
            raise OSError(number, os.strerror(number), str(path))
        return function(path, *arguments, **more)

    return failing


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (no_folder, "cannot be read (Not a directory)"),
        (no_home, "cannot be read (no home folder; TINYCNN_CACHE can name another)"),
        (no_reading, "cannot be read (Permission denied)"),
        (no_writing, "cannot be written (Read-only file system)"),
        (no_replacing, "cannot be written (Permission denied)"),
        pytest.param(
            no_room, "cannot be written (No space left on device)",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full"),
        ),
    ],
)  # fmt: skip
def test_without_a_place_kernels_are_compiled_in_each_process(fault, words, package, capsys, monkeypatch):
    if fault is no_reading:
        start()
    fault(package, monkeypatch)
    for _ in range(2):
        capsys.readouterr()
        assert start() == 1
        told = capsys.readouterr().err.splitlines()
        (line,) = [line for line in told if "kernel cache" in line]
        folder = "" if fault is no_home else f" {package.parent / 'cache' / 'kernels'}"
        assert line == f"tinycnn: kernel cache{folder} {words}; kernels are compiled in each process"
        assert len(told) == 2
    if fault is not no_folder:
        monkeypatch.undo()
        assert not [path for path in kept(package) if path.name.startswith(".")], "no half-written file stays"


def test_a_name_that_would_not_print_is_escaped(package, capsys, monkeypatch):
    monkeypatch.setenv("TINYCNN_CACHE", f"{package}/loops.py/\x1b[31m\n")
    assert start() == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[0]
        .startswith(rf"tinycnn: kernel cache {package}/loops.py/\x1b[31m\n/kernels cannot be read (")
    )


class MoreIsDemanded(caching._Cache):
    @abc.abstractmethod
    def something_new(self): ...


@pytest.mark.parametrize("cache", [None, MoreIsDemanded])
def test_a_numba_whose_private_parts_moved_still_runs_kernels(cache, package, capsys, monkeypatch):
    forget()
    monkeypatch.setattr(caching, "_Cache", cache)
    kernels = importlib.import_module("small.loops")
    assert kernels.total(np.ones(4)) == 12
    assert kept(package) == []
    reason = f"Numba {numba.__version__} works in another way than those known here"
    assert capsys.readouterr().err == (
        f"tinycnn: kernels cannot be kept on disk ({reason}); they are compiled in each process\n"
    )


def test_without_compilation_kernels_are_plain_functions(package, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert importlib.import_module("small.loops").total(np.ones(4)) == 12
    assert kept(package) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirection")
def test_nobody_needs_to_read_standard_error(package):
    code = "import numpy, small.loops; print(small.loops.total(numpy.ones(4)))"
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=package.parent, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "12.0\n"
    assert len(kept(package)) == 1


# What is not kept


def test_functions_from_elsewhere_are_compiled_but_not_kept(package, capsys):
    kernels = importlib.import_module("small.compiling")

    def twice(x):
        return x * 2

    assert kernels.compiled(twice)(4) == 8
    assert kept(package) == []
    assert capsys.readouterr().err == ""


def test_functions_that_hold_variables_are_not_kept(package):
    text = "from .compiling import compiled\ndef adder(n):\n    @compiled\n"
    (package / "adders.py").write_text(f"{text}    def add(x):\n        return x + n\n    return add\n")
    adder = importlib.import_module("small.adders").adder
    assert [adder(n)(10) for n in (1, 2)] == [11, 12]
    assert kept(package) == []


def test_kernels_that_take_functions_are_not_kept(package, capsys):
    text = "from .compiling import compiled\n@compiled\ndef apply(f, x):\n    return f(x)\n"
    (package / "functions.py").write_text(text)
    apply = importlib.import_module("small.functions").apply
    assert [apply(numba.njit(f), 3) for f in (lambda x: x + 1, lambda x: x * x)] == [4, 9]
    assert kept(package) == []
    assert "(apply takes a function)" in capsys.readouterr().err


# The folder's place


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("variable", ["TINYCNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA", None])
def test_kernels_lie_beside_the_drawn_fish(platform, variable, tmp_path, monkeypatch):
    for name in ("TINYCNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert compiling.cache_folder() == fish.cache_folder() / "kernels"
    monkeypatch.setenv("TINYCNN_CACHE", str(tmp_path / "mine"))
    assert compiling.cache_folder() == tmp_path / "mine" / "kernels"


@pytest.mark.parametrize("collects", [True, False])
def test_settings_for_compiling_come_back(monkeypatch, collects):
    seen = []

    codegen = cpu_target.target_context.codegen()

    def compile_(*arguments):
        parts = "load_additional_registries" in vars(cpu_target.target_context)  # in place of what the class does
        seen.append((numba.config.OPT, gc.isenabled(), codegen._library_class, parts))
        if arguments == ("fails",):
            raise LookupError
        if arguments:  # as where a kernel calls another
            compiling._quickly(compile_)()
            seen.append((codegen._library_class, "load_additional_registries" in vars(cpu_target.target_context)))

    before, library = numba.config.OPT, codegen._library_class
    monkeypatch.delenv("NUMBA_OPT", raising=False)
    (gc.enable if collects else gc.disable)()
    try:
        compiling._quickly(compile_)()
        with pytest.raises(LookupError):
            compiling._quickly(compile_)("fails")
        compiling._quickly(compile_)("calls another")
        monkeypatch.setenv("NUMBA_OPT", "3")
        compiling._quickly(compile_)()
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    once = compiling._OptimisedOnce
    ours, users = ((level, False, once, True) for level in (compiling.LEVEL, before))
    assert seen == [ours, ours, ours, ours, (once, True), users]
    assert (before, library) == (numba.config.OPT, codegen._library_class)
    assert "load_additional_registries" not in vars(cpu_target.target_context)
    assert cpu_dense._dense_parts._compiler.compile.__name__ == "compile_quickly"


def test_this_version_of_numba_is_known_and_its_code_optimised_once():
    """Fails where a new version made the first run longer in silence."""
    codegen = cpu_target.target_context.codegen()
    with compiling._optimised_once():
        assert codegen._library_class is compiling._OptimisedOnce
    assert codegen._library_class is compiling._Library


def _moved(monkeypatch, part: str) -> None:
    if part == "passes":
        kind = type(cpu_target.target_context.codegen())
        monkeypatch.setattr(kind, "_module_pass_manager", lambda self, **options: object())
    elif part == "owners":
        monkeypatch.setattr(compiling, "UNCOUNTED", {})
    elif part == "library":
        monkeypatch.setattr(compiling, "_Library", None)
    else:
        monkeypatch.delattr(CPUCodeLibrary, part)


@pytest.mark.parametrize("part", ["passes", "owners", "library", "_optimize_functions"])
def test_a_numba_that_optimises_in_another_way_is_left_to_it(part, monkeypatch):
    codegen = cpu_target.target_context.codegen()
    before = codegen._library_class
    with monkeypatch.context() as moved:
        _moved(moved, part)
        with compiling._optimised_once():
            assert codegen._library_class is before


def test_parts_of_numba_are_imported_once_for_a_kernel(monkeypatch):
    context, asked = cpu_target.target_context, []
    whole = type(context).load_additional_registries
    monkeypatch.setattr(type(context), "load_additional_registries", lambda self: asked.append(whole(self)))
    kernel = compiling.compiled(lambda worker, x: x.reshape(-1)[0] + worker)  # in no file: it is not on disk
    kernel.compile((numba.int64, numba.float32[:, ::1]))
    with compiling._imported_once():
        before = len(asked)
        context.refresh()
        assert len(asked) == before
    context.refresh()
    assert before < len(asked) < 10
