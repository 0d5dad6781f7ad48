"""Does work that is repeated from a record give what the layers would give, and only where nothing has changed?"""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from networks import compiled, photos, same_bits, using
from tinycnn.kernels import cpu_graph, recording, threads

from tinycnn import Tensor, backend, graph, ops
from tinycnn.errors import BackendError
from tinycnn.fused import SigmoidBinaryCrossEntropy, SoftmaxCategoricalCrossEntropy, Step
from tinycnn.layers import Activation, Conv2D, Dense, Flatten, Layer, MaxPooling2D
from tinycnn.losses import BinaryCrossentropy
from tinycnn.models import Sequential
from tinycnn.optimizers import SGD, Adam
from tinycnn.tensor import Op, is_grad_enabled

HEAD = Flatten, lambda: Dense(1, activation="sigmoid")
NETWORKS: dict[str, tuple[Callable[[], Layer], ...]] = {
    "pooled": (lambda: Conv2D(4, 3, activation="relu"), MaxPooling2D, *HEAD),
    "padded": (lambda: Conv2D(4, 3, padding="same", activation="relu"), MaxPooling2D, *HEAD),
    "strides": (lambda: Conv2D(4, 3, strides=2, padding="same"), lambda: Conv2D(3, 2, strides=2), *HEAD),
    "Winograd": (lambda: Conv2D(16, 3, activation="relu"), lambda: Conv2D(16, 3, padding="same"), *HEAD),
    "no biases": (lambda: Conv2D(4, 3, use_bias=False), Flatten, lambda: Dense(1, "sigmoid", use_bias=False)),
    "a pool of its own": (lambda: MaxPooling2D(3, strides=2, padding="same"), *HEAD),
    "pools that overlap": (lambda: Conv2D(4, 3, activation="relu"), lambda: MaxPooling2D(3, strides=1), *HEAD),
    "dense first": (Flatten, lambda: Dense(600, activation="relu"), lambda: Dense(1, activation="sigmoid")),
    "a part without a kernel": (lambda: Conv2D(4, 3), lambda: Activation("sigmoid"), MaxPooling2D, *HEAD),
    "softmax": (lambda: Conv2D(4, 3, activation="relu"), Flatten, lambda: Dense(2, activation="softmax")),
    "a linear end": (Flatten, lambda: Dense(1)),
    "dilated in the middle": (lambda: Conv2D(4, 3), lambda: Conv2D(4, 2, dilation_rate=2, activation="relu"), *HEAD),
}


class _Swish(Op):
    """x * sigmoid(x) by array expressions: what `backward` needs is new in each `forward`."""

    def forward(self, x):
        self.x, self.s = x, 1 / (1 + np.exp(-x))
        return x * self.s

    def backward(self, gy):
        return (gy * (self.s + self.x * self.s * (1 - self.s)),)


class _Thinned(Op):
    """The same numbers, where they lie; gradients only where they are above their mean."""

    def forward(self, x):
        self.mask = x > x.mean()
        return x

    def backward(self, gy):
        return (np.where(self.mask, gy, 0),)


class _Sampled(Op):
    """Nothing changes but the gradient, which cannot be written over."""

    def forward(self, x):
        return x + 1

    def backward(self, gy):
        return (np.broadcast_to(gy.mean(axis=0, keepdims=True), gy.shape),)


class _HardSigmoid(ops.Sigmoid):
    """Other numbers than the sigmoid's, not made by its kernel."""

    def forward(self, x):
        self.y = np.clip(0.2 * x + 0.5, 0.1, 0.9)
        return self.y


class _Doubled(ops.Flatten):
    """Not only another view."""

    def forward(self, x):
        return super().forward(x) * 2


@contextmanager
def foreign_layers() -> Iterator[None]:
    """A block that leaves no layers behind where layers of a file are looked up."""
    before = dict(Layer.registry)
    try:
        yield
    finally:
        Layer.registry.clear()
        Layer.registry.update(before)


with foreign_layers():

    class Foreign(Layer):
        """A layer of somebody else, of one op."""

        base_name = "foreign"

        def __init__(self, op: type[Op], **options) -> None:
            super().__init__(**options)
            self.op = op

        def output_shape(self, input_shape):
            return (prod(input_shape),) if issubclass(self.op, ops.Flatten) else input_shape

        def steps(self):
            return [Step(self.op)]


