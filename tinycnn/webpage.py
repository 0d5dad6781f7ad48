"""One HTML file from the files of page/ and what they are told: it asks no network, and runs nothing else."""

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent / "page"
SCRIPTS = (  # each after those that it imports
    "elements.js", "numbers.js", "data.js", "network.js", "state.js", "words.js", "colours.js", "landscape.js",
    "forward.js", "backward.js", "weight.js", "step.js", "photo.js", "timeline.js", "help.js", "main.js",
)  # fmt: skip
STYLES = ("style.css",)
IMPORT = re.compile(r'^import \{(.*?)\} from "\./([\w.]+)";$', re.MULTILINE | re.DOTALL)
EXPORT = re.compile(r"^export ((?:async )?function|const|class) (\w+)", re.MULTILINE)


def webpage(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """The page as text. Its own script and style are named by their hashes, so that a browser runs no other."""
    script = '"use strict";\nconst modules = {};\n' + "".join(_module(name, _source(name)) for name in SCRIPTS)
    style = "".join(map(_source, STYLES))
    described = {name: {"shape": list(a.shape), "type": a.dtype.name} for name, a in arrays.items()}
    parts = {
        "POLICY": f"default-src 'none'; img-src data: blob:; script-src '{_hash(script)}'; style-src '{_hash(style)}'",
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _json({**meta, "arrays": described}),
        "ARRAYS": "\n".join(
            f'<script type="text/plain" id="array:{name}">{packed(array)}</script>' for name, array in arrays.items()
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _source("page.html"))


def packed(array: np.ndarray) -> str:
    """Numbers as base64 of deflate of their bytes, first bytes first: neighbours' exponents are much alike."""
    size = array.dtype.itemsize
    planes = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, size).T
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return base64.b64encode(compressor.compress(planes.tobytes()) + compressor.flush()).decode()


def _source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _module(name: str, source: str) -> str:
    """A module as a part of one script: a function of its own, so that no name of it meets another's."""
    exported = ", ".join(found[2] for found in EXPORT.finditer(source))
    body = EXPORT.sub(r"\1 \2", IMPORT.sub(r'const {\1} = modules["\2"];', source))
    return f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: no text of it can end one."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
