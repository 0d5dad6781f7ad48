"""Who may import whom, what an import may cost, what no file may do: read from the source, so nobody must remember."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from checks import ROOT
from tinycnn.kernels import cpu, reference

from tinycnn import fused

COMMANDS = {"train", "predict", "evaluate", "explain"}
FREE = {"random", "errors", "files"}  # open to every module of the package
ENGINE = {"tensor", "backend", "kernels.recording", "kernels.shapes"}
OPS = ENGINE | {"ops", "fused"}
FRONT = {"layers", "losses", "metrics", "optimizers", "initializers"}
TRAINING = FRONT | {"callbacks", "batches", "position", "storage", "report", "summary"}
SHARED = {"paper", "snapshots", "explanation", "webpage", "pictures"}  # what commands are made of
COMMAND = (
    {
        "__init__",
        "backend",
        "models",
        "datasets",
        "preprocessing",
        "cli",
        "folders",
        "trace",
        "divergence",
        "interrupts",
        "run_folder",
    }
    | TRAINING
    | SHARED
)

# Each module, and what it may import of the package; modules of a folder go by the folder's name.
MAY_IMPORT = {
    "__init__": {"ops", "backend", "gradcheck", "tensor", "trace"},
    "__main__": {"__init__", "cli", *COMMANDS},
    "random": set(),
    "errors": {"kernels.shapes"},
    "backend": set(),
    "tensor": {"backend", "notebook", "kernels.recording"},
    "notebook": set(),
    "ops": {"tensor", "kernels.recording", "kernels.shapes"},
    "fused": ENGINE | {"ops"},
    "graph": {"backend", "tensor"},
    "gradcheck": {"tensor"},
    "trace": {"tensor"},
    "initializers": {"backend"},
    "layers": OPS | {"initializers"},
    "losses": OPS,
    "summary": {"layers", "notebook"},
    "metrics": OPS,
    "optimizers": ENGINE,
    "files": set(),
    "tensorfile": set(),
    "storage": {"tensorfile"},
    "callbacks": {"storage", "report", "position"},
    "position": {"backend"},
    "interrupts": {"callbacks"},
    "divergence": {"batches", "models", "tensorfile", "trace"},
    "run_folder": {"callbacks", "models", "position", "preprocessing", "storage"},
    "report": {"metrics", "storage"},
    "models": OPS | TRAINING | {"graph", "plan", "preprocessing", "saving", "trace"},
    "saving": OPS | {"layers", "losses", "optimizers", "position", "preprocessing"},
    "plan": OPS,
    "preprocessing": {"preprocessing", "backend"},
    "datasets": {"datasets"},
    "batches": {"backend"},
    "folders": {"preprocessing"},
    "cli": {"backend", "models", "preprocessing"},
    "paper": {"layers", "models"},
    "snapshots": {"callbacks", "storage"},
    "differences": OPS | {"models"},
    "explanation": OPS
    | TRAINING
    | {"models", "preprocessing", "trace", "differences", "paper", "snapshots", "pictures"},
    "pictures": {"models", "paper", "preprocessing", "tensor", "trace"},
    "webpage": {"storage"},
    **dict.fromkeys(COMMANDS, COMMAND),
}
READ_FIRST = {  # they stand without other kernels
    "kernels.shapes": set(),
    "kernels.recording": set(),
    "kernels.reference": {"kernels.shapes"},
}
COMPILES = {  # kernels that speak with Numba
    *("ahead", "atomic", "blocks", "compiling", "cpu", "instructions", "native", "products", "program", "threads"),
    "vectors",
}
THIRD_PARTY = {  # what only some may import, "kernels.cpu_dense" as "kernels.cpu"; the rest of the world is open
    "PIL": {"preprocessing", "datasets"},
    "numba": {
        "backend",
        *(f"kernels.{name}" for name in COMPILES),
    },
    "cupy": {"kernels.cuda", "backend"},
}
NEVER = {"pickle", "marshal", "shelve", "dill", "joblib", "kernels", "tests"}
UNPICKLES = "kernels.compiling"  # what the same user wrote: Numba gives compiled code in no other form

SOURCES = sorted([*(ROOT / "tinycnn").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def module(path: Path) -> str:
    """ "ops", "preprocessing.image", "kernels.cpu": the dotted name inside the package."""
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == "kernels" else relative.parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def unit(name: str) -> str:
    """The row of the table: kernels one by one, other folders as a whole."""
    return name if name.startswith("kernels.") else name.split(".")[0]


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, also inside functions, but not what only type checkers read.

    The package's own start with "tinycnn."; a name that is no module is the package's __init__.
    """
    folder = path.parent.relative_to(ROOT)
    home = ["tinycnn", *folder.parts[folder.parts[:1] == ("tinycnn",) :]]
    tree = ast.parse(path.read_text())
    for_types = {
        inner for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }  # fmt: skip
    found: set[str] = set()
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = home[: len(home) + 1 - node.level] if node.level else []
            base = [*start, *(node.module.split(".") if node.module else [])]
            if base == ["tinycnn"]:
                found |= {f"tinycnn.{alias.name if alias.name in MAY_IMPORT else '__init__'}" for alias in node.names}
            elif base == ["tinycnn", "kernels"]:
                found |= {f"tinycnn.kernels.{alias.name}" for alias in node.names}
            else:
                found.add(".".join(base))
    return found


