"""Finite differences for every weight: against the plain ones, two whole passes a weight, and against gradients."""

import numpy as np
import pytest
from networks import using

from tinycnn import differences as module
from tinycnn import fused, ops, trace
from tinycnn.differences import H, differences
from tinycnn.layers import Activation, Conv2D, Dense, Flatten, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.random import generator
from tinycnn.tensor import Tensor

NETWORKS = {
    "pools that overlap, same padding": [
        Conv2D(3, 3, padding="same", activation="relu", input_shape=(9, 8, 2)), MaxPooling2D(3, 2),
        Conv2D(4, (2, 3), strides=(1, 2), activation="relu"), Flatten(), Dense(5, activation="relu"),
    ],
    "two convolutions in a row, no bias": [
        Conv2D(3, 3, input_shape=(7, 7, 1), use_bias=False), Conv2D(2, 2, activation="sigmoid"), Activation("relu"),
        MaxPooling2D(2), Flatten(),
    ],
    "dilated": [Conv2D(2, 2, dilation_rate=2, activation="relu", input_shape=(6, 6, 3)), Flatten(), Dense(4)],
    "dense alone": [Dense(4, activation="relu", input_shape=(6,)), Dense(3, activation="sigmoid")],
}  # fmt: skip


def network(layers, outputs: int) -> Sequential:
    config = [*layers, Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax")]
    model = Sequential()
    for layer in config:
        model.add(
            type(layer)(**layer.get_config(), **({"input_shape": layer.input_shape} if layer.input_shape else {}))
        )
    for i, weight in enumerate(model.weights):  # biases too
        weight.data += generator(0, "differences", i).normal(0, 0.2, weight.shape).astype(np.float32)
    return model


def steps_of(model: Sequential):
    return [step for layer in model.layers for step in layer.named_steps()]


def loss_of(model: Sequential, x: np.ndarray, labels: np.ndarray) -> float:
    """In float64, from the probabilities."""
    value = Tensor(x.astype(np.float64))
    for step in steps_of(model):
        inputs = [None if w is None else Tensor(w.data.astype(np.float64)) for w in step.inputs]
        value = step.apply(value, inputs)
    p = value.data
    return float(-(labels * np.log(p) + (0 if p.shape[1] > 1 else (1 - labels) * np.log(1 - p))).sum())


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_is_what_two_whole_passes_give(name, outputs):
    with using("numpy"):
        model = network(NETWORKS[name], outputs)
        x = generator(0, "photo").random((1, *model.input_shape)).astype(np.float32)
        labels = np.array([[1.0]]) if outputs == 1 else np.eye(4)[[2]]
        found = differences(steps_of(model), x, labels)
        assert [d is not None for d in found] == [s.op in (ops.Conv2D, ops.Dense) for s in steps_of(model)]
        values = activations(model, x)
        for step, before, of_step in zip(steps_of(model), values, found, strict=False):
            if of_step is None:
                continue
            kernel, bias = step.inputs
            dense = of_step.kernel is None
            wanted = [by_hand(model, x, labels, kernel, at) for at in np.ndindex(kernel.shape)]
            got = (before.T * of_step.slope if dense else of_step.kernel).ravel()
            assert np.abs(got - wanted).max() <= 1e-6 * max(np.abs(wanted).max(), 1e-3)
            if bias is not None:
                wanted = [by_hand(model, x, labels, bias, at) for at in np.ndindex(bias.shape)]
                assert np.abs(of_step.bias - wanted).max() <= 1e-6 * max(np.abs(wanted).max(), 1e-3)


def activations(model, x):
    value = Tensor(x)
    for step in steps_of(model):
        yield value.data
        value = step(value)


def by_hand(model, x, labels, weight, at, h: float = 1e-4) -> float:
    """A central difference by two passes, in steps that float32 weights can hold."""
    kept = weight.data
    losses = []
    for change in (h, -h):
        weight.data = kept.astype(np.float64)
        weight.data[at] += change
        losses.append(loss_of(model, x, labels))
    weight.data = kept
    return (losses[0] - losses[1]) / (2 * h)


def test_where_all_would_take_too_long_evenly_spaced_ones_are_done(monkeypatch):
    with using("numpy"):
        model = network(NETWORKS["dilated"], 1)
        x = generator(0, "photo").random((1, 6, 6, 3)).astype(np.float32)
        everything = differences(steps_of(model), x, np.ones((1, 1)))[0].kernel
        monkeypatch.setattr(module, "MOST", 12000)
        some = differences(steps_of(model), x, np.ones((1, 1)))[0].kernel
        done = ~np.isnan(some)
        assert 0 < done.sum() < everything.size
        assert np.allclose(some[done], everything[done], rtol=1e-9)


@pytest.mark.parametrize("logit", [-40.0, 40.0])
def test_certain_predictions_have_exact_differences(logit):
    """Where the probability rounds to 0 or 1 the gradient is still p - label, to many digits."""
    with using("numpy"):
        model = network([Dense(2, input_shape=(3,))], 1)
        model.layers[-1].weights["bias"].data[...] = logit
        x = np.ones((1, 3), np.float32)
        found = differences(steps_of(model), x, np.array([[float(logit > 0)]]))
        with trace(whole=["SigmoidBinaryCrossEntropy"]) as t:
            value = Tensor(x)
            for step in steps_of(model)[:-1]:
                value = step(value)
            fused.SigmoidBinaryCrossEntropy.apply(value, np.array([[float(logit > 0)]], np.float32)).backward()
        g = t.op("dense_1").gradient_in[0, 0]
        z = float(t.op("dense_1").output[0, 0])
        exact = -np.exp(-abs(z)) if logit > 0 else np.exp(-abs(z))
        assert found[1].slope[0] == pytest.approx(exact, rel=1e-6)
        assert logit > 0 or g == pytest.approx(exact, rel=1e-6)
    assert H < 1e-5
