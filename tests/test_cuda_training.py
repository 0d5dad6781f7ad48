"""Does training on the cupy backend do what training on the CPU does? With the CUDA kernels, on a GPU that is none."""

import os
import re
import threading

import numpy as np
import pytest
from gpu_stand_in import DeviceArray, HostGpu, importable
from host_cupy import cache_of_kernels  # noqa: F401
from networks import compiled, fish, photos, same_bits, tiny, using

from tinycnn import Tensor, backend, trace
from tinycnn.callbacks import Callback
from tinycnn.errors import BackendError, UsageError
from tinycnn.models import Sequential, load_checkpoint, load_model
from tinycnn.optimizers import SGD, Adam
from tinycnn.position import Position
from tinycnn.preprocessing.image import ImageDataGenerator

NEAR = 2e-4  # of the largest: a few steps let roundings grow


@pytest.fixture
def gpu(cache):
    """The cupy backend in use, on the stand-in."""
    home = HostGpu(cache)
    with using("numba"), importable(home), using("cupy"):
        yield home


def train(name: str, steps: int = 6, model: Sequential | None = None, **options) -> list[np.ndarray]:
    """Losses and weights of some steps; every third batch is smaller."""
    with using(name):
        model = tiny()
        model.compile(options.pop("optimizer", Adam)(), "binary_crossentropy", metrics=["accuracy"], **options)
        found = [model.train_on_batch(*photos(5 if key % 3 == 2 else 8, key=key)) for key in range(steps)]
        return [np.array(found), *model.get_weights()]


def assert_near(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one - other).max() <= NEAR * np.abs(other).max()


def test_the_fish_network_trains_as_on_the_cpu(gpu):
    """One step at once, one recorded, and two replayed."""
    results = []
    for name in ("cupy", "numba"):
        with using(name):
            model = fish()
            model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
            losses = [model.train_on_batch(*photos(3, 64, key=key)) for key in range(4)]
            results.append([np.array(losses), *model.get_weights()])
    assert_near(*results)
    assert [graph.launches for graph in gpu.graphs] == [2]
    assert gpu.graphs[0].kernels <= 15


@pytest.mark.parametrize("optimizer", [Adam, lambda: SGD(0.05, 0.9)], ids=["Adam", "SGD"])
def test_a_graph_gives_the_bits_of_single_launches(gpu, optimizer):
    graphed = train("cupy", 9, optimizer=optimizer)
    assert [graph.launches for graph in gpu.graphs] == [4, 1]
    assert same_bits(graphed, train("cupy", 9, optimizer=optimizer, replay=False))
    assert len(gpu.graphs) == 2
    assert_near(graphed, train("numba", 9, optimizer=optimizer))


def test_a_step_can_be_watched_between_graphs(gpu):
    """Its ops one by one, with arrays that a host can read; then the graph goes on."""
    results = []
    for name in ("cupy", "numba"):
        with using(name):
            model = compiled()
            losses = [model.train_on_batch(*photos(5, key=key)) for key in range(3)]
            with trace() as seen:
                losses.append(model.train_on_batch(*photos(5, key=3)))
            losses += [model.train_on_batch(*photos(5, key=key)) for key in (4, 5)]
            results.append([np.array(losses), *model.get_weights()])
            assert type(seen["conv2d.relu"].output) is type(seen.update("dense.kernel").m_hat) is np.ndarray
            assert seen["conv2d.conv2d"].gradient_in.shape == (5, 8, 8, 4)
    assert_near(*results)
    assert [graph.launches for graph in gpu.graphs] == [3]


def test_a_graph_follows_the_learning_rate_and_new_weights(gpu):
    def work(**options):
        with using("cupy"):
            model, optimizer = tiny(), Adam()
            model.compile(optimizer, "binary_crossentropy", **options)
            losses = []
            for key in range(8):
                optimizer.learning_rate = 0.01 / (1 + key)
                if key == 4:
                    model.set_weights([w * 0.5 for w in model.get_weights()])
                losses.append(model.train_on_batch(*photos(8, key=key)))
            return [np.array(losses), *model.get_weights()]

    assert same_bits(work(), work(replay=False))
    assert [graph.launches for graph in gpu.graphs] == [6]


def freeze(model):
    model.weights[0].requires_grad = False


def another_optimizer(model):
    model.compile(SGD(0.1), "binary_crossentropy", replay=model.replay)


def another_loss(model):
    model.compile(model.optimizer, "binary_crossentropy", replay=model.replay, fuse=False)


def other_places(model):
    for weight in model.weights:
        weight.data = weight.data * 1