def own(path: Path) -> set[str]:
    """The rows of the table that a file imports."""
    return {unit(name.removeprefix("tinycnn.")) for name in imports(path) if name.startswith("tinycnn.")}


@every_source
def test_imports_follow_the_table(path):
    name = unit(module(path))
    if name.startswith("kernels"):
        kernels = {unit(module(other)) for other in SOURCES if other.parent.name == "kernels"}
        assert own(path) <= READ_FIRST.get(name, kernels), "kernels know kernels, no more"
        return
    assert name in MAY_IMPORT, f"{name}: a new module needs a row in MAY_IMPORT"
    forbidden = own(path) - MAY_IMPORT[name] - (FREE if name != "random" else set())
    assert not forbidden, f"{name} may not import {', '.join(sorted(forbidden))}"


@every_source
def test_nothing_imports_a_command_or_what_only_others_may(path):
    name = unit(module(path))
    assert name == "__main__" or not own(path) & COMMANDS
    outside = {imported.split(".")[0] for imported in imports(path)} - {"tinycnn"}
    assert not outside & (NEVER - {"pickle"} if name == UNPICKLES else NEVER)
    for library, users in THIRD_PARTY.items():
        assert library not in outside or name.split("_")[0] in users, f"{name} may not import {library}"


@every_source
def test_no_file_evaluates_text_or_loads_code_from_data(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    assert not names & {"eval", "exec", "compile", "__import__"}
    for node in calls:
        assert not any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords)


@every_source
def test_every_file_opens_with_a_docstring(path, record_property):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{path.name}: the first line says why the file exists"
    record_property("lines", len(text.splitlines()))
    print(f"{module(path)}: {len(text.splitlines())} lines")


def test_the_reader_of_imports_sees_what_it_must(tmp_path, monkeypatch):
    """The checks above are as good as this reader: every way to write an import is found."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "tinycnn" / "preprocessing" / "image.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import os.path, tinycnn.models\nfrom .. import ops, random\nfrom ..kernels import shapes\n"
        "from ..kernels.cpu import im2col\nfrom . import other\nfrom tinycnn.layers import Dense\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..storage import load\n"
        "def f():\n    from PIL import Image\n    from .. import __version__\n"
    )
    assert own(path) == {
        "models",
        "ops",
        "random",
        "kernels.shapes",
        "kernels.cpu",
        "preprocessing",
        "layers",
        "__init__",
    }
    assert {"os.path", "PIL"} <= imports(path)
    package = tmp_path / "tinycnn" / "__init__.py"
    package.write_text("from . import ops\nfrom .tensor import Tensor\n")
    assert own(package) == {"ops", "tensor"}
    inner = tmp_path / "tinycnn" / "preprocessing" / "__init__.py"
    inner.write_text("from . import image\nfrom ..errors import DataError\n")
    assert own(inner) == {"preprocessing", "errors"}


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, tinycnn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tinycnn.ops" in loaded
    heavy = {"numba", "cupy", "matplotlib", "PIL", "tqdm", "safetensors", "tinycnn.models", "tinycnn.kernels.cpu"}
    assert not loaded & heavy


def public_functions(kernels) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(f)
        for name, f in vars(kernels).items()
        if inspect.isfunction(f) and f.__module__ == kernels.__name__ and not name.startswith("_")
    }


def test_backends_have_the_same_kernels_with_the_same_signatures():
    wanted, found = public_functions(reference), public_functions(cpu)
    assert found, "no kernels found"
    for op in fused.FUSIONS:  # what these kernels mean is `plain`, and their tests compare them with it
        for name in (op.kernel, f"{op.kernel}_backward"):
            found.pop(name, None)
    assert set(found) <= set(wanted), "a kernel without a reference has nothing to be tested against"
    assert found == {name: wanted[name] for name in found}


def test_every_kernel_of_the_reference_says_what_it_does():
    assert all(getattr(reference, name).__doc__ for name in public_functions(reference))