NETWORKS |= {
    "an op of somebody else": (lambda: Conv2D(4, 3), lambda: Foreign(_Swish), *HEAD),
    "an op of somebody else, first": (lambda: Foreign(_Swish), lambda: Conv2D(4, 3, activation="relu"), *HEAD),
    "an op that gives what it got": (lambda: Conv2D(4, 3), lambda: Foreign(_Thinned), *HEAD),
    "a gradient that cannot be written over": (Flatten, lambda: Dense(3), lambda: Foreign(_Sampled), lambda: Dense(1)),
    "an op made from ours": (lambda: Conv2D(4, 3), lambda: Foreign(_HardSigmoid), *HEAD),
    "ours made anew": (lambda: Conv2D(4, 3), lambda: Foreign(_Doubled), lambda: Dense(1)),
    "the batch as it is": (lambda: Foreign(_Thinned), lambda: Conv2D(4, 3, activation="relu"), *HEAD),
}


@pytest.fixture(autouse=True)
def numba() -> Iterator[None]:
    with using("numba"):
        yield


@pytest.fixture
def played(monkeypatch) -> list[int]:
    """A number for each list of calls that was made again."""
    found: list[int] = []
    repeat = cpu_graph.repeat

    def noted(calls, x) -> None:
        found.append(len(calls))
        repeat(calls, x)

    monkeypatch.setattr(cpu_graph, "repeat", noted)
    return found


def network(name: str) -> Sequential:
    model = Sequential([make() for make in NETWORKS[name]])
    loss = "sparse_categorical_crossentropy" if name == "softmax" else "binary_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def results(train: Callable[[], list[np.ndarray]], monkeypatch) -> list[list[np.ndarray]]:
    """What a program gives with replays and without."""
    with_replays = train()
    with monkeypatch.context() as without:
        without.setattr(cpu_graph.Graph, "MOST", 0)
        return [with_replays, train()]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_with_replays_gives_the_same_bits(name, monkeypatch, played):
    def train() -> list[np.ndarray]:
        model, found = network(name), []
        for step in range(9):
            x, y = photos(13 if step % 3 == 2 else 8, key=step)
            found += [np.array(model.train_on_batch(x, y)), np.array(model.test_on_batch(x, y)), model.predict(x)]
        return [*found, *model.get_weights()]

    replayed, plain = results(train, monkeypatch)
    assert same_bits(replayed, plain)
    assert len(played) == 3 * 5, "of 9 times three kinds of work: two sizes are looked at first, and then recorded"


def square(x: Tensor) -> Tensor:
    return x * x


def leaf(x: np.ndarray, buffer: bool = True) -> Tensor:
    w = Tensor(np.ones(x.shape, x.dtype), requires_grad=True)
    w.grad_buffer = np.zeros_like(x) if buffer else None
    return w


def used_twice(x: np.ndarray) -> np.ndarray:
    w = leaf(x)
    (w * Tensor(x) + w).sum().backward()
    return w.grad


def without_buffer(x: np.ndarray) -> np.ndarray:
    w = leaf(x, buffer=False)
    (w * Tensor(x)).sum().backward()
    return square(Tensor(w.grad)).data


def converted(x: np.ndarray) -> np.ndarray:
    return (Tensor(x) * np.ones(x.shape, np.float16)).data


def turned(x: np.ndarray) -> np.ndarray:
    return square(Tensor(np.swapaxes(x, 0, 1)).reshape(-1)).data


def gradient_of_labels(x: np.ndarray) -> np.ndarray:
    y = leaf(x)
    SigmoidBinaryCrossEntropy.apply(Tensor(x), y).backward()
    return y.grad


def gradient_of_one_hot_labels(x: np.ndarray) -> np.ndarray:
    y = leaf(x)
    SoftmaxCategoricalCrossEntropy.apply(Tensor(x), y).backward()
    return y.grad


UNREPEATABLE = [used_twice, without_buffer, converted, turned, gradient_of_labels, gradient_of_one_hot_labels]


@pytest.mark.parametrize("work", UNREPEATABLE, ids=lambda work: work.__name__)
def test_what_notes_do_not_tell_of_is_not_repeated(work):
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    made = cpu_graph.Graph(work, [x])
    assert not made.recorded
    np.testing.assert_array_equal(made.result, work(x))


