"""A file from a stranger is refused for the first thing in it that is wrong, whatever its hash says."""

import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from checks import ROOT
from safetensors.numpy import load, save

from tinycnn import tensorfile
from tinycnn.errors import DataError, DivergenceError, ModelFileError, UsageError
from tinycnn.files import csv_name, csv_path, open_regular, show
from tinycnn.layers import Dense, Flatten
from tinycnn.models import Sequential, load_model

SOUND = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
    "__metadata__": {"format": "x", tensorfile.HASH_FIELD: tensorfile.NO_HASH},
}
DATA = np.arange(6, dtype="<f4").tobytes() + np.int64(-7).tobytes()


def made(path, header=SOUND, data=DATA, length=None):
    """A file with this header, as JSON or as text, and the hash of what it holds."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header, separators=(",", ":"))
    text = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(tensorfile.seal(struct.pack("<Q", len(text) if length is None else length) + text + data))
    return path


def test_a_sound_file(tmp_path):
    tensors, metadata = tensorfile.read(made(tmp_path / "f"))
    assert metadata == {"format": "x"}
    assert np.array_equal(tensors["a"], np.arange(6).reshape(2, 3))
    assert (tensors["b"].dtype, tensors["b"].shape, int(tensors["b"])) == (np.int64, (), -7)
    assert all(array.flags.writeable and array.flags.aligned for array in tensors.values())


@pytest.mark.parametrize("dtype", sorted(tensorfile.TYPES))
def test_number_types_are_those_of_the_library(dtype, tmp_path):
    wanted = {"x": np.arange(-3, 4).astype(tensorfile.TYPES[dtype]), "nothing": np.zeros((0, 3), np.float32)}
    content = save(wanted, {tensorfile.HASH_FIELD: tensorfile.NO_HASH})
    (tmp_path / "f").write_bytes(tensorfile.seal(content))
    tensors, _ = tensorfile.read(tmp_path / "f")
    assert {k: (a.dtype, a.shape, a.tobytes()) for k, a in tensors.items()} == {
        k: (a.dtype, a.shape, a.tobytes()) for k, a in load((tmp_path / "f").read_bytes()).items()
    }


def header(**changes):
    """The sound header with other fields for tensor a."""
    return SOUND | {"a": SOUND["a"] | changes}


TEXT = json.dumps(SOUND, separators=(",", ":"))
WRONG = [
    ("a tensor's bytes begin in another's", SOUND | {"b": {**SOUND["b"], "data_offsets": [20, 28]}}, "overlap"),
    ("two tensors in one place", SOUND | {"c": SOUND["b"]}, "overlap"),
    ("a hole", SOUND | {"b": {**SOUND["b"], "dtype": "F32", "data_offsets": [28, 32]}}, "leave bytes out"),
    ("bytes that belong to nothing", header(shape=[2, 2], data_offsets=[0, 16]), "leave bytes out"),
    ("more bytes than there are", SOUND | {"b": {**SOUND["b"], "shape": [2], "data_offsets": [24, 40]}}, "cannot be"),
    ("a name twice", TEXT.replace('"b":', '"a":'), "twice"),
    ("a field twice", TEXT.replace('"shape":[2,3]', '"shape":[2,3],"shape":[2,3]'), "twice"),
    ("a field too many", header(more=1), "no more"),
    ("a field too few", SOUND | {"a": {"dtype": "F32", "shape": [2, 3]}}, "no more"),
    ("a tensor that is a list", SOUND | {"a": []}, "no more"),
    ("a number type that is unknown", header(dtype="BF16"), "number type"),
    ("a number type that is none", header(dtype=["F32"]), "number type"),
    ("a negative size", header(shape=[-2, -3]), "cannot be"),
    ("a size that is true", header(shape=[True, 6]), "cannot be"),
    ("a size that is a fraction", header(shape=[2.0, 3]), "cannot be"),
    ("a size beyond reason", header(shape=[2**63, 3]), "cannot be"),
    ("sizes whose product wraps around to the right one", header(shape=[2**32, 2**32, 6]), "cannot be"),
    ("many axes", header(shape=[1] * 40 + [6]), "cannot be"),
    ("another shape", header(shape=[2, 2]), "does not fit"),
    ("another number type", header(dtype="F64"), "does not fit"),
    ("places in the wrong order", header(data_offsets=[24, 0]), "does not fit"),
    ("three places", header(data_offsets=[0, 24, 24]), "cannot be"),
    ("metadata that is no text", SOUND | {"__metadata__": {"a": 1}}, "metadata"),
    ("metadata that is a list", SOUND | {"__metadata__": []}, "metadata"),
    ("no hash", SOUND | {"__metadata__": {}}, "no hash"),
    ("a hash of nothing", SOUND | {"__metadata__": {tensorfile.HASH_FIELD: ""}}, "no hash"),
    ("a hash of another file", SOUND | {"__metadata__": {tensorfile.HASH_FIELD: "1" * 64}}, "SHA-256"),
    ("a hash in capitals", SOUND | {"__metadata__": {tensorfile.HASH_FIELD: "A" * 64}}, "no hash"),
    ("a space before the header", " " + TEXT, "does not begin"),
    ("a list", "[]", "does not begin"),
    ("no JSON", '{"a":}', "no JSON"),
    ("no UTF-8", TEXT.replace('"b"', '"\udcff"').encode(errors="surrogateescape"), "no JSON"),
    ("JSON without end", '{"a":' + "[" * 100_000, "no JSON"),
    ("a number of a million digits", '{"a":' + "9" * 10**6, "no JSON"),
    ("NaN", '{"a":NaN}', "NaN"),
]


@pytest.mark.parametrize(("about", "content", "words"), WRONG, ids=[about for about, *_ in WRONG])
def test_what_is_wrong_is_said(tmp_path, about, content, words):
    with pytest.raises(DataError, match=words):
        tensorfile.read(made(tmp_path / "f", content))


@pytest.mark.parametrize("data", [DATA + b"x", DATA + bytes(1000), DATA[:-1], b""])
def test_data_that_ends_elsewhere(tmp_path, data):
    with pytest.raises(DataError, match=r"do not end where the file does|cannot be"):
        tensorfile.read(made(tmp_path / "f", data=data))


@pytest.mark.parametrize("length", [0, 1, len(TEXT) + 10**4, 2**20 + 1, 2**63, 2**64 - 1])
def test_a_header_of_another_length(tmp_path, length):
    with pytest.raises(DataError, match="header"):
        tensorfile.read(made(tmp_path / "f", length=length))


def test_the_largest_header(tmp_path):
    sound = SOUND | {"__metadata__": SOUND["__metadata__"] | {"x": ""}}
    missing = tensorfile.MAX_HEADER - len(json.dumps(sound, separators=(",", ":")))
    sound["__metadata__"]["x"] = "x" * missing
    tensorfile.read(made(tmp_path / "f", sound))
    sound["__metadata__"]["x"] += "x"
    with pytest.raises(DataError, match="header"):
        tensorfile.read(made(tmp_path / "f", sound))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_numbers_that_are_none(tmp_path, dtype, number, place):
    array = np.zeros(1000, tensorfile.TYPES[dtype])
    array[place] = number
    content = {"a": {"dtype": dtype, "shape": [1000], "data_offsets": [0, array.nbytes]}}
    path = made(tmp_path / "f", content | {"__metadata__": SOUND["__metadata__"]}, array.tobytes())
    with pytest.raises(DataError, match="a holds NaN or infinity"):
        tensorfile.read(path)


def test_a_model_that_could_not_be_read_is_not_written(tmp_path):
    model = Sequential([Dense(2, input_shape=(3,))])
    model.set_weights([np.full((3, 2), np.nan), np.zeros(2)])
    with pytest.raises(DivergenceError, match=r"dense\.kernel holds NaN"):
        model.save(tmp_path / "m")
    model = Sequential([Flatten(input_shape=(3,)) for _ in range(1001)])
    with pytest.raises(UsageError, match="at most 1000"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_as_many_layers_as_a_file_may_hold(tmp_path):
    Sequential([Flatten(input_shape=(3,)) for _ in range(1000)]).save(tmp_path / "m")
    assert len(load_model(tmp_path / "m").layers) == 1000
    content = (tmp_path / "m").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.loads(content[8:end])
    description = json.loads(text["__metadata__"]["architecture"])
    description["layers"] += [{"class": "Flatten", "name": "one more", "config": {}}]
    text["__metadata__"] |= {"architecture": json.dumps(description), tensorfile.HASH_FIELD: tensorfile.NO_HASH}
    with pytest.raises(ModelFileError, match="1001 layers"):
        load_model(made(tmp_path / "m", text, b""))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(DataError, match="not a regular file"):
            tensorfile.read(path)
        with pytest.raises(ModelFileError, match="not a file"):
            load_model(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = made(tmp_path / "f")
    real = tensorfile._read

    def shrinking(file, size):
        content = real(file, size)
        if size > 8:  # the header is read, the tensors are not
            os.truncate(path, path.stat().st_size - 5)
        return content

    monkeypatch.setattr(tensorfile, "_read", shrinking)
    with pytest.raises(DataError, match="cut short"):
        tensorfile.read(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the memory held")
def test_memory_for_reading_is_that_of_the_weights(tmp_path):
    """Not twice: nothing is drawn to be overwritten, nothing is copied."""
    path = tmp_path / "m"
    Sequential([Flatten(input_shape=(60, 60, 3)), Dense(3500)]).save(path)
    script = (
        "import sys, tinycnn; tinycnn.use_backend('numpy')\n"
        "from benchmarks.findings import status_bytes\nfrom tinycnn.models import load_model\n"
        "before = status_bytes('VmHWM'); model = load_model(sys.argv[1]); print(status_bytes('VmHWM') - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert path.stat().st_size > 150e6
    assert int(done.stdout) < path.stat().st_size + 20e6


def test_a_sparse_file_of_a_terabyte_is_refused_at_once(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{")
    os.truncate(path, 2**40)
    began = time.process_time()
    with pytest.raises(ModelFileError):
        load_model(path)
    assert time.process_time() - began < 0.1


def test_messages_are_one_short_line_whatever_the_file_says(tmp_path):
    Sequential([Flatten(input_shape=(3,)), Dense(1)]).save(tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.loads(content[8:end])
    for name in ("\x1b[31m\u202e\n" * 9, "x" * 10**5):
        changed = dict(text, **{name: text["dense.bias"]})
        del changed["dense.bias"]
        changed["__metadata__"] = text["__metadata__"] | {tensorfile.HASH_FIELD: tensorfile.NO_HASH}
        with pytest.raises(ModelFileError, match="do not fit the architecture") as caught:
            load_model(made(tmp_path / "m", changed, content[end:]))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


# Names and files from outside


def test_files_too_large_are_not_opened(tmp_path):
    (tmp_path / "f").write_bytes(bytes(10))
    os.close(open_regular(tmp_path / "f", most=10))
    with pytest.raises(DataError, match="10 bytes; at most 9"):
        open_regular(tmp_path / "f", most=9)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "'=1", "'"])
def test_no_name_in_csv_is_a_formula(name):
    assert csv_name(name)[0] == "'"
    assert csv_name(name)[1:] == name
    assert csv_path(name)[0] not in "=+-@\t\r\uff1d"
    assert os.path.normpath(csv_path(name)) == os.path.normpath(name)


@pytest.mark.parametrize("name", ["", "a=b", "/=1", "./-x", "clownfish", "ñ 魚"])
def test_other_names_stay(name):
    assert csv_name(name) == csv_path(name) == name


def test_shown_names_print():
    odd = "a\n\r\t\x00\x1b[31m\x7f\x9b31m\u202e\u2066\u200b\u2028\ufeff\udcff\U000e0001 ñ🐠"
    assert show(odd).isprintable()
    assert show(odd).endswith(" ñ🐠")
    assert show(b"fish\xff") == r"fish\udcff"
