"""Optimizers by their formulas in float64, and the state that lets a run go on."""

import numpy as np
import pytest
from networks import same_bits, using

from tinycnn import ops
from tinycnn.errors import DataError, UsageError
from tinycnn.fused import ConvReLUMaxPool2D, DenseReLU
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


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("wanted", [(0, 1, 0), (1, 0, 1), (1, 1, 0), (0, 1, 1), (0, 0, 0)])
@pytest.mark.parametrize(("kind", "arguments"), [(Adam, ()), (SGD, (0.1, 0.9))])
def test_weights_without_a_gradient_stay_and_so_does_their_state(backend, wanted, kind, arguments):
    with using(backend):
        weights, optimizer = _weights(), kind(*arguments)
        _run(optimizer, weights, range(2))
        before = [w.numpy().copy() for w in weights], _state_of(optimizer)
        for want, weight, gradient in zip(wanted, weights, _gradients(2), strict=True):
            weight.grad = gradient if want else None
        optimizer.update(weights)
    after = [w.numpy() for w in weights], _state_of(optimizer)
    moved = [bool((now != then).any()) for now, then in zip(after[0], before[0], strict=True)]
    assert moved == [bool(want) for want in wanted]
    for name, array in before[1].items():
        assert bool((after[1][name] != array).any()) == bool(wanted[int(name.split(".")[1])]), name


def _state_of(optimizer):
    return {name: array.copy() for name, array in optimizer.named_arrays()}


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


# One array for all weights, one for all gradients


def _network(x, weights):
    """A convolution, a dense layer with one of its weights used twice, all fused where the backend can; a number."""
    filters, bias, w, b = weights
    h = ops.flatten(ConvReLUMaxPool2D.apply(x, filters, bias))
    return (DenseReLU.apply(h, w, b) * 0.5 + ops.dense(h, w) * 0.25).sum() * 0.01


def _network_weights(dtype=np.float32):
    rng = generator(0, "network weights")
    shapes = (3, 3, 2, 4), (4,), (36, 5), (5,)
    return [Tensor(rng.normal(size=s).astype(dtype), requires_grad=True) for s in shapes]


def _photo(dtype=np.float32):
    return Tensor(generator(0, "photo").normal(size=(3, 8, 8, 2)).astype(dtype))


def _starts(arrays):
    """Where each lies, in bytes after the first."""
    places = [a.__array_interface__["data"][0] for a in arrays]
    return [place - places[0] for place in places]


