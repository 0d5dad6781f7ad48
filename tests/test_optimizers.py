"""Optimizers by their formulas in float64, and the state that lets a run go on."""

import numpy as np
import pytest
from networks import same_bits, using

from tinycnn.errors import DataError, UsageError
from tinycnn.optimizers import SGD, Adam, get
from tinycnn.random import generator
from tinycnn.tensor import Tensor

SHAPES = [(3, 4), (4,), (2, 2, 3, 5)]


def _weights():
    rng = generator(0, "optimizer weights")
    return [Tensor(rng.normal(size=s).astype(np.float32), requires_grad=True) for s in SHAPES]


def _gradients(step):
    """Sizes differ from weight to weight; from step to step, float32 would forget the small beside the large."""
    sizes, rng = generator(0, "gradient sizes"), generator(0, "optimizer gradients", step)
    return [(rng.normal(size=s) * 10.0 ** sizes.integers(-8, 2, s)).astype(np.float32) for s in SHAPES]


def _run(optimizer, weights, steps):
    for step in steps:
        for weight, gradient in zip(weights, _gradients(step), strict=True):
            weight.grad = gradient
        optimizer.update(weights)
    return [w.numpy().copy() for w in weights]


def _adam(w, gradients, rate, b1, b2, eps):
    """Kingma and Ba, algorithm 1 in the order of section 2, line by line."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    return w


def _sgd(w, gradients, rate, momentum, nesterov):
    """Sutskever et al. (2013), equations 1 to 4, in the variables of Keras."""
    velocity = 0.0
    for g in gradients:
        velocity = momentum * velocity - rate * g
        w = w + (momentum * velocity - rate * g if nesterov else velocity)
    return w


RECIPES = [
    (Adam, (), _adam, (0.001, 0.9, 0.999, 1e-7)),
    (Adam, (0.02, 0.5, 0.75, 1e-3), _adam, (0.02, 0.5, 0.75, 1e-3)),
    (Adam, (0.02, 0.0, 0.0, 1e-3), _adam, (0.02, 0.0, 0.0, 1e-3)),
    (SGD, (), _sgd, (0.01, 0.0, False)),
    (SGD, (0.1, 0.9), _sgd, (0.1, 0.9, False)),
    (SGD, (0.1, 0.9, True), _sgd, (0.1, 0.9, True)),
]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("kind", "arguments", "formula", "numbers"), RECIPES)
def test_steps_follow_the_formula(backend, kind, arguments, formula, numbers):
    with using(backend):
        weights = _weights()
        before = [w.numpy().astype(np.float64) for w in weights]
        after = _run(kind(*arguments), weights, range(6))
    for i, (start, end) in enumerate(zip(before, after, strict=True)):
        wanted = formula(start, [_gradients(step)[i].astype(np.float64) for step in range(6)], *numbers)
        np.testing.assert_allclose(end, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "arguments"), [row[:2] for row in RECIPES])
def test_a_restored_state_goes_on_with_the_same_bits(kind, arguments):
    whole, first, second = kind(*arguments), kind(*arguments), kind(*arguments)
    expected = _run(whole, _weights(), range(6))
    weights = _weights()
    _run(first, weights, range(3))
    arrays = {name: array.copy() for name, array in first.named_arrays()}
    again = [Tensor(w.numpy().copy(), requires_grad=True) for w in weights]
    second.restore(again, first.iterations, arrays)
    assert same_bits(_run(second, again, range(3, 6)), expected)
    assert second.iterations == 6


def test_a_state_of_other_weights_is_refused():
    trained = Adam()
    _run(trained, _weights(), range(1))
    arrays = dict(trained.named_arrays())
    for wrong in (arrays | {"m.0": np.zeros(2, np.float32)}, {k: arrays[k] for k in list(arrays)[1:]}, {}):
        with pytest.raises(DataError, match="the optimizer's state does not fit the weights"):
            Adam().restore(_weights(), 1, wrong)


def test_weights_without_a_gradient_stay():
    weights = _weights()
    weights[1].grad = np.ones(4, np.float32)
    before = [w.numpy().copy() for w in weights]
    Adam().update(weights)
    assert [bool((w.numpy() != b).any()) for w, b in zip(weights, before, strict=True)] == [False, True, False]


@pytest.mark.parametrize("optimizer", [Adam(0.1, 0.2, 0.3, 0.4), SGD(0.1, 0.2, True)])
def test_a_configuration_makes_the_optimizer_again(optimizer):
    again = type(optimizer)(**optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert vars(again) == vars(optimizer)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Adam(0), "Adam: learning_rate 0 is not above 0"),
        (lambda: SGD(float("nan")), "SGD: learning_rate nan is not above 0"),
        (lambda: SGD(float("inf")), "SGD: learning_rate inf is not above 0"),
        (lambda: Adam(beta_1=1), "Adam: beta_1 1 is not at least 0 and below 1"),
        (lambda: Adam(beta_2=-0.1), "Adam: beta_2 -0.1"),
        (lambda: Adam(epsilon=0), "Adam: epsilon 0 is not above 0"),
        (lambda: SGD(momentum=1.5), "SGD: momentum 1.5"),
        (lambda: get("adamw"), "optimizer 'adamw' is unknown; use one of adam, sgd"),
        (lambda: get(None), "optimizer None is unknown"),
        (lambda: Adam("fast"), "Adam: learning_rate 'fast'"),
    ],
)
def test_unusable_settings_are_refused(call, words):
    with pytest.raises(UsageError) as caught:
        call()
    assert words in str(caught.value)


def test_optimizers_by_name():
    assert isinstance(get("adam"), Adam)
    assert isinstance(get("SGD"), SGD)
    mine = Adam(0.5)
    assert get(mine) is mine
