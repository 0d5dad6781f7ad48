"""A campaign of faults: model files and checkpoints whose headers somebody made up, with hashes that are right.

    python -m benchmarks.fault_headers FIRST LAST

is the process that loads cases FIRST to LAST with no more than 100 MB to spare, and prints the outcomes as JSON. A
case is made from its number alone: a sound file, changed once to four times in what its JSON means, in its text or in
its bytes. Four of five carry the hash of what they hold, as whoever makes a file can calculate it: the others show
that the hash is looked at, these what happens behind it.
"""

import copy
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinycnn import tensorfile
from tinycnn.backend import use_backend
from tinycnn.errors import ModelFileError
from tinycnn.models import load_checkpoint, load_model

from .fault_flips import write_files
from .findings import Finding, Part, in_process_of_its_own, needs_linux, status_bytes

NAME = "headers"
USUAL = 100_000
SLICE = 25_000  # cases of one process
MEMORY, SECONDS = 100 * 10**6, 0.1
TRIES = 3  # of a case that took too long: another program may have had the processor
HUGE = [10**9, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -1, 0, 1]
ODD: list[Any] = [
    *HUGE, None, True, False, 0.5, 1e308, -0.0, float("nan"), float("inf"), [], {}, [0], [[]], [1, 2, 3], {"a": 1},
    "", "a", "é", "\x1b[31m", "\u202e", "x" * 5000, "F32", "F64", "BF16", "relu", "Dense", "Conv2D", "Input",
    "os.system", "adam",
]  # fmt: skip


def run(part: Part) -> list[Finding]:
    """The campaign."""
    needs_linux()
    numbers = part.of(USUAL)
    outcomes: Counter[str] = Counter()
    slow: list[str] = []
    worst, most = 0.0, 0
    for first in range(numbers.start, numbers.stop, SLICE):
        last = min(first + SLICE, numbers.stop)
        answer = in_process_of_its_own("benchmarks.fault_headers", str(first), str(last))
        outcomes.update(answer["outcomes"])
        slow += answer["slow"]
        worst, most = max(worst, answer["worst_seconds"]), max(most, answer["grown_bytes"])
    fine = {"refused", "loaded"}
    figures = {"worst ms": round(1000 * worst, 1), "most MB": round(most / 1e6, 1), **outcomes}
    broken = [f"{what} ({n} times)" for what, n in outcomes.items() if what not in fine]
    return [
        Finding(NAME, "another exception than ModelFileError, or more than 100 MB", len(numbers), broken, figures),
        Finding(NAME, "more than 0.1 s for a file", len(numbers), slow),
    ]


def load_all(first: int, last: int) -> dict[str, Any]:
    """The outcomes of these cases, in this process."""
    use_backend("numpy")
    with tempfile.TemporaryDirectory() as folder:
        sound = [(file.read_bytes(), load) for file, load in zip(write_files(Path(folder)), LOADS, strict=True)]
        path = Path(folder) / "case.safetensors"
        outcomes: Counter[str] = Counter()
        slow: list[str] = []
        worst, before = 0.0, status_bytes("VmHWM")
        limit = status_bytes("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for number in range(first, last):
            content, load = sound[number % 2]
            path.write_bytes(case(number, content))
            what, seconds = _load(path, load)
            for _ in range(TRIES - 1):
                if seconds > SECONDS:
                    seconds = min(seconds, _load(path, load)[1])
            outcomes[what] += 1
            worst = max(worst, seconds)
            if seconds > SECONDS:
                slow.append(f"case {number}: {seconds:.2f} s")
        grown = status_bytes("VmHWM") - before
    return {"outcomes": outcomes, "slow": slow, "worst_seconds": worst, "grown_bytes": grown}


LOADS: tuple[Callable[[Path], Any], ...] = (load_model, load_checkpoint)


def _load(path: Path, load: Callable[[Path], Any]) -> tuple[str, float]:
    began = time.process_time()
    try:
        load(path)
        what = "loaded"
    except ModelFileError as error:
        what = (
            "refused" if str(error).isprintable() and len(str(error)) < 500 else "a message that is not one short line"
        )
    except (Exception, MemoryError) as error:
        what = f"{type(error).__name__}: {str(error)[:100]}"
    return what, time.process_time() - began


def case(number: int, content: bytes) -> bytes:
    """File `number`, from a sound one."""
    rng = random.Random(number)
    end = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:end]), content[end:]
    header["__metadata__"][tensorfile.HASH_FIELD] = tensorfile.NO_HASH
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4])):
        header, data = rng.choice(CHANGES)(rng, header, data)
    text = json.dumps(header, separators=(",", ":")).encode()
    if rng.random() < 0.2:
        text = _text_changed(rng, text)
    size = len(text) if rng.random() < 0.97 else rng.choice([*HUGE[:6], 0, len(text) + 1, len(text) - 1]) % 2**64
    made = size.to_bytes(8, "little") + text + data
    if rng.random() < 0.8:
        made = tensorfile.seal(made) if size == len(text) else made
    if rng.random() < 0.05:
        made = _text_changed(rng, made)
    return made