def stronger_momentum(model):
    model.optimizer.beta_1 = 0.5


@pytest.mark.parametrize("change", [freeze, another_optimizer, another_loss, other_places, stronger_momentum])
def test_a_change_of_the_model_is_seen(gpu, change):
    def work(replay):
        model = tiny()
        model.compile("adam", "binary_crossentropy", replay=replay)
        losses = []
        for key in range(7):
            if key == 4:
                change(model)
            losses.append(model.train_on_batch(*photos(8, key=key))[0] if key < 4 or change is not another_loss else 0)
        return [np.array(losses), *model.get_weights()]

    assert same_bits(work(True), work(False))
    assert gpu.graphs


def test_a_step_that_fails_is_not_counted(gpu, monkeypatch):
    model = compiled()
    for key in range(4):
        with monkeypatch.context() as broken:
            if key == 2:
                broken.setattr(model.optimizer, "move", None)
                with pytest.raises(TypeError):
                    model.train_on_batch(*photos(7, key=key))
        model.train_on_batch(*photos(8, key=key))
    assert model.optimizer.iterations == 4


def test_fit_evaluate_and_predict_agree_with_the_cpu(gpu):
    def work(name):
        with using(name):
            x, y = photos(21)
            flow = ImageDataGenerator(rescale=1 / 255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
            model = compiled()
            history = model.fit(flow.flow((x * 200).astype(np.uint8), y, batch_size=8), epochs=3, verbose=0)
            return [np.array(list(history.history.values())), np.array(model.evaluate(x, y, verbose=0)),
                    model.predict(x, verbose=0)]  # fmt: skip

    assert_near(work("cupy"), work("numba"))


def test_several_classes_agree_with_the_cpu(gpu):
    def work(name):
        with using(name):
            model = compiled(outputs=3, replay=False)
            x, y = photos(12, classes=3)
            return [np.array([model.train_on_batch(x, y) for _ in range(3)]), *model.get_weights()]

    assert_near(work("cupy"), work("numba"))


@pytest.mark.parametrize("options", [{"fuse": False}, {}], ids=["plain ops", "many samples, TF32"])
def test_what_cannot_be_recorded_is_launched_step_by_step(gpu, monkeypatch, options):
    """CuPy refuses a library's matrix products in a graph."""
    kernels = backend.get("cupy")._kernels
    monkeypatch.setattr(kernels, "TF32", True)
    monkeypatch.setattr(kernels, "LIBRARY", 8)

    def work(replay):
        model = tiny()
        model.compile("adam", "binary_crossentropy", replay=replay, **options)
        losses = [model.train_on_batch(*photos(8, key=key)) for key in range(5)]
        return [np.array(losses), *model.get_weights()]

    assert same_bits(work(True), work(False))
    assert not any(graph.launches for graph in gpu.graphs)


def test_what_callbacks_are_told_may_be_old_but_the_end_of_an_epoch_is_exact(gpu, monkeypatch):
    """And batches are made in the thread that trains: the GPU works meanwhile."""
    monkeypatch.setattr("tinycnn.position.PATIENCE", 1e9)
    made, told = set(), []

    class Told(Callback):
        def on_train_batch_end(self, batch, logs=None):
            told.append(logs["loss"])

    def work(replay):
        flow = ImageDataGenerator(rescale=1 / 255).flow((photos(40)[0] * 200).astype(np.uint8), photos(40)[1], 8)
        batch = flow.batch
        monkeypatch.setattr(flow, "batch", lambda number: (made.add(threading.get_ident()), batch(number))[1])
        model = compiled(replay=replay)
        told.clear()
        return model.fit(flow, epochs=2, verbose=0, callbacks=[Told()]).history

    assert work(True) == work(False)
    assert len(set(told[:5])) == 1
    assert made == {threading.get_ident()}


def test_a_folders_images_are_uploaded_once(gpu, small_photos):
    flow = ImageDataGenerator(rescale=1 / 255, horizontal_flip=True).flow_from_directory(
        small_photos / "train", target_size=(10, 10), class_mode="binary", batch_size=8
    )
    model = compiled()
    gpu.uploads.clear()
    model.fit(flow, epochs=3, verbose=0)
    images, rows, maps, labels = 24 * 10 * 10 * 3, 24 * 8, 24 * 6 * 8, 8 * 4
    assert sorted(gpu.uploads) == sorted([images, *[rows, maps, labels, labels, labels] * 3])


def test_images_that_find_no_room_are_uploaded_batch_by_batch(gpu, small_photos):
    gpu.free = 1000
    flow = ImageDataGenerator(rescale=1 / 255, horizontal_flip=True).flow_from_directory(
        small_photos / "train", target_size=(10, 10), class_mode="binary", batch_size=8
    )
    model = compiled()
    model.fit(flow, epochs=1, verbose=0)
    assert gpu.uploads.count(8 * 10 * 10 * 3) == 3


def test_only_numbers_come_back_and_not_in_every_step(gpu, monkeypatch):
    downloads, download = [], gpu.asnumpy
    monkeypatch.setattr(gpu, "asnumpy", lambda data: (downloads.append(data.shape), download(data))[1])
    monkeypatch.setattr("tinycnn.position.PATIENCE", 1e9)
    model = compiled()
    x, y = photos(64)
    history = model.fit(x, y, batch_size=2, epochs=1, verbose=0)
    assert downloads == [(1, 2), (31, 2)], "loss and accuracy of the first step, and of the others in the end"
    assert 0 < history.history["loss"][0] < 2


def test_predictions_and_figures_come_from_graphs_too(gpu):
    model = compiled()
    x, y = photos(40)
    asked = [(model.test_on_batch(x[:8], y[:8]), model.predict(x, batch_size=8, verbose=0)) for _ in range(4)]
    assert [graph.launches for graph in gpu.graphs] == [18, 2]  # of predicting, 5 batches a time, and of testing
    for figures, predictions in asked[1:]:
        assert figures == asked[0][0]
        np.testing.assert_array_equal(predictions, asked[0][1])
    with using("numba"):
        assert_near([asked[0][1]], [compiled().predict(x, verbose=0)])


def test_a_model_goes_from_one_backend_to_the_other(gpu, tmp_path):
    model = compiled()
    x, y = photos(8)
    for _ in range(4):
        model.train_on_batch(x, y)
    model.save(tmp_path / "model.safetensors")
    model.save_checkpoint(tmp_path / "checkpoint.safetensors", Position(1))
    wanted = model.predict(x, verbose=0)
    for name in ("numpy", "cupy"):
        with using(name):
            assert_near([load_model(tmp_path / "model.safetensors").predict(x, verbose=0)], [wanted])
    model.train_on_batch(x, y)
    resumed, position = load_checkpoint(tmp_path / "checkpoint.safetensors")
    resumed.train_on_batch(x, y)
    assert position.epoch == 1
    assert same_bits(resumed.get_weights(), model.get_weights())


def test_expressions_of_tensors_work(gpu):
    x, w = Tensor(np.ones((2, 3), np.float32)), Tensor(np.full((3, 2), 2.0, np.float32), requires_grad=True)
    y = ((x @ w + 1) ** 2 / 2 - x.sum()).mean()
    y.backward()
    assert isinstance(w.grad, DeviceArray)
    np.testing.assert_allclose(w.grad.view(np.ndarray), 3.5)
    assert y.item() == 18.5
    assert "18.5" in repr(y)


def test_numbers_that_a_gpu_does_not_know_are_refused(gpu):
    with pytest.raises(BackendError, match="complex64; use backend 'numpy'"):
        Tensor(np.ones(2, np.complex64)) + 1


def test_tf32_is_asked_for_before_the_gpu_is_used(cache, monkeypatch):
    monkeypatch.delenv("CUPY_TF32", raising=False)
    monkeypatch.setattr(backend, "_tf32", False)
    with importable(HostGpu(cache)):
        assert backend.get("cupy").device == "a stand-in"
        assert "CUPY_TF32" not in os.environ
        with pytest.raises(UsageError, match="before the cupy backend is first used"):
            backend.allow_tf32()
    backend.allow_tf32()
    with importable(HostGpu(cache)):
        backend.get("cupy")
        assert os.environ.pop("CUPY_TF32") == "1"


# Where there is no GPU

MISSING = {
    "no CuPy": (None, "CuPy is not installed; `pip install cupy-cuda13x`"),
    "no driver": ({"driver": 0}, "no NVIDIA driver; install one"),
    "no device": ({"devices": 0}, "the driver finds no GPU"),
}


@pytest.mark.parametrize(("state", "message"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_said_in_one_line(state, message, tmp_path):
    home = None if state is None else HostGpu(tmp_path)
    for name, value in (state or {}).items():
        setattr(home, name, value)
    with importable(home):
        with pytest.raises(BackendError, match=f"^backend 'cupy': {re.escape(message)}[^\n]*or use 'numba'"):
            backend.get("cupy")
        assert backend.get("auto").name == "numba"
    assert "cupy" not in backend._loaded


def test_auto_takes_a_gpu_that_answers(gpu):
    assert backend.get("auto").name == "cupy"