def test_the_other_inputs_are_copied_and_the_result_is_the_works():
    made = cpu_graph.Graph(lambda x, y: (Tensor(x) * Tensor(y)).data, [np.ones(3, np.float32), np.arange(3.0)])
    assert made.recorded
    np.testing.assert_array_equal(made.result, [0, 1, 2])
    y = np.array([5.0, 6, 7])
    np.testing.assert_array_equal(made(np.full(3, 2, np.float32), y), [10, 12, 14])
    np.testing.assert_array_equal(y, [5, 6, 7])


def test_numbers_of_another_type_are_not_recorded():
    assert not cpu_graph.Graph(lambda x: square(Tensor(x)).data, [np.ones(3)]).recorded


def test_a_whole_step_is_repeated(played):
    model = compiled()
    calls = []
    with recording.recorded() as noted:
        for key in range(5):
            before = len(noted)
            model.train_on_batch(*photos(8, key=key))
            calls.append(len(noted) - before)
    assert len(played) == 3, "the first step looks, the second is noted, then all is repeated"
    assert calls[2:] == [0, 0, 0]


def test_what_a_replay_gave_stays_as_it_was(played):
    model = compiled()
    first, *others = [model.predict_on_batch(photos(8, key=key)[0]) for key in (1, 1, 2, 3, 1)]
    kept = first.copy()
    assert played
    for other in others[:-1]:
        assert not np.shares_memory(first, other)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(others[-1], first)


def test_a_model_called_by_itself_is_not_replayed(played):
    """Two predictions may be alive at once, each with a gradient of its own."""
    model = compiled()
    for key in range(4):
        model.train_on_batch(*photos(8, key=key))
    played.clear()
    one, other = (model(photos(8, key=key)[0]) for key in (1, 2))
    other.backward(np.ones_like(other.data))
    one.backward(np.ones_like(one.data))
    wanted = model.weights[0].grad.copy()
    again = model(photos(8, key=1)[0])
    again.backward(np.ones_like(again.data))
    np.testing.assert_array_equal(model.weights[0].grad, wanted)
    assert not played


def replace_weights(model: Sequential) -> None:
    for weight in model.weights:
        weight.data = weight.data * 0.5


def copied_weights(model: Sequential) -> None:
    model.set_weights([weight * 0.5 for weight in model.get_weights()])


def freeze(model: Sequential) -> None:
    model.weights[0].requires_grad = False


def another_optimizer(model: Sequential) -> None:
    model.compile(SGD(0.1, 0.9), "binary_crossentropy")


def another_rate(model: Sequential) -> None:
    model.optimizer.learning_rate = 0.1


def no_gradients(model: Sequential) -> None:
    for weight in model.weights:
        weight.grad = None


def freeze_without_gradient(model: Sequential) -> None:
    model.weights[0].requires_grad, model.weights[0].grad = False, None


def other_numbers(model: Sequential) -> None:
    for weight in model.weights:
        weight.data = weight.data.astype(np.float64)
    model.optimizer.learning_rate = 0.1


def other_metrics(model: Sequential) -> None:
    model.metrics = []


def another_activation(model: Sequential) -> None:
    model.layers[0].activation = "linear"


def no_fusion(model: Sequential) -> None:
    model.compile(model.optimizer, "binary_crossentropy", fuse=False)


def another_tensor(model: Sequential) -> None:
    layer = model.layers[0]
    layer.weights["bias"] = Tensor(layer.weights["bias"].data + 1, requires_grad=True)


def another_tensor_and_optimizer(model: Sequential) -> None:
    another_tensor(model)
    model.compile("adam", "binary_crossentropy")


def one_thread(model: Sequential) -> None:
    threads.set_threads(1)


