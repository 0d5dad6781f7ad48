"""A model as its user meets it: shapes, names, the summary, what `fit` does with data, and clear errors."""

import itertools

import numba
import numpy as np
import pytest
from networks import compiled, fish, photos, same_bits, tiny, using

from tinycnn import backend
from tinycnn.callbacks import Callback
from tinycnn.errors import DataError, ShapeError, TinycnnError, UsageError
from tinycnn.layers import Activation, Conv2D, Dense, Flatten, Input, MaxPooling2D
from tinycnn.losses import BinaryCrossentropy
from tinycnn.models import Sequential
from tinycnn.optimizers import SGD, Adam

SUMMARY = """\
Model: "sequential", input (None, 64, 64, 3)
Layer (type)                    Output shape        Parameters  Multiply-adds
-----------------------------------------------------------------------------
conv2d (Conv2D)                 (None, 62, 62, 32)         896      3,321,216
max_pooling2d (MaxPooling2D)    (None, 31, 31, 32)           0              0
conv2d_1 (Conv2D)               (None, 29, 29, 32)       9,248      7,750,656
max_pooling2d_1 (MaxPooling2D)  (None, 14, 14, 32)           0              0
flatten (Flatten)               (None, 6272)                 0              0
dense (Dense)                   (None, 128)            802,944        802,816
dense_1 (Dense)                 (None, 1)                  129            128
Parameters: 813,217 (3.10 MiB)
Multiply-adds for one sample: 11,874,816
"""


def test_the_fish_network(capsys):
    model = fish()
    model.summary()
    assert capsys.readouterr().out == SUMMARY
    assert model.count_params() == 813_217
    assert [w.shape for w in model.get_weights()] == [
        (3, 3, 3, 32), (32,), (3, 3, 32, 32), (32,), (6272, 128), (128,), (128, 1), (1,),
    ]  # fmt: skip
    assert model.output_shape == (1,)


