"""tinycnn: a convolutional network engine small enough to read in one sitting."""

from pathlib import Path as _Path

_here = _Path(__file__).resolve().parent
if not (_here / "kernels" / "__init__.py").is_file():  # a checkout: kernels/ lies beside tinycnn/
    __path__.append(str(_here.parent))

__version__ = "0.1.0"

import importlib as _importlib

from . import ops
from .backend import set_threads, use_backend
from .gradcheck import gradcheck
from .tensor import Tensor, no_grad
from .trace import trace

__all__ = ["Tensor", "gradcheck", "no_grad", "ops", "set_threads", "trace", "use_backend"]

_MODULES = (
    "backend", "callbacks", "datasets", "errors", "fused", "initializers", "layers", "losses", "metrics", "models",
    "optimizers", "preprocessing", "storage",
)  # fmt: skip


def __getattr__(name: str):
    """`tinycnn.layers` and its like, imported on first use."""
    if name in _MODULES:
        return _importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'tinycnn' has no attribute {name!r}")