CHANGES = [
    another_rate, no_gradients, freeze_without_gradient, other_numbers, other_metrics, replace_weights, copied_weights,
    freeze, another_optimizer, another_activation, no_fusion, another_tensor, another_tensor_and_optimizer, one_thread,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_model_is_seen(change, monkeypatch, played):
    monkeypatch.setattr(threads, "_limit", 2)

    def train() -> list[np.ndarray]:
        threads.set_threads(2)
        model, found = compiled(), []
        for key in range(10):
            if key == 5:
                change(model)
            if not cpu_graph.Graph.MOST:
                model._made_plan = None  # what is right knows nothing of the model as it was
            x, y = photos(8, key=key)
            found += [
                np.array(model.train_on_batch(x, y)),
                np.array(model.test_on_batch(x, y)),
                model.predict(x),
                *(w.grad.copy() for w in model.weights[1:]),
            ]
        return [*found, *model.get_weights()]

    replayed, plain = results(train, monkeypatch)
    assert same_bits(replayed, plain)
    assert played


def test_a_model_that_does_not_repeat(played):
    model, other = compiled(replay=False), compiled()
    for key in range(6):
        assert model.train_on_batch(*photos(8, key=key)) == other.train_on_batch(*photos(8, key=key))
        played.clear()
        model.train_on_batch(*photos(8, key=key))
        assert not played
        other.train_on_batch(*photos(8, key=key))
    assert played
    played.clear()
    other.replay = False
    other.train_on_batch(*photos(8))
    assert not played


class Clipped(Adam):
    """Somebody else's optimizer, which does more than its kernel."""

    def _step(self, backend, w, g, *state):
        w *= w.dtype.type(0.9)
        super()._step(backend, w, np.clip(g, -0.01, 0.01), *state)


def test_an_optimizer_of_somebody_else_takes_every_step_once(monkeypatch, played):
    def train() -> list[np.ndarray]:
        model = compiled()
        model.compile(Clipped(0.01), "binary_crossentropy", replay=bool(cpu_graph.Graph.MOST))
        for key in range(6):
            model.train_on_batch(*photos(8, key=key))
        return model.get_weights()

    assert same_bits(*results(train, monkeypatch))
    assert not played


def test_a_tensor_that_is_no_weight_is_watched(played):
    class Scaled(Foreign):
        def steps(self):
            return [Step(ops.Mul, (self.scale,))]

    with foreign_layers():
        layer = Scaled(ops.Mul)
    layer.scale = Tensor(np.float32(2))
    model = Sequential([Flatten(), layer, Dense(1)])
    x = photos(8)[0]
    for _ in range(4):
        before = model.predict_on_batch(x)
    assert played
    layer.scale.data = layer.scale.data * 0
    assert (before != 0).any()
    assert not model.predict_on_batch(x).any()


@pytest.mark.parametrize("layer", [Flatten, lambda: Activation("linear")], ids=["Flatten", "linear"])
def test_predictions_that_are_the_batch_itself(layer):
    model = Sequential([layer()])
    for key in range(5):
        x = photos(8, key=key)[0]
        np.testing.assert_array_equal(model.predict_on_batch(x).ravel(), x.ravel())


def test_a_model_that_changes_its_predictions_by_numpy(monkeypatch):
    monkeypatch.setattr(threads, "_limit", 2)  # so that there is something to compile ahead for

    class Rounded(Sequential):
        asked = 0

        def __call__(self, x):
            self.asked += 1
            return Tensor(np.round(super().__call__(x).data, 2))

    model, plain = Rounded([Flatten(), Dense(1)]), Sequential([Flatten(), Dense(1)])
    for key in range(5):
        x = photos(8, key=key)[0]
        np.testing.assert_array_equal(model.predict_on_batch(x), np.round(plain.predict_on_batch(x), 2))
    assert model.asked == 5


def test_data_is_never_written_to(played):
    """Not where an op gives its input back, or a view of it, which is written over when the op is called again."""

    class _Flipped(Op):
        """What it got, or a view of it, in turn."""

        count = 0

        def forward(self, x):
            _Flipped.count += 1
            return x if _Flipped.count % 2 else x[:, ::-1]

        def backward(self, gy):
            return (gy,)

    with foreign_layers():
        layer = Foreign(_Flipped)
    model = Sequential([layer, Flatten(), Dense(1)])
    model.compile("sgd", "binary_crossentropy")
    x, y = photos(16)
    kept = x.copy()
    for step in range(8):
        model.train_on_batch(x[step % 2 * 8 :][:8], y[:8])
    assert played
    np.testing.assert_array_equal(x, kept)


def test_models_go_when_nobody_uses_them(played):
    gone = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            model = compiled()
            for key in range(4):
                model.train_on_batch(*photos(8, key=key))
                model.predict_on_batch(photos(8, key=key)[0])
            gone.append(weakref.ref(model))
            del model
        assert played
        assert not any(model() is not None for model in gone)
    finally:
        gc.enable()


def test_a_copied_model_trains_by_itself(played):
    model = compiled()
    for key in range(5):
        model.train_on_batch(*photos(8, key=key))
    twin = copy.deepcopy(model)
    before = model.get_weights()
    for key in range(5, 9):
        twin.train_on_batch(*photos(8, key=key))
    assert same_bits(model.get_weights(), before)
    for key in range(5, 9):
        model.train_on_batch(*photos(8, key=key))
    assert same_bits(model.get_weights(), twin.get_weights())


def test_threads_that_ask_one_model_get_their_own_answers(played):
    model = compiled()
    batches = [photos(8, key=key)[0] for key in range(16)]
    wanted = [model.predict_on_batch(x) for x in batches]
    with ThreadPool(4) as pool:
        for _ in range(5):
            assert same_bits(pool.map(model.predict_on_batch, batches), wanted)
    assert len(played) > 20


def test_a_step_that_fails_leaves_the_next_one_right(monkeypatch, played):
    def train() -> list[np.ndarray]:
        model = compiled()
        for key in range(8):
            with monkeypatch.context() as broken:
                if key == 5:
                    broken.setattr(model.optimizer, "begin", None)
                try:
                    model.train_on_batch(*photos(8, key=key))
                except TypeError:
                    assert key == 5
        return model.get_weights()

    replayed, plain = results(train, monkeypatch)
    assert same_bits(replayed, plain)
    assert played


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda x: x[::-1], lambda x: np.broadcast_to(x[:1], x.shape)])
def test_batches_that_lie_in_memory_in_another_way_are_right(layout, monkeypatch, played):
    model = compiled()
    for key in range(4):
        model.predict_on_batch(photos(8, key=key)[0])
    x = layout(photos(8, key=9)[0])
    np.testing.assert_array_equal(model.predict_on_batch(x), model.predict_on_batch(np.array(x)))
    assert played


