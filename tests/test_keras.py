"""Keras is the other engine that must agree: same weights and batches, same outputs, losses, steps and early stops."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import fish, losses_of, photos, tiny, using

from tinycnn import callbacks, layers, losses, metrics, optimizers
from tinycnn.models import Sequential
from tinycnn.random import generator

os.environ.setdefault("KERAS_BACKEND", "torch")
torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # in Keras


@pytest.fixture(autouse=True, scope="module")
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one would wait for busy cores at every op
    yield
    torch.set_num_threads(before)


def twin(model):
    """The same model in Keras, made from our configuration: argument names and weight layouts must be the same."""
    made = [getattr(keras.layers, type(layer).__name__)(**layer.get_config()) for layer in model.layers]
    other = keras.Sequential([keras.Input(model.input_shape), *made])
    other.set_weights(model.get_weights())
    return other


def gap(losses, theirs):
    return np.abs(losses / theirs - 1)


@pytest.fixture(scope="module")
def fish_losses():
    theirs = twin(fish())
    theirs.compile("adam", "binary_crossentropy")
    return losses_of(theirs.train_on_batch, 5, 64)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_fish_network_learns_as_in_keras(fish_losses, backend):
    with using(backend):
        ours = fish()
        ours.compile("adam", "binary_crossentropy")
        assert gap(losses_of(ours.train_on_batch, 5, 64), fish_losses).max() < 1e-5


RECIPES = [
    ("numba", "Adam", {}, "binary_crossentropy", 1),
    ("numpy", "Adam", {}, "categorical_crossentropy", 3),
    ("numba", "Adam", {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}, "binary_crossentropy", 1),
    ("numba", "Adam", {}, "sparse_categorical_crossentropy", 3),
    ("numpy", "SGD", {}, "binary_crossentropy", 1),
    ("numba", "SGD", {"learning_rate": 0.1, "momentum": 0.9}, "binary_crossentropy", 1),
    ("numpy", "SGD", {"learning_rate": 0.05, "momentum": 0.8, "nesterov": True}, "categorical_crossentropy", 3),
]


@pytest.mark.parametrize(("backend", "optimizer", "arguments", "loss", "outputs"), RECIPES)
def test_optimizers_and_losses_make_the_steps_of_keras(backend, optimizer, arguments, loss, outputs):
    def label(y):
        return np.eye(outputs, dtype=np.float32)[y.astype(int)] if loss == "categorical_crossentropy" else y

    with using(backend):
        ours = tiny(outputs)
        theirs = twin(ours)
        ours.compile(getattr(optimizers, optimizer)(**arguments), loss)
        theirs.compile(getattr(keras.optimizers, optimizer)(**arguments), loss)
        far = gap(*(losses_of(m.train_on_batch, 20, 10, max(outputs, 2), label) for m in (ours, theirs)))
    assert far[:5].max() < 1e-5
    assert far.max() < 1e-3
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)


@pytest.mark.parametrize("make", [fish, tiny])
def test_weights_go_both_ways_without_transposes(make):
    ours = make()
    theirs = twin(make())
    x, _ = photos(8, ours.input_shape[0])
    rng = generator(0, "other weights")
    theirs.set_weights([w + rng.normal(0, 0.02, w.shape) for w in ours.get_weights()])
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    assert ours.count_params() == theirs.count_params()


def _layers():
    for padding in ("valid", "same"):
        for strides, dilation in (((1, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 1), (2, 3))):
            for window in ((3, 3), (2, 4)):
                geometry = {"strides": strides, "padding": padding, "dilation_rate": dilation}
                yield "Conv2D", {"filters": 3, "kernel_size": window, **geometry}
        for size, steps in ((2, None), (3, 1), ((3, 2), (2, 1)), (2, 3)):
            yield "MaxPooling2D", {"pool_size": size, "strides": steps, "padding": padding}
    yield "Conv2D", {"filters": 2, "kernel_size": 1, "activation": "sigmoid", "use_bias": False}
    yield "Flatten", {}
    for name in ("relu", "sigmoid", "softmax", "linear"):
        yield "Activation", {"activation": name}


@pytest.mark.parametrize(("kind", "arguments"), list(_layers()))
def test_layers_give_what_keras_gives(kind, arguments):
    ours = Sequential([getattr(layers, kind)(**arguments, input_shape=(9, 11, 2))])
    rng = generator(0, "layer test")
    ours.set_weights([rng.normal(size=w.shape) for w in ours.get_weights()])  # biases too
    theirs = keras.Sequential([keras.Input((9, 11, 2)), getattr(keras.layers, kind)(**arguments)])
    theirs.set_weights(ours.get_weights())
    x = rng.normal(size=(3, 9, 11, 2)).astype(np.float32)
    assert ours.output_shape == theirs.output_shape[1:]
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"])
@pytest.mark.parametrize("from_logits", [False, True])
def test_losses_of_probabilities_and_logits(name, classes, from_logits):
    rng = generator(0, "losses", classes)
    p = rng.random((40, classes)).astype(np.float32)
    p[:2], p[2:4, 0], p[4:6, 1] = np.eye(classes)[[0, 1]], 1, 0  # certain, rightly and wrongly
    p = 50 * p - 25 if from_logits else p
    y = rng.integers(0, classes, 40)
    y = y if name.startswith("Sparse") else np.eye(classes, dtype=np.float32)[y]
    theirs = float(getattr(keras.losses, name)(from_logits=from_logits)(y, p))
    assert getattr(losses, name)(from_logits)(y, p) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("theirs", "outputs", "one_hot"),
    [("BinaryAccuracy", 1, False), ("CategoricalAccuracy", 4, True), ("SparseCategoricalAccuracy", 4, False)],
)
def test_accuracy_is_that_of_keras(theirs, outputs, one_hot):
    rng = generator(0, "accuracy", outputs)
    p = rng.integers(0, 5, (60, outputs)).astype(np.float32) / 4  # ties, and probabilities of exactly 0.5
    y = rng.integers(0, max(outputs, 2), (60, 1))
    y = np.eye(outputs)[y[:, 0]] if one_hot else y
    metric = getattr(keras.metrics, theirs)()
    metric.update_state(y, p)
    assert metrics.accuracy(y, p) == pytest.approx(float(metric.result()), rel=1e-6)


class Scripted:
    """Stands for a model whose epochs give the numbers of a script; its weights are the number of the epoch."""

    def __init__(self):
        self.epoch, self.stop_training = 0, False

    def get_weights(self):
        return [self.epoch]

    def set_weights(self, weights):
        (self.epoch,) = weights


def played(callback, numbers):
    """(epochs that ran, stopped_epoch, epoch of the weights in the end)"""
    model = Scripted()
    if hasattr(callback, "set_model"):
        callback.set_model(model)
    else:
        callback.model = model
    callback.on_train_begin()
    for epoch, number in enumerate(numbers):
        model.epoch = epoch
        callback.on_epoch_end(epoch, {"watched": number})
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch, callback.stopped_epoch, model.epoch


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-3, 3).map(lambda n: n / 4), min_size=1, max_size=12),
    st.integers(0, 4),
    st.sampled_from([0, 0.25, 0.3, -0.25]),
    st.sampled_from(["min", "max"]),
    st.booleans(),
)
def test_early_stopping_stops_where_keras_does(numbers, patience, min_delta, mode, restore):
    arguments = {"monitor": "watched", "patience": patience, "min_delta": min_delta, "mode": mode}
    both = (module.EarlyStopping(**arguments, restore_best_weights=restore) for module in (callbacks, keras.callbacks))
    ours, theirs = (played(callback, numbers) for callback in both)
    assert ours == theirs


@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "he_normal"])
def test_weights_start_with_the_spread_of_keras(name):
    shape = (3, 3, 40, 60)
    theirs = np.asarray(type(keras.initializers.get(name))(seed=0)(shape).cpu()).ravel()
    ours = layers.initializers.get(name)(shape, generator(0, "weights")).ravel()
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    for share in (0.5, 0.9, 0.99):  # not the largest: Keras's truncation lets a few through
        assert np.quantile(np.abs(ours), share) == pytest.approx(np.quantile(np.abs(theirs), share), rel=0.02)