def _change_header(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """A value anywhere in the header."""
    return _changed(rng, header), data


def _change_meaning(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """A value anywhere in the JSON that the metadata holds as text."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and metadata:
        name = rng.choice(sorted(metadata))
        try:
            metadata[name] = json.dumps(_changed(rng, json.loads(metadata[name])))
        except (TypeError, ValueError, RecursionError):
            metadata[name] = _odd_text(rng)
    return header, data


def _change_tensor(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """The place, the shape or the type of a tensor."""
    tensors = [v for k, v in header.items() if k != "__metadata__"] if isinstance(header, dict) else []
    if tensors and isinstance(chosen := rng.choice(tensors), dict):
        field = rng.choice(["data_offsets", "shape", "dtype"])
        if isinstance(value := chosen.get(field), list) and value:
            value[rng.randrange(len(value))] = rng.choice([*HUGE, len(data), len(data) + 4, 4, 8])
        else:
            chosen[field] = _odd(rng)
    return header, data


def _add_tensors(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """Tensors of nothing, of bytes that others have, or of new bytes: few, or thousands."""
    if not isinstance(header, dict):
        return header, data
    for i in range(_how_many(rng)):
        size = rng.choice([0, 4])
        end = len(data) + size
        header[f"{rng.choice(['t', 'optimizer.', 'x' * 90])}{i}"] = {
            "dtype": "F32", "shape": [size // 4] if rng.random() < 0.9 else [], "data_offsets": [len(data), end],
        }  # fmt: skip
        data += bytes(size)
    return header, data


def _add_layers(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """Layers without weights, or ones that would have many: few, or thousands; sizes beyond reason."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    try:
        architecture = json.loads(metadata["architecture"])
        layers = architecture["layers"]
        for i in range(_how_many(rng)):
            config = rng.choice(
                [{}, {"activation": "relu"}, {"units": rng.choice(HUGE)}, {"shape": [rng.choice(HUGE)] * 3}]
            )
            kind = rng.choice(["Flatten", "Activation", "Dense", "Input", "MaxPooling2D"])
            layers.insert(rng.randint(0, len(layers)), {"class": kind, "name": f"n{i}", "config": config})
        if rng.random() < 0.3:
            architecture["input_shape"] = [rng.choice(HUGE) for _ in range(rng.randint(0, 4))]
        metadata["architecture"] = json.dumps(architecture)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError):
        pass
    return header, data


def _change_data(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """The bytes behind the header: more, fewer, infinity and NaN among them."""
    at = rng.randint(0, len(data)) // 4 * 4
    kinds = [data[:at], data + bytes(rng.choice([1, 4, 1000])), data[:at] + b"\x00\x00\xc0\x7f" + data[at + 4 :]]
    return header, rng.choice([*kinds, data[:at] + b"\x00\x00\x80\xff" + data[at + 4 :]])


def _nest(rng: random.Random, header: Any, data: bytes) -> tuple[Any, bytes]:
    """Something deep, or a long text, as a piece of metadata or as a tensor."""
    deep = rng.choice(["[" * 60_000, '{"a":' * 30_000, "[" * 900 + "]" * 900, "9" * 100_000, '"' + "x" * 200_000 + '"'])
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        name = rng.choice(["architecture", "class_names", "preprocessing", "training", "new"])
        header["__metadata__"][name] = deep
    return header, data


CHANGES = (
    _change_header, _change_header, _change_meaning, _change_meaning, _change_meaning, _change_meaning,
    _change_tensor, _change_tensor, _add_tensors, _add_layers, _change_data, _nest,
)  # fmt: skip


def _changed(rng: random.Random, value: Any) -> Any:
    """The same value, but that one place in it is other, gone, moved or there twice."""
    try:
        places = list(_places(value))
    except RecursionError:
        places = []
    if len(places) < 2 or rng.random() < 0.02:
        return _odd(rng)
    holder, key = rng.choice(places[1:])
    action = rng.randrange(5)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] += rng.choice([-1, 1, holder[key]])
    elif action == 2 and isinstance(holder, dict):
        holder[rng.choice([f"{key}x", "", "__metadata__", "name"])] = holder.pop(key)
    elif action == 3:
        holder[key] = json.loads(json.dumps(rng.choice(places[1:])[0]))
    else:
        holder[key] = _odd(rng)
    return value


def _places(value: Any, holder: Any = None, key: Any = None) -> Any:
    yield holder, key
    for k, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(part, value, k)


def _odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))  # it may be changed in its new place


def _how_many(rng: random.Random) -> int:
    """A few, seldom so many that they could take long."""
    return rng.choice([300, 900, 5000]) if rng.random() < 0.05 else rng.randint(1, 4)


def _odd_text(rng: random.Random) -> str:
    return rng.choice([str(_odd(rng)), "{", "nul", '{"a":1,"a":2}', '"\\ud800"', " " * 1000])


def _text_changed(rng: random.Random, text: bytes) -> bytes:
    """Bytes overwritten, put in, taken out or repeated."""
    at, length = rng.randrange(len(text) + 1), rng.choice([1, 1, 2, 8, 100])
    new = bytes(rng.choice(b'{}[]":,0123456789eE+-. \\\x00\xff\xc3') for _ in range(length))
    return text[:at] + rng.choice([new, b"", text[at : at + length] * 2]) + text[at + rng.choice([0, length]) :]


if __name__ == "__main__":
    print(json.dumps(load_all(int(sys.argv[1]), int(sys.argv[2]))))