def test_no_batch_is_kept(played):
    model = compiled()
    gone = []
    for key in range(6):
        x, y = photos(8, key=key)
        gone.append(weakref.ref(x))
        model.train_on_batch(x, y)
    assert played
    del x
    gc.collect()
    assert not any(batch() is not None for batch in gone)


def test_few_recordings_are_kept(played):
    model = compiled()
    for size in (1, 2, 3, 4, 5, 6, 7):
        for key in range(3):
            model.predict_on_batch(photos(size, key=key)[0])
    graphs = model._graphs["predict"]
    assert len(graphs._graphs) == graph.KEPT
    played.clear()
    model.predict_on_batch(photos(7)[0])
    assert len(played) == 1, "those that were used last"


def test_large_batches_are_not_recorded(monkeypatch, played):
    model = compiled()
    monkeypatch.setattr(cpu_graph.Graph, "MOST", 8 * 300 - 1)
    for _ in range(5):
        model.predict_on_batch(photos(8)[0])
    assert not played


@pytest.mark.parametrize(("room", "fuse"), [(100, True), (10_000, True), (30_000, False)])
def test_what_would_keep_too_much_memory_is_not_recorded(room, fuse, monkeypatch, played):
    steps = [photos(8, key=key) for key in range(5)]

    def losses() -> list[float]:
        model = compiled(fuse=fuse)
        return [model.train_on_batch(x, y)[0] for x, y in steps]

    wanted = losses()
    assert played
    played.clear()
    monkeypatch.setattr(cpu_graph.Graph, "ROOM", room)
    assert losses() == wanted
    assert not played


def test_weights_take_no_room(monkeypatch, played):
    """They and Adam's averages are there with or without a graph."""
    monkeypatch.setattr(cpu_graph.Graph, "ROOM", 200_000)
    model = Sequential([Flatten(), Dense(400, activation="relu"), Dense(1)])
    model.compile("adam", "binary_crossentropy")
    x, y = photos(8)
    for _ in range(4):
        model.train_on_batch(x, y)
    assert model.get_weights()[0].nbytes > 200_000
    assert played