@pytest.mark.parametrize("method", ["fit", "predict", "build", "Input"])
def test_shapes_may_come_with_the_first_data(method):
    x, y = photos(8)
    late = Sequential([Input((10, 10, 3))] if method == "Input" else [])
    for layer in (Conv2D(4, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dense(8, "relu"), Dense(1, "sigmoid")):
        late.add(layer)
    late.compile()
    if method == "fit":
        late.fit(x, y, verbose=0)
    elif method == "predict":
        late.predict(x)
    elif method == "build":
        late.build((10, 10, 3))
    early = compiled()
    if method == "fit":
        early.fit(x, y, verbose=0)
    assert late.built
    assert same_bits(late.get_weights(), early.get_weights())


def test_layers_are_named_after_their_kind_and_number():
    model = Sequential([Dense(1), Dense(1, name="mine"), Dense(1), Activation("relu"), Activation("relu")])
    assert [layer.name for layer in model.layers] == ["dense", "mine", "dense_2", "activation", "activation_1"]


def test_the_seed_alone_makes_the_weights():
    assert same_bits(tiny(seed=3).get_weights(), tiny(seed=3).get_weights())
    kernels = [seed_weights[0].tobytes() for seed_weights in (tiny(seed=s).get_weights() for s in range(5))]
    assert len(set(kernels)) == 5


def _fit(x=None, y=None, **options):
    photo, label = photos(6)
    return compiled().fit(photo if x is None else x, label if y is None else y, verbose=0, **options)


X, Y = photos(6)
BAD = [
    (UsageError, "add: two layers are called 'a'", lambda: Sequential([Flatten(name="a"), Dense(1, name="a")])),
    (UsageError, "add: Input must be the first layer", lambda: Sequential([Dense(1), Input((2,))])),
    (UsageError, "add: 5 is no layer", lambda: Sequential([5])),
    (UsageError, "summary: no shapes yet", lambda: Sequential([Dense(1)]).summary()),
    (UsageError, "optimizer 'adm' is unknown; use one of adam, sgd", lambda: tiny().compile("adm")),
    (UsageError, "loss 'mse' is unknown; use one of binary_crossentropy", lambda: tiny().compile("adam", "mse")),
    (UsageError, "metric 'auc' is unknown; use accuracy", lambda: tiny().compile(metrics=["auc"])),
    (UsageError, "the model is not compiled; call compile(", lambda: tiny().fit(X, Y)),
    (UsageError, "the model is not compiled; call compile(", lambda: tiny().train_on_batch(X, Y)),
    (UsageError, "epochs 0 must be at least 1", lambda: _fit(epochs=0)),
    (UsageError, "batch_size 0 is not at least 1", lambda: _fit(batch_size=0)),
    (UsageError, "validation_split 1.5 is not above 0 and below 1", lambda: _fit(validation_split=1.5)),
    (DataError, "leaves one part empty", lambda: _fit(validation_split=0.99)),
    (ShapeError, "x of shape (6, 8, 10, 3) does not fit the model; it must be (samples, 10, 10, 3)",
     lambda: _fit(X[:, :8])),
    (ShapeError, "x of shape (10, 10, 3) does not fit", lambda: tiny().predict(X[0])),
    (DataError, "labels from 0 to 2; they must lie between 0 and 1", lambda: _fit(y=2 * Y)),
    (DataError, "labels hold NaN or infinity", lambda: _fit(y=Y * np.nan)),
    (DataError, "labels of shape (6, 2) for a model with 1 outputs", lambda: _fit(y=np.eye(2)[Y.astype(int)])),
    (DataError, "labels are no numbers", lambda: _fit(y=np.array(list("abcdef")))),
    (DataError, "labels 0 to 3 for classes 0 to 2", lambda: compiled(3).fit(X, 3 * Y, verbose=0)),
    (DataError, "x has 6 samples, y has shape (5,); they must be as many", lambda: _fit(y=Y[:5])),
    (DataError, "x has 4 samples, y has shape (3,); they", lambda: _fit(y=Y[:5], validation_split=0.6)),
    (DataError, "x has 6 samples, y has shape (5,)", lambda: compiled().train_on_batch(X, Y[:5])),
    (DataError, "no labels: the data must give (x, y)", lambda: compiled().fit(X, verbose=0)),
    (DataError, "holds no samples", lambda: tiny().predict(X[:0])),
    (DataError, "x of type <U1 and shape (1, 1) is no batch", lambda: tiny().predict(np.array([["a"]]))),
    (DataError, "x of type float32 and shape () is no batch", lambda: tiny().predict_on_batch(np.float32(3))),
    (UsageError, "the model has no layers; add some", lambda: Sequential().predict(np.zeros((1, 2)))),
    (DataError, "data of type NoneType is no array", lambda: compiled().fit(None)),
    (ShapeError, "set_weights: 1 arrays for a model that has 6", lambda: tiny().set_weights([X])),
    (ShapeError, "set_weights: array 1 has shape (5,); it must be (4,)",
     lambda: tiny().set_weights([np.zeros((5,)) if i == 1 else w for i, w in enumerate(tiny().get_weights())])),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "call"), BAD, ids=[words for _, words, _ in BAD])
def test_errors_say_in_one_line_what_to_do(error, words, call):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


UNUSABLE = [
    ("evaluate before compile", lambda: tiny().evaluate(X, Y)),
    ("a list of losses", lambda: tiny().compile("adam", ["binary_crossentropy"])),
    ("an activation that is no name", lambda: Dense(1, activation=["relu"])),
    ("labels that are one number", lambda: compiled().train_on_batch(X, 1)),
    ("a verbosity that is no number", lambda: compiled().fit(X, Y, verbose="loud")),
    ("ragged lists", lambda: tiny().predict([[1], [2, 3]])),
    ("a sequence of no batches", lambda: compiled().evaluate(Recorded([]))),
    ("validation data of three parts", lambda: _fit(validation_data=(X, Y, Y))),
]


@pytest.mark.parametrize(("about", "call"), UNUSABLE, ids=[about for about, _ in UNUSABLE])
def test_errors_are_of_the_projects_own_family(about, call):
    with pytest.raises((TinycnnError, ShapeError)):
        call()


