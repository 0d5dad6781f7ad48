"""A file gives back the same model to the bit; a damaged one is refused in one line; a failed write spoils nothing."""

import contextlib
import copy
import json
import os
import stat
import string
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import compiled, fish, photos, same_bits, tiny, using
from safetensors import safe_open
from safetensors.numpy import save, save_file

from tinycnn import backend, storage, tensorfile
from tinycnn.callbacks import Callback
from tinycnn.errors import DataError, ModelFileError, UsageError
from tinycnn.layers import Activation, Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.losses import BinaryCrossentropy
from tinycnn.models import Sequential, load_checkpoint, load_model
from tinycnn.optimizers import SGD, Adam
from tinycnn.position import Position
from tinycnn.preprocessing.image import Preprocessing

NAMES = ["pez payaso", 'ángel "é" 🐠', "", "a/b\\c\n", "0"]
X, Y = photos(20)


def _everything():
    """Each kind of layer, no argument at its default."""
    geometry = {"strides": (2, 1), "padding": ((1, 0), (0, 2)), "dilation_rate": (1, 2)}
    return Sequential(
        [
            Conv2D(3, (3, 2), **geometry, kernel_initializer="he_normal", input_shape=(12, 11, 2), name="first"),
            Activation("relu"),
            MaxPooling2D((2, 3), strides=1, padding="same"),
            Flatten(),
            Dense(5, "softmax", use_bias=False, kernel_initializer="he_uniform"),
        ],
        name="señor",
        seed=4,
    )


@pytest.mark.parametrize("make", [fish, tiny, _everything])
def test_a_model_comes_back_to_the_bit(tmp_path, make):
    model = make()
    model.class_names, model.threshold = NAMES, 0.1
    model.preprocessing = Preprocessing((9, 7), "grayscale", "bilinear", True, 1 / 255, False)
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert same_bits(again.get_weights(), model.get_weights())
    assert again.get_config() == json.loads(json.dumps(model.get_config()))
    for name in ("name", "class_names", "threshold", "preprocessing", "input_shape", "output_shape"):
        assert getattr(again, name) == getattr(model, name)
    x = np.resize(photos(3, model.input_shape[0])[0], (3, *model.input_shape))
    assert same_bits([again.predict(x)], [model.predict(x)])


def test_a_model_without_extras_comes_back_without(tmp_path):
    tiny().save(str(tmp_path / "m.safetensors"))
    again = load_model(str(tmp_path / "m.safetensors"))
    assert (again.class_names, again.preprocessing, again.threshold) == (None, None, 0.5)
    again.compile()
    again.fit(X, Y, verbose=0)  # and it can be trained


class SaveAfter(Callback):
    """Write a checkpoint after one epoch, as training does after each."""

    def __init__(self, epochs, path):
        self.epochs, self.path = epochs, path

    def on_epoch_end(self, epoch, logs):
        if epoch + 1 == self.epochs:
            self.model.save_checkpoint(self.path)


SETTINGS = {
    "adam": (Adam(0.003, 0.8, 0.95, 1e-5), "binary_crossentropy", {}),
    "momentum": (SGD(0.05, 0.9), "binary_crossentropy", {}),
    "nesterov": (SGD(0.05, 0.9, True), "binary_crossentropy", {}),
    "plain steps": (SGD(0.05), "binary_crossentropy", {}),
    "a loss of logits": (Adam(), BinaryCrossentropy(from_logits=True), {}),
    "no fusing": (Adam(0.01), "binary_crossentropy", {"fuse": False}),
}


@pytest.mark.parametrize("about", SETTINGS)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, about):
    optimizer, loss, options = SETTINGS[about]
    data = {"x": X, "y": Y, "batch_size": 8, "steps_per_epoch": 2, "verbose": 0}  # 2 of 3 steps: an epoch ends mid-pass
    model = tiny(seed=5)
    model.compile(optimizer, loss, ["accuracy"], **options)
    path = tmp_path / "c.safetensors"
    whole = model.fit(**data, epochs=4, callbacks=[SaveAfter(2, path)])
    resumed, position = load_checkpoint(path)
    assert position == Position(2, history={name: values[:2] for name, values in whole.history.items()})
    rest = resumed.fit(**data, epochs=4, initial_epoch=position.epoch)
    assert rest.epoch == [2, 3]
    assert rest.history == {name: values[2:] for name, values in whole.history.items()}
    assert same_bits(resumed.get_weights(), model.get_weights())


class SaveInside(Callback):
    """Write a checkpoint after some step of an epoch, or of its validation."""

    def __init__(self, path, epoch, step, event):
        self.path, self.at = path, {"epoch": epoch, "step": step}
        setattr(self, event, self.look)

    def on_epoch_begin(self, epoch):
        self.epoch = epoch

    def look(self, step, *_):
        if {"epoch": self.epoch, "step": step} == self.at:
            self.model.save_checkpoint(self.path, notes={"who": "a test"})


PLACES = {
    "the first step": (0, 0, "on_train_batch_end"),
    "inside an epoch": (1, 1, "on_train_batch_end"),
    "the last step": (2, 2, "on_train_batch_end"),
    "inside a validation": (1, 1, "on_test_batch_end"),
}