def test_what_takes_a_part_of_the_batch_is_not_replayed(planted, monkeypatch, played):
    """The part's place in another batch is not known."""

    monkeypatch.setattr(Layer, "registry", dict(Layer.registry))

    class FirstRows(Op):
        """The first rows of each picture."""

        by_kernels = ("forward",)

        def forward(self, x):
            y = np.empty_like(x, shape=(len(x), 5, *x.shape[2:]))
            recording.call(np.copyto, y, x[:, :5])
            return y

    class Crop(Layer):
        base_name = "crop"

        def output_shape(self, input_shape):
            return 5, *input_shape[1:]

        def steps(self):
            return [Step(FirstRows)]

    model = Sequential([Crop(), Flatten(), Dense(1)])
    answers = [model.predict_on_batch(photos(8, key=key)[0]) for key in (1, 2, 2, 1, 2, 1)]
    assert same_bits(answers[3:], [answers[0], answers[1], answers[0]])
    assert not played


def test_an_interrupted_backward_leaves_the_next_steps_right(monkeypatch, played):
    """A gradient's buffer that was lent when the interrupt came must not stay so."""
    home = backend.get("numba")
    real = home._kernels.dense_backward

    def train() -> list[np.ndarray]:
        model = compiled()
        for key in range(8):
            x, y = photos(8, key=key)
            if key == 1:
                with monkeypatch.context() as broken:
                    broken.setattr(home._kernels, "dense_backward", interrupted)
                    with pytest.raises(KeyboardInterrupt):
                        model.train_on_batch(x, y)
            model.train_on_batch(x, y)
        return model.get_weights()

    def interrupted(*arguments, **options):
        real(*arguments, **options)
        raise KeyboardInterrupt

    replayed, plain = results(train, monkeypatch)
    assert same_bits(replayed, plain)
    assert played


@pytest.mark.parametrize("key", ["float64", "another backend"])
def test_other_numbers_and_other_backends_are_not_replayed(key, played):
    model = compiled()
    batches = [photos(8, key=key)[0] for key in range(6)]
    wanted = [model.predict_on_batch(x) for x in batches]
    played.clear()
    if key == "float64":
        for x, answer in zip(batches, wanted, strict=True):
            np.testing.assert_allclose(model.predict_on_batch(Tensor(x.astype(np.float64))), answer, rtol=1e-4)
    else:
        with pytest.raises(BackendError):
            model.predict_on_batch(Tensor(batches[0], backend=backend.get("numpy")))
    assert not played


def test_a_tensor_like_a_batch_is_replayed(played):
    model = compiled()
    batches = [photos(8, key=key)[0] for key in range(6)]
    wanted = [model.predict_on_batch(x) for x in batches]
    played.clear()
    assert same_bits([model.predict_on_batch(Tensor(x)) for x in batches], wanted)
    assert len(played) == len(batches)


class _WhatIsRemembered(Op):
    """Adds 1 where ops are remembered, and 10 where a gradient is wanted of its second input."""

    def forward(self, x, w):
        return x + w * 0 + np.float32(is_grad_enabled() + 10 * self.needs[1])

    def backward(self, gy):
        return gy, np.zeros_like(gy[:1, :1]) if self.needs[1] else None


def test_an_op_that_asks_what_is_remembered_is_told_the_same_in_a_replay(played):
    class Asking(Foreign):
        def build(self, input_shape, rng):
            self.weights = {"w": Tensor(np.zeros((1, 1), np.float32), requires_grad=True)}

        def steps(self):
            return [Step(self.op, (self.weights["w"],))]

    with foreign_layers():
        layer = Asking(_WhatIsRemembered)
    model = Sequential([Flatten(), layer])
    x = np.zeros((2, 4), np.float32)
    assert [model.predict_on_batch(x).max() for _ in range(6)] == [10] * 6
    assert played
    layer.weights["w"].requires_grad = False
    assert [model.predict_on_batch(x).max() for _ in range(6)] == [0] * 6
    layer.weights["w"].requires_grad = True
    model.compile("sgd", BinaryCrossentropy(from_logits=True))
    first, *others = [model.test_on_batch(x, x)[0] for _ in range(4)]
    assert others == [first] * 3