def test_a_layer_that_does_not_fit_leaves_the_model_as_it_was():
    model = tiny()
    before, expected = model.get_weights(), model.predict(X)
    with pytest.raises(ShapeError):
        model.add(Conv2D(3, 3))
    assert (len(model.layers), model.output_shape) == (5, (1,))
    assert same_bits(model.get_weights(), before)
    assert same_bits([model.predict(X)], [expected])
    model.add(Dense(2))
    assert model.predict(X).shape == (6, 2)


def test_a_first_layer_that_does_not_fit_leaves_no_input_shape():
    model = Sequential()
    with pytest.raises(ShapeError):
        model.add(Dense(1, input_shape=(2, 2, 1)))
    assert (model.layers, model.input_shape, model.built) == ([], None, False)


def test_data_that_does_not_fit_leaves_an_unbuilt_model_unbuilt():
    model = Sequential([Conv2D(2, 3), MaxPooling2D(3), Flatten(), Dense(1)])
    with pytest.raises(ShapeError, match="MaxPooling2D: window 3x3 is larger than its input 2x2"):
        model.predict(X[:, :4, :4])
    assert not model.built
    assert model.predict(X).shape == (6, 1)


def test_set_weights_takes_all_or_nothing():
    model = tiny()
    before = model.get_weights()
    with pytest.raises(ShapeError):
        model.set_weights([*(w + 1 for w in before[:-1]), np.zeros(9)])
    assert same_bits(model.get_weights(), before)


@pytest.mark.parametrize("how", ["another model", "another layer"])
def test_an_optimizers_state_must_fit_the_weights(how):
    """On numpy, which checks bounds; a compiled kernel would write beside its arrays."""
    with using("numpy"):
        first, second = compiled(), tiny(3)
        first.train_on_batch(X, Y)
        if how == "another model":
            second.compile(first.optimizer, "sparse_categorical_crossentropy")
            with pytest.raises((TinycnnError, ShapeError), match="optimizer"):
                second.train_on_batch(X, Y)
        else:
            first.add(Dense(1, "sigmoid"))
            with pytest.raises((TinycnnError, ShapeError), match="optimizer"):
                first.train_on_batch(X, Y)


class Recorded:
    """Numbered batches that remember which numbers were asked for."""

    def __init__(self, batches):
        self.batches, self.asked = batches, []

    def __len__(self):
        return len(self.batches)

    def batch(self, number):
        self.asked.append(number)
        return self.batches[number % len(self.batches)]


class ByIndex(Recorded):
    """The same data as a Keras Sequence: a length and an index."""

    batch = property()  # hides it: hasattr says no

    def __getitem__(self, index):
        self.asked.append(index)
        return self.batches[index]


def batches_of_two(count=5):
    return [(X[i % 5 : i % 5 + 2], Y[i % 5 : i % 5 + 2]) for i in range(count)]


def test_an_epoch_goes_on_where_the_one_before_stopped():
    data, validation = Recorded(batches_of_two(5)), Recorded(batches_of_two(3))
    compiled().fit(data, epochs=3, steps_per_epoch=3, validation_data=validation, validation_steps=2, verbose=0)
    assert data.asked == list(range(9))
    assert validation.asked == [0, 1] * 3
    data.asked.clear()
    compiled().fit(data, epochs=4, initial_epoch=2, verbose=0)
    assert data.asked == list(range(10, 20))


def test_all_forms_of_data_train_alike():
    batches = batches_of_two(5)
    forms = {
        "numbered": Recorded(batches),
        "sequence": ByIndex(batches),
        "generator": itertools.cycle(batches),
        "iterator": iter(batches * 2),
    }
    weights = {}
    for form, data in forms.items():
        model = compiled()
        model.fit(data, epochs=2, steps_per_epoch=5, verbose=0)
        weights[form] = model.get_weights()
    byhand = compiled()
    for x, y in batches * 2:
        byhand.train_on_batch(x, y)
    for trained in weights.values():
        assert same_bits(trained, byhand.get_weights())