@pytest.mark.parametrize("about", PLACES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_goes_on_from_any_step_to_the_same_bits_and_history(tmp_path, about, threads, monkeypatch):
    monkeypatch.setattr(backend, "_threads", None)
    data = {"x": X, "y": Y, "batch_size": 8, "validation_data": (X, Y), "verbose": 0, "epochs": 3}
    with using("numba"):
        model, path = compiled(seed=5), tmp_path / "c.safetensors"
        whole = model.fit(**data, callbacks=[SaveInside(path, *PLACES[about])])
        backend.set_threads(threads)
        resumed, position = load_checkpoint(path)
        rest = resumed.fit(**data, start=position)
    assert position.notes == {"who": "a test"}
    assert (rest.history, rest.epoch) == (whole.history, whole.epoch)
    assert same_bits(resumed.get_weights(), model.get_weights())
    states = (dict(each.optimizer.named_arrays()) for each in (resumed, model))
    assert all(np.array_equal(*pair) for pair in zip(*(state.values() for state in states), strict=True))


def test_a_checkpoint_before_the_first_step(tmp_path):
    model = compiled()
    model.save_checkpoint(tmp_path / "c.safetensors", Position(0))
    again, position = load_checkpoint(tmp_path / "c.safetensors")
    again.fit(X, Y, verbose=0)
    model.fit(X, Y, verbose=0)
    assert position == Position()
    assert same_bits(again.get_weights(), model.get_weights())


@pytest.mark.parametrize("read", [load_model, load_checkpoint])
def test_what_is_no_model_file_is_refused(tmp_path, read):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not a model\n" * 9)
    save_file({"a": np.ones(3)}, tmp_path / "foreign")
    if read is load_model:
        compiled().save_checkpoint(tmp_path / "other", Position(1))
    else:
        compiled().save(tmp_path / "other")
    for name, words in {
        "absent": "no such file", "folder": "not a file", "empty": "not a", "text": "not a", "foreign": "not a",
        "other": "not a",
    }.items():  # fmt: skip
        with pytest.raises(ModelFileError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {words}")
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model file, its tensors and its metadata."""
    path = tmp_path_factory.mktemp("storage") / "m.safetensors"
    model = tiny(3)
    model.class_names = NAMES[:3]
    model.preprocessing = Preprocessing((10, 10))
    model.save(path)
    with safe_open(path, framework="numpy") as file:
        return path, {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_a_truncated_file_is_refused(saved, tmp_path):
    content = saved[0].read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in (1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="not a tinycnn-model file"):
            load_model(path)


def _changed(tmp_path, saved, tensors=lambda t: t, **metadata):
    _, arrays, known = saved
    path = tmp_path / "changed.safetensors"
    return resealed(path, tensors(dict(arrays)), {**known, **metadata})


def resealed(path, tensors, metadata):
    """A file with the hash of what it holds, as a stranger can write it who knows how."""
    content = save(tensors, {**metadata, tensorfile.HASH_FIELD: tensorfile.NO_HASH})
    path.write_bytes(tensorfile.seal(content))
    return path


def _swapped(t):
    return {**t, "dense.kernel": t["dense.bias"], "dense.bias": t["dense.kernel"]}


DAMAGED = [
    ("another format", {"format": "else"}, "not a tinycnn-model file"),
    ("another version", {"version": "2"}, "a tinycnn-model file of version 2; this tinycnn reads version 1"),
    ("swapped weights", {"tensors": _swapped}, "damaged: weights do not fit the architecture: dense.bias, dense.kern"),
    ("a transposed kernel", {"tensors": lambda t: {**t, "dense.kernel": t["dense.kernel"].T.copy()}}, "dense.kernel"),
    ("a missing tensor", {"tensors": lambda t: {k: t[k] for k in t if k != "dense.bias"}}, "dense.bias"),
    ("one tensor too many", {"tensors": lambda t: {**t, "x.bias": t["dense.bias"]}}, "architecture: x.bias"),
    ("another number type", {"tensors": lambda t: {k: a.astype(np.float16) for k, a in t.items()}}, "do not fit"),
    ("no JSON", {"architecture": "{"}, "damaged"),
    ("an unknown layer", {"architecture": '{"name": "", "input_shape": [3], "layers": [{"class": "os"}]}'}, "'os'"),
    ("class names that are numbers", {"class_names": "[1, 2, 3]"}, "class names"),
    ("class names that are one word", {"class_names": '"abc"'}, "class names"),
    ("class names that are a table", {"class_names": '{"a": 1, "b": 2, "c": 3}'}, "class names"),
    ("a threshold that is no number", {"threshold": '"high"'}, "damaged"),
    ("a threshold that is NaN", {"threshold": "NaN"}, "NaN"),
    ("preprocessing of nothing", {"preprocessing": "{}"}, "preprocessing"),
    ("JSON without end", {"architecture": "[" * 100_000}, "damaged"),
]


@pytest.mark.parametrize(("about", "change", "words"), DAMAGED, ids=[about for about, *_ in DAMAGED])
def test_damage_is_named(saved, tmp_path, about, change, words):
    path = _changed(tmp_path, saved, **change)
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_a_small_file_cannot_ask_for_much_memory(saved, tmp_path):
    """Its architecture says 40 GiB of weights, its tensors are small: compare before making anything."""
    architecture = json.loads(saved[2]["architecture"])
    architecture["layers"][3]["config"]["units"] = 10**8
    path = _changed(tmp_path, saved, architecture=json.dumps(architecture))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))"
    script = f"{limit}\nimport sys, tinycnn.models\ntinycnn.models.load_model(sys.argv[1])"
    surroundings = {**os.environ, "TINYCNN_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, env=surroundings)
    assert "ModelFileError" in done.stderr


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 30), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-1, 4), max_size=3), st.just({}), st.sampled_from(["relu", "Dense", "same", "zeros", "é"]),
)  # fmt: skip


def _places(value, path=()):
    """Every way down into nested JSON."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from _places(part, (*path, key))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_metadata_loads_or_is_refused(saved, tmp_path_factory, data):
    field = data.draw(st.sampled_from(["architecture", "class_names", "preprocessing", "threshold"]))
    value = copy.deepcopy(json.loads(saved[2][field]))
    holder = {"whole": value}
    whole = holder
    *way, last = ("whole", *data.draw(st.sampled_from(list(_places(value)))))
    for key in way:
        holder = holder[key]
    if holder is not whole and data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(ODD)
    path = _changed(tmp_path_factory.getbasetemp(), saved, **{field: json.dumps(whole["whole"])})
    with contextlib.suppress(ModelFileError):
        load_model(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(string.printable))
def test_one_wrong_letter_in_the_architecture(saved, tmp_path_factory, where, letter):
    text = saved[2]["architecture"]
    where %= len(text)
    if letter.isdigit() and (text[where].isdigit() or text[where - 1].isdigit()):
        return  # larger numbers are another test's
    path = _changed(tmp_path_factory.getbasetemp(), saved, architecture=text[:where] + letter + text[where + 1 :])
    with contextlib.suppress(ModelFileError):
        load_model(path)


POSITION = {"epoch": 1, "step": 0, "samples": 0, "sums": [], "history": {}, "notes": {}}
TRAINING = [
    {"optimizer": "nope"}, {"optimizer_config": {"learning_rate": -1}}, {"optimizer_config": {"nope": 1}},
    {"iterations": "x"}, {"iterations": 0}, {"iterations": -1}, {"position": None},
    *({"position": {**POSITION, **change}} for change in (
        {"epoch": -1}, {"epoch": 1.5}, {"step": "1"}, {"samples": None}, {"sums": [1.0]}, {"step": 2}, {"notes": []},
        {"history": {"loss": [1.0], "accuracy": []}}, {"history": {"loss": [1.0, 2.0]}}, {"history": {"loss": ["x"]}},
    )),
    {"loss": "nope"}, {"loss": []}, {"metrics": ["nope"]}, {"metrics": 3}, {"seed": "x"},
]  # fmt: skip


@pytest.mark.parametrize("change", TRAINING, ids=str)
def test_a_checkpoint_with_damaged_settings_is_refused(tmp_path, change):
    path = tmp_path / "c.safetensors"
    model = compiled()
    model.train_on_batch(X, Y)
    model.save_checkpoint(path, Position(1))
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    resealed(path, tensors, {**metadata, "training": json.dumps(json.loads(metadata["training"]) | change)})
    with pytest.raises(ModelFileError, match="damaged"):
        load_checkpoint(path)


class MyAdam(Adam):
    """What a user may write; its name means nothing to who loads the file."""


@pytest.mark.parametrize("about", ["not compiled", "an optimizer of one's own"])
def test_a_checkpoint_that_could_not_be_loaded_is_not_written(tmp_path, about):
    model = tiny()
    if about != "not compiled":
        model.compile(MyAdam())
    with pytest.raises((UsageError, DataError)):
        model.save_checkpoint(tmp_path / "c.safetensors", Position(1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["h5", "keras", "pkl", "hdf5", "H5"])
def test_names_of_other_formats_are_refused(tmp_path, suffix):
    with pytest.raises(UsageError, match=r"tinycnn writes safetensors; call it m\.safetensors"):
        tiny().save(tmp_path / f"m.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_model_without_weights_is_not_written(tmp_path):
    with pytest.raises(UsageError, match="the model has no weights yet"):
        Sequential([Dense(1)]).save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, error, there):
    path = tmp_path / "f.txt"
    if there:
        path.write_text("old")

    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        storage.write_atomically(path, "new")
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == ([("f.txt", "old")] if there else [])


def test_where_a_file_cannot_be_written(tmp_path):
    for path in (tmp_path / "absent" / "f", tmp_path):
        with pytest.raises(DataError, match="cannot be written"):
            storage.write_atomically(path, b"new")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        storage.write_atomically(tmp_path / "f", "é\n")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode
    assert (tmp_path / "f").read_bytes() == "é\n".encode()