def test_matrix_products_of_numpy_have_one_thread_in_a_replay_too(monkeypatch, played):
    real, inside = ops.Dense.forward, []

    def forward(self, *inputs, **options):
        inside.append(backend._entered)
        return real(self, *inputs, **options)

    monkeypatch.setattr(ops.Dense, "forward", forward)
    model = Sequential([Flatten(), Dense(1, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy", fuse=False)
    for key in range(6):
        x, y = photos(8, key=key)
        model.train_on_batch(x, y)
        model.test_on_batch(x, y)
        model.predict_on_batch(x)
    assert played
    assert len(inside) >= 18
    assert all(inside)
    assert not backend._entered


def test_another_layer_that_equals_the_one_before_is_seen(played):
    class Scaled(Foreign):
        def __eq__(self, other):
            return type(self) is type(other)

        __hash__ = None

        def build(self, input_shape, rng):
            self.weights = {"scale": Tensor(np.full(1, 2, np.float32), requires_grad=True)}

        def steps(self):
            return [Step(self.op, (self.weights["scale"],))]

    with foreign_layers():
        model = Sequential([Flatten(), Scaled(ops.Mul)])
    x = photos(8)[0]
    for _ in range(4):
        before = model.predict_on_batch(x)
    assert played
    model.layers[1] = copy.deepcopy(model.layers[1])
    model.layers[1].weights["scale"].data[:] = 0
    assert before.any()
    assert not model.predict_on_batch(x).any()


def test_layers_in_a_tuple_are_replayed_too(played):
    model = compiled()
    model.layers = tuple(model.layers)
    for key in range(6):
        model.predict_on_batch(photos(8, key=key)[0])
    assert len(played) >= 4


class _Home:
    """A backend whose graphs add what `tensor` holds when they are made, and that does something while one is used."""

    def __init__(self, recorded: bool = True) -> None:
        self.tensor, self.made, self.recorded = _Moving(), 0, recorded
        self.graph, self.threads, self.meanwhile = self, lambda: 1, lambda: None
        self.graphs = graph.Graphs(self, [self.tensor], None, False)

    MOST = 1000  # numbers of a batch

    def __call__(self, work, inputs):
        self.made += 1
        kept = self.tensor.array

        def repeat(x):
            self.meanwhile()
            return x + kept

        repeat.recorded, repeat.result = self.recorded, work(*inputs)
        return repeat

    def work(self, x):
        return x + self.tensor.array

    def results(self, times):
        return [self.graphs(self.work, np.zeros(1))[0] for _ in range(times)]


class _Moving:
    """A tensor of which something is done before it is looked at for the n-th time from now on."""

    grad_buffer, requires_grad, array = None, True, np.zeros(1)
    left, act = 0, None

    @property
    def data(self):
        self.left -= 1
        if self.left == 0:
            self.act()
        return self.array


@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_graph_never_stands_beside_places_read_after_it_was_recorded(look):
    """Another thread records, and the tensor moves once more, while this one looks where the tensors lie."""
    home = _Home()

    def another_thread():
        home.results(3)
        home.tensor.array = np.full(1, 3.0)

    home.results(3)
    home.tensor.array, home.tensor.left, home.tensor.act = np.full(1, 2.0), look, another_thread
    home.results(2)
    assert home.tensor.left <= 0
    assert home.results(4) == [3] * 4


def test_a_kind_of_batch_that_another_thread_is_busy_with_is_not_recorded_again():
    home, found = _Home(), []
    home.results(2)
    home.meanwhile = lambda: found.append(home.results(1))
    assert home.results(3) == [0] * 3
    assert found == [[0]] * 3
    assert home.made == 1


def test_what_cannot_be_recorded_is_not_tried_again():
    home = _Home(recorded=False)
    assert home.results(6) == [0] * 6
    assert home.made == 1


def test_a_change_of_the_loss_is_seen():
    def losses(changed: bool) -> list[float]:
        model = Sequential([Flatten(), Dense(1)])
        loss = BinaryCrossentropy(from_logits=True)
        model.compile("adam", loss)
        found = []
        for key in range(6):
            if key == 4:
                loss.from_logits = not changed
            found.append(model.test_on_batch(*photos(8, key=key))[0])
        return found

    assert losses(True)[:4] == losses(False)[:4]
    assert losses(True)[4:] != losses(False)[4:]