def test_fit_on_arrays_takes_every_sample_once_a_pass():
    """Shuffled anew for each pass, by the seed alone; the last batch may be smaller."""
    seen = []

    class Watched(Sequential):
        def _train_on_batch(self, x, y):
            seen.append(y.astype(int).tolist())
            return np.zeros(1)

    def passes(**options):
        seen.clear()
        model = Watched([Dense(1, input_shape=(1,))], seed=options.pop("seed", 0))
        model.compile()
        model.fit(np.arange(7.0)[:, None], np.arange(7.0), batch_size=3, epochs=2, verbose=0, **options)
        assert [len(batch) for batch in seen] == [3, 3, 1] * 2
        return list(itertools.chain(*seen[:3])), list(itertools.chain(*seen[3:]))

    first, second = passes()
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert passes() == (first, second) != passes(seed=1)
    assert passes(shuffle=False) == (list(range(7)), list(range(7)))


def test_history_and_means_weigh_every_sample_alike():
    """Five samples in batches of 2, 2 and 1, with steps too small to change anything."""
    model = compiled()
    model.compile(SGD(1e-30), metrics=["accuracy"])
    history = model.fit(X[:5], Y[:5], batch_size=2, epochs=2, validation_data=(X, Y), verbose=0)
    loss, accuracy = model.evaluate(X[:5], Y[:5], batch_size=2)
    whole = model.test_on_batch(X[:5], Y[:5])
    assert history.epoch == [0, 1]
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert [loss, accuracy] == pytest.approx(whole, rel=1e-6)
    assert history.history["loss"] == pytest.approx([loss] * 2, rel=1e-6)
    assert history.history["accuracy"] == pytest.approx([accuracy] * 2)
    assert history.history["val_loss"] == pytest.approx([model.test_on_batch(X, Y)[0]] * 2, rel=1e-6)


def test_validation_split_takes_the_last_part():
    split, given = compiled(), compiled()
    one = split.fit(X, Y, epochs=2, validation_split=0.4, verbose=0).history
    other = given.fit(X[:3], Y[:3], epochs=2, validation_data=(X[3:], Y[3:]), verbose=0).history
    assert one == other
    assert same_bits(split.get_weights(), given.get_weights())


def test_what_evaluate_predict_and_the_batch_methods_return():
    with_metric, alone = compiled(), tiny()
    alone.compile()
    assert with_metric.metrics_names == ["loss", "accuracy"]
    values = with_metric.evaluate(X, Y)
    assert isinstance(values, list)
    assert with_metric.evaluate(X, Y, return_dict=True) == dict(zip(("loss", "accuracy"), values, strict=True))
    assert alone.evaluate(X, Y) == pytest.approx(values[0])
    assert isinstance(alone.evaluate(X, Y), float)
    assert alone.evaluate(X, Y, return_dict=True).keys() == {"loss"}
    assert with_metric.evaluate(Recorded(batches_of_two(5)), steps=2) == pytest.approx(
        with_metric.evaluate(X[[0, 1, 1, 2]], Y[[0, 1, 1, 2]])
    )
    predictions = alone.predict(X, batch_size=4)
    assert (predictions.shape, predictions.dtype) == ((6, 1), np.float32)
    np.testing.assert_allclose(predictions, alone.predict_on_batch(X), rtol=1e-6)
    np.testing.assert_array_equal(alone.predict((X * 255).astype(np.uint8)), alone.predict(np.uint8(X * 255) * 1.0))
    before = with_metric.test_on_batch(X, Y)
    assert with_metric.train_on_batch(X, Y) == before  # as they were before the step
    assert with_metric.test_on_batch(X, Y) != before


@pytest.mark.parametrize(
    ("verbose", "lines", "bar"), [(0, 0, False), (1, 2, True), (2, 2, False), ("auto", 2, False)]
)  # fmt: skip
def test_verbose(capsys, verbose, lines, bar):
    """A line per epoch; a bar is drawn only where it is asked for, since stderr is no terminal here."""
    compiled().fit(X, Y, epochs=2, validation_data=(X, Y), verbose=verbose)
    out, err = capsys.readouterr()
    assert out.count("\n") == len(out.splitlines()) == lines
    assert "\r" not in out
    assert ("step" in err) == bar
    if lines:
        assert out.startswith("Epoch 1/2 - ")
        assert all(f" {name}: " in out for name in ("loss", "accuracy", "val_loss", "val_accuracy"))