def _beside_one_another(arrays):
    """Whether each begins at the cache line after the one before."""
    rooms = [-(-a.nbytes // 64) * 64 for a in arrays]
    return _starts(arrays) == [sum(rooms[:i]) for i in range(len(arrays))]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_weights_and_gradients_move_into_one_array_each(backend):
    with using(backend):
        weights, optimizer, x = _network_weights(), Adam(), _photo()
        before = [w.data.copy() for w in weights]
        _network(x, weights).backward()
        first = [w.grad.copy() for w in weights]
        optimizer.update(weights)
        for arrays in ([w.data for w in weights], [w.grad_buffer for w in weights]):
            assert _beside_one_another(arrays)
            assert all(a.flags.c_contiguous for a in arrays)
        places = [w.data for w in weights]
        for weight, old in zip(weights, before, strict=True):
            weight.data[...] = old
        for _ in range(2):
            _network(x, weights).backward()
            for weight, gradient in zip(weights, first, strict=True):
                assert weight.grad is weight.grad_buffer
                np.testing.assert_array_equal(weight.grad, gradient)
        optimizer.update(weights)
    assert all(w.data is place for w, place in zip(weights, places, strict=True)), "they move once"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_in_buffers_are_those_of_leaves_without(backend, dtype):
    with using(backend):
        plain, buffered, x = _network_weights(dtype), _network_weights(dtype), _photo(dtype)
        for weight in buffered:
            weight.grad_buffer = np.full(weight.shape, np.nan, dtype)
        _network(x, plain).backward()
        _network(x, buffered).backward()
    for weight, other in zip(buffered, plain, strict=True):
        assert weight.grad is weight.grad_buffer
        assert weight.grad.dtype == dtype
        np.testing.assert_array_equal(weight.grad, other.grad)


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_a_weight_that_is_used_several_times_gets_the_sum(uses):
    """The buffer is lent to one of the ops; it must not be added to itself, or overwritten."""
    with using("numba"):
        x = _photo()
        filters, bias = _network_weights()[:2]
        wanted = 0.0
        for use in range(uses):
            ConvReLUMaxPool2D.apply(x, filters, bias).backward(np.full((3, 3, 3, 4), use + 1.0, np.float32))
            wanted = wanted + filters.grad.astype(np.float64)
        for leaf in (filters, bias):
            leaf.grad_buffer = np.full(leaf.shape, np.nan, np.float32)
        for _ in range(2):
            total = sum(
                ((ConvReLUMaxPool2D.apply(x, filters, bias) * (use + 1.0)).sum() for use in range(uses)), Tensor(0.0)
            )
            total.backward()
            assert filters.grad is filters.grad_buffer
            np.testing.assert_allclose(filters.grad, wanted, rtol=1e-5)


def test_a_pass_that_fails_does_not_keep_the_buffers_from_the_next():
    with using("numba"):
        weights, x = _network_weights(), _photo()
        for weight in weights:
            weight.grad_buffer = np.zeros(weight.shape, np.float32)
        _network(x, weights).backward()
        wanted = [w.grad.copy() for w in weights]
        broken = _network(x, weights)
        broken.op.parents[0].op.parents = ()
        with pytest.raises(ValueError, match="zip"):
            broken.backward()
        for _ in range(2):
            _network(x, weights).backward()
            assert same_bits([w.grad for w in weights], wanted)
            assert all(w.grad is w.grad_buffer for w in weights)


def test_gradients_set_by_hand_count():
    weights, other = _weights(), _weights()
    mine, theirs = SGD(0.5), SGD(0.5)
    for step in range(3):
        for weight, twin, gradient in zip(weights, other, _gradients(step), strict=True):
            weight.grad = gradient.astype(np.float64).copy("F")  # another type, another layout
            twin.grad = gradient
        mine.update(weights)
        theirs.update(other)
    assert same_bits([w.data for w in weights], [w.data for w in other])


@pytest.mark.parametrize("kind", [Adam, lambda: SGD(0.1, 0.9)])
def test_weights_that_were_given_a_new_array_go_on_from_it(kind):
    weights, other = _weights(), _weights()
    mine, theirs = kind(), kind()
    _run(mine, weights, range(2))
    _run(theirs, other, range(2))
    weights[1].data = np.arange(4, dtype=np.float32)
    other[1].data[...] = np.arange(4)
    assert same_bits(_run(mine, weights, range(2, 4)), _run(theirs, other, range(2, 4)))
    assert _state_of(mine).keys() == _state_of(theirs).keys()
    assert same_bits(list(_state_of(mine).values()), list(_state_of(theirs).values()))


def test_two_optimizers_in_turn_move_the_same_weights():
    weights = _weights()
    adam, sgd = Adam(), SGD(0.1, 0.9)
    moments = [(np.zeros(s), np.zeros(s)) for s in SHAPES]
    velocities, wanted = [np.zeros(s) for s in SHAPES], [w.numpy().astype(np.float64) for w in weights]
    for step in range(4):
        optimizer = (adam, sgd)[step % 2]
        _run(optimizer, weights, [step])
        for i, g in enumerate(_gradients(step)):
            g = g.astype(np.float64)
            if optimizer is adam:
                t, (m, v) = step // 2 + 1, moments[i]
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                wanted[i] -= 0.001 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
            else:
                velocities[i] = 0.9 * velocities[i] - 0.1 * g
                wanted[i] += velocities[i]
    for weight, true in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(weight.numpy(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("kind", "arguments", "formula", "numbers"), RECIPES)
def test_float64_weights_keep_their_digits(backend, kind, arguments, formula, numbers):
    with using(backend):
        weights = [Tensor(w.numpy().astype(np.float64), requires_grad=True) for w in _weights()]
        before = [w.numpy().copy() for w in weights]
        after = _run(kind(*arguments), weights, range(4))
    for i, (start, end) in enumerate(zip(before, after, strict=True)):
        assert end.dtype == np.float64
        wanted = formula(start, [_gradients(step)[i].astype(np.float64) for step in range(4)], *numbers)
        np.testing.assert_allclose(end, wanted, rtol=1e-12, atol=1e-12)


def test_weights_that_do_not_fit_are_refused():
    optimizer = Adam()
    _run(optimizer, _weights(), range(1))
    with pytest.raises(UsageError, match=r"^Adam: its state belongs to other weights; make a new optimizer$"):
        optimizer.update(_weights()[:2])
    mixed = [Tensor(np.ones(2, dtype), requires_grad=True) for dtype in (np.float32, np.float64)]
    with pytest.raises(UsageError, match=r"^SGD: weights of several number types; make them all float32$"):
        SGD().update(mixed)
    assert [w.data.tolist() for w in mixed] == [[1, 1], [1, 1]]
    assert mixed[0].grad_buffer is None


def test_restoring_moves_weights_too_and_needs_no_gradients():
    first = Adam()
    weights = _weights()
    _run(first, weights, range(2))
    again, second = _weights(), Adam()
    second.restore(again, 2, _state_of(first))
    assert _beside_one_another([w.data for w in again])
    assert same_bits([w.data for w in again], [w.data for w in _weights()])
    with pytest.raises(DataError, match="-1 iterations"):
        second.restore(again, -1, {})
    fresh = Adam()
    fresh.restore(again, 0, {})
    assert fresh.state == {}


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_a_weight_that_wants_no_gradient_any_more_stays(kind):
    frozen, other, *_ = _weights()
    optimizer = kind(0.1)
    for weight in (frozen, other):
        weight.grad = np.ones_like(weight.data)
    optimizer.update([frozen, other])
    before = frozen.data.copy(), other.data.copy()
    frozen.requires_grad = False
    optimizer.update([frozen, other])
    np.testing.assert_array_equal(frozen.data, before[0])
    assert (other.data != before[1]).all()
