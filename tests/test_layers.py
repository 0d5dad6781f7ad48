"""Each layer says what comes out, what it costs and what it stands for, and refuses what it cannot take."""

import json

import numpy as np
import pytest

from tinycnn import initializers
from tinycnn.errors import ShapeError, UsageError
from tinycnn.layers import Activation, Conv2D, Dense, Flatten, Input, Layer, MaxPooling2D
from tinycnn.models import Sequential
from tinycnn.random import generator

SIZES = [  # layer, shape in, shape out, multiply-adds, parameters
    (Conv2D(8, 3), (10, 12, 3), (8, 10, 8), 8 * 10 * 8 * 27, 27 * 8 + 8),
    (Conv2D(8, (3, 5), padding="same", use_bias=False), (10, 12, 3), (10, 12, 8), 120 * 8 * 45, 45 * 8),
    (Conv2D(2, 3, strides=(2, 3)), (10, 12, 1), (4, 4, 2), 16 * 2 * 9, 20),
    (Conv2D(2, 3, strides=2, padding="same"), (9, 10, 1), (5, 5, 2), 25 * 2 * 9, 20),
    (Conv2D(2, 3, dilation_rate=(1, 2)), (9, 10, 1), (7, 6, 2), 42 * 2 * 9, 20),
    (Conv2D(2, 3, padding=((1, 0), (2, 2))), (4, 4, 1), (3, 6, 2), 18 * 2 * 9, 20),
    (MaxPooling2D(), (9, 10, 4), (4, 5, 4), 0, 0),
    (MaxPooling2D(3, 1, "same"), (9, 10, 4), (9, 10, 4), 0, 0),
    (MaxPooling2D((2, 3), padding="same"), (9, 10, 4), (5, 4, 4), 0, 0),
    (Flatten(), (4, 5, 6), (120,), 0, 0),
    (Dense(7), (5,), (7,), 35, 42),
    (Dense(7, use_bias=False), (5,), (7,), 35, 35),
    (Activation("softmax"), (4, 5, 6), (4, 5, 6), 0, 0),
]


@pytest.mark.parametrize(("layer", "before", "after", "cost", "parameters"), SIZES, ids=lambda v: str(v))
def test_shapes_costs_and_parameters(layer, before, after, cost, parameters):
    assert layer.output_shape(before) == after
    assert layer.multiply_adds(before) == cost
    model = Sequential([Input(before), layer])
    assert model.count_params() == parameters
    assert model.predict(np.ones((2, *before))).shape == (2, *after)


@pytest.mark.parametrize("layer", [row[0] for row in SIZES], ids=str)
def test_a_configuration_makes_the_layer_again(layer):
    again = Layer.registry[type(layer).__name__](**json.loads(json.dumps(layer.get_config())))
    assert repr(again).replace("[", "(").replace("]", ")") == repr(layer).replace("[", "(").replace("]", ")")


@pytest.mark.parametrize("activation", [None, "linear", "relu", "sigmoid", "softmax"])
def test_an_activation_may_be_an_argument_or_a_layer(activation):
    x = generator(0, "activations").normal(size=(3, 4))
    inside = Sequential([Dense(5, activation, input_shape=(4,))])
    beside = Sequential([Dense(5, input_shape=(4,)), Activation(activation or "linear")])
    np.testing.assert_array_equal(inside.predict(x), beside.predict(x))


def test_flatten_is_channel_fastest():
    x = np.arange(24.0).reshape(1, 2, 3, 4)  # (N, H, W, C)
    np.testing.assert_array_equal(Sequential([Flatten()]).predict(x), [np.arange(24)])


@pytest.mark.parametrize(
    ("name", "limit", "variance"),
    [
        ("glorot_uniform", np.sqrt(6 / (1440 + 720)), 2 / (1440 + 720)),
        ("he_uniform", np.sqrt(6 / 1440), 2 / 1440),
        ("he_normal", 2 * np.sqrt(2 / 1440) / 0.8796, 2 / 1440),
        ("zeros", 0, 0),
    ],
)
def test_weights_start_within_their_range(name, limit, variance):
    """A window of 3x3 over 160 channels, 80 filters: 1440 inputs an output, 720 outputs an input."""
    weights = initializers.get(name)((3, 3, 160, 80), generator(0, "weights", 0))
    assert weights.dtype == np.float32
    assert 0.99 * limit <= np.abs(weights).max() <= limit * 1.0001
    assert abs(weights.mean()) <= 3 * np.sqrt(variance / weights.size)
    assert weights.var() == pytest.approx(variance, rel=0.02)


def test_biases_start_at_zero_unless_told():
    kernel, bias = Sequential([Dense(4, input_shape=(3,))]).get_weights()
    assert kernel.any()
    assert not bias.any()
    kernel, bias = Sequential([Dense(4, kernel_initializer="zeros", input_shape=(3,))]).get_weights()
    assert not kernel.any()


@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "he_normal"])
def test_a_bias_may_start_with_any_initializer(name):
    """Keras takes the length of a bias for both of its fans."""
    _, bias = Sequential([Dense(6, bias_initializer=name, input_shape=(3,))]).get_weights()
    assert 0 < np.abs(bias).max() <= 2 * np.sqrt(2 / 6) / 0.8796


BAD = [
    (ShapeError, "MaxPooling2D: window 3x3 is larger than its input 2x2",
     lambda: Sequential([MaxPooling2D(3, input_shape=(2, 2, 1))])),
    (ShapeError, "Conv2D: window 3x3 (dilated to 5x5) is larger than its input 4x9",
     lambda: Sequential([Conv2D(1, 3, dilation_rate=2, input_shape=(4, 9, 1))])),
    (ShapeError, "Dense: input 62x62x32 is not flat; add Flatten() before it",
     lambda: Sequential([Conv2D(32, 3, input_shape=(64, 64, 3)), Dense(1)])),
    (ShapeError, "Conv2D: input 5 is not an image", lambda: Sequential([Conv2D(1, 3, input_shape=(5,))])),
    (ShapeError, "Conv2D: kernel_size 0", lambda: Conv2D(1, 0)),
    (UsageError, "Conv2D: filters 0 is not a whole number of at least 1", lambda: Conv2D(0, 3)),
    (UsageError, "Dense: input_shape -1", lambda: Dense(1, input_shape=(-1,))),
    (UsageError, "activation 'tanhh' is unknown; use one of linear, relu", lambda: Dense(1, "tanhh")),
    (UsageError, "initializer 'ones ' is unknown; use one of", lambda: Dense(1, kernel_initializer="ones ")),
    (ShapeError, "Conv2D: padding 'full' is not 'valid', 'same'",
     lambda: Sequential([Conv2D(1, 3, padding="full", input_shape=(5, 5, 1))])),
    (ShapeError, "MaxPooling2D: strides (1, 2, 3)", lambda: MaxPooling2D(2, strides=(1, 2, 3))),
    (UsageError, "Dense: units 2.0 is not a whole number", lambda: Dense(2.0)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "call"), BAD, ids=[words for _, words, _ in BAD])
def test_errors_name_the_layer(error, words, call):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_may_be_numpys():
    assert Conv2D(np.int64(3), np.int64(3)).kernel_size == (3, 3)
    assert Dense(np.int32(3)).units == 3