def test_the_bar_is_closed_when_training_fails(capsys):
    class Failing(Callback):
        def on_train_batch_end(self, batch, logs):
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        compiled().fit(X, Y, verbose=1, callbacks=[Failing()])
    assert "Epoch 2" not in capsys.readouterr().out


def test_callbacks_are_told_in_order_and_can_stop():
    told = []

    class Diary(Callback):
        def on_train_begin(self):
            told.append(("begin", self.params["epochs"], self.params["steps"]))

        def on_epoch_begin(self, epoch):
            told.append(("epoch", epoch))

        def on_train_batch_end(self, batch, logs):
            told.append(("batch", batch, logs["images"]))

        def on_epoch_end(self, epoch, logs):
            told.append(("end", epoch, *logs))
            self.model.stop_training = epoch == 1

        def on_train_end(self):
            told.append(("over",))

    history = compiled().fit(X, Y, batch_size=4, epochs=9, callbacks=[Diary()], verbose=0)
    one_epoch = [[("epoch", e), ("batch", 0, 4), ("batch", 1, 6), ("end", e, "loss", "accuracy")] for e in (0, 1)]
    assert told == [("begin", 9, 2), *one_epoch[0], *one_epoch[1], ("over",)]
    assert history.epoch == [0, 1]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("logits", [False, True])
def test_fused_steps_change_nothing_but_rounding(outputs, logits):
    x, y = photos(24, classes=max(outputs, 2))
    runs = []
    for fused in (True, False):
        model = compiled(outputs, fuse=fused)
        if logits:
            model.layers[-1] = plain = Dense(outputs)
            plain.name = "dense_1"
            model.build(model.input_shape)
            model.compile("adam", type(model.loss)(from_logits=True), ["accuracy"], fuse=fused)
        runs.append(([model.train_on_batch(x, y) for _ in range(5)], model.get_weights()))
    (fused_numbers, fused_weights), (plain_numbers, plain_weights) = runs
    np.testing.assert_allclose(fused_numbers, plain_numbers, rtol=1e-5)
    for one, other in zip(fused_weights, plain_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def _trained(threads=None, name="numba"):
    with using(name):
        if threads:
            backend.set_threads(threads)
        x, y = photos(40, 64)
        model = fish()
        model.compile(metrics=["accuracy"])
        history = model.fit(x, y, batch_size=16, epochs=1, validation_split=0.2, verbose=0)
        return [np.array(list(history.history.values())), *model.get_weights()]


@pytest.fixture
def _threads_as_before(monkeypatch):
    monkeypatch.setattr(backend, "_threads", None)
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


@pytest.mark.usefixtures("_threads_as_before")
def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads():
    runs = [_trained(threads) for threads in (1, 2, 2)]
    assert same_bits(runs[0], runs[1])
    assert same_bits(runs[1], runs[2])


def test_a_loss_may_be_an_object_and_a_metric_has_two_names():
    model = tiny()
    model.compile(Adam(0.01), BinaryCrossentropy(), metrics=["acc"])
    assert model.metrics_names == ["loss", "acc"]
    assert list(model.fit(X, Y, verbose=0).history) == ["loss", "acc"]


def test_a_model_learns():
    model = compiled()
    model.compile(Adam(0.01), metrics=["accuracy"])
    history = model.fit(*photos(256, key=1), epochs=12, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    assert model.evaluate(*photos(64, key=2))[1] > 0.75


def test_a_config_makes_the_model_again_with_new_weights():
    class Mine(Sequential):
        pass

    model = tiny(3)
    again = Mine.from_config(model.get_config())
    assert type(again) is Mine
    assert again.get_config() == model.get_config()
    assert again.output_shape == (3,)
    assert same_bits(again.get_weights(), model.get_weights())  # of the same seed
    without_shape = Sequential.from_config(Sequential([Dense(3)]).get_config())
    assert not without_shape.built
    foreign = model.get_config()
    foreign["layers"][0]["class"] = "Lambda"
    with pytest.raises(DataError, match="layer 'Lambda' is unknown"):
        Sequential.from_config(foreign)
