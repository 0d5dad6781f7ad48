"""Do the kernels keep their promises: windows in place, exact adjoints, optimizers by hand?"""

import numpy as np
import oracles
import pytest
from checks import EXACT, assert_near, bounded, each_backend
from hypothesis import assume, given
from hypothesis import strategies as st
from tinycnn.kernels import cpu, reference, shapes
from tinycnn.kernels.shapes import ShapeError, Windows, broadcast_axes, pair, windows

from tinycnn.random import generator

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
paddings = st.one_of(st.sampled_from(["valid", "same"]), st.integers(0, 2), pads, st.tuples(pads, pads))
settings = st.fixed_dictionaries(
    {
        "image": st.tuples(st.integers(1, 7), st.integers(1, 7)),
        "kernel": pairs,
        "strides": st.one_of(st.integers(1, 3), pairs),
        "padding": paddings,
        "dilation": st.one_of(st.just(1), st.tuples(st.integers(1, 2), st.integers(1, 3))),
    }
)


def possible(setting) -> Windows:
    """The windows, or another draw where they do not fit."""
    try:
        return windows(**setting)
    except ShapeError:
        assume(False)
        raise


@given(settings)
@bounded
def test_windows_lie_where_walking_over_the_image_finds_them(setting):
    axes = oracles.axes(setting["image"], *(setting[name] for name in ("kernel", "strides", "dilation", "padding")))
    found = [oracles.positions(*axis) for axis in axes]
    try:
        win = windows(**setting)
    except ShapeError:
        reaches = [dilation * (kernel - 1) + 1 for _, kernel, _, dilation, _ in axes]
        too_padded = any(max(oracles.pads(*axis)) >= reach for axis, reach in zip(axes, reaches, strict=True))
        assert too_padded or not all(found)
        return
    assert (win.oh, win.ow) == (len(found[0]), len(found[1]))
    assert [[i * win.sh - win.top + a * win.dh for a in range(win.kh)] for i in range(win.oh)] == found[0]
    assert [[j * win.sw - win.left + b * win.dw for b in range(win.kw)] for j in range(win.ow)] == found[1]
    assert win.taps == win.kh * win.kw
    assert win.pads == tuple(oracles.pads(*axis) for axis in axes)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_same_gives_ceil_of_size_over_stride(size, kernel, stride):
    win = windows((size, size), kernel, stride, "same")
    assert win.oh == win.ow == -(-size // stride)
    assert 0 <= win.bottom - win.top <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((2, 2), 3), "window 3x3 is larger than its input 2x2"),
        (((2, 5), (1, 3), 1, "valid", 3), r"window 1x3 \(dilated to 1x7\) is larger than its input 2x5"),
        (((0, 3), 1), "larger than its input 0x3"),
        (((4, 4), 2, 1, 2), "padding 2 is as large as the window 2x2"),
        (((4, 4), 0), "window 0 is not"),
        (((4, 4), (2, -1)), r"window \(2, -1\) is not"),
        (((4, 4), 2, (1, 2, 3)), r"strides \(1, 2, 3\) is not"),
        (((4, 4), 2, 1, "valid", 0), "dilation 0 is not"),
        (((4, 4), 2, 1, "SAME"), "padding 'SAME' is not"),
        (((4, 4), 2, 1, -1), "padding -1 is not"),
        (((4, 4), 2, 1, (1, 2, 3)), r"padding \(1, 2, 3\) is not"),
        (((4, 4), 2, 1, ((1, 0), (0, -1))), r"padding \(\(1, 0\), \(0, -1\)\) is not"),
        (((4, 4), 2, 1, None), "padding None is not"),
    ],
)
def test_impossible_windows_are_named(arguments, words):
    with pytest.raises(ShapeError, match=words) as caught:
        windows(*arguments)
    assert "\n" not in str(caught.value)


def test_what_was_asked_before_changes_no_answer():
    """Equal to Python, not the same here: 2, 2.0 and True; and what cannot be a key is refused in words."""
    assert windows((5, 5), 2) == windows([5, 5], [2, 2]) == windows((5, 5), (2, np.int64(2)))
    assert windows((5, 5), 2, padding=((1, 1), (1, 1))) == windows((5, 5), 2, padding=[[1, 1], [1, 1]])
    for kernel in (2.0, (2.0, 2), np.array([2, 2]), {2}, None):
        for _ in range(2):
            with pytest.raises(ShapeError, match=r"window .* is not one or two whole numbers"):
                windows((5, 5), kernel)


def test_pair_and_broadcast_axes():
    assert pair(3, "x") == (3, 3)
    assert pair([2, 5], "x") == (2, 5)
    assert broadcast_axes((3,), (2, 3)) == (0,)
    assert broadcast_axes((3, 1), (2, 3, 4)) == (0, 2)
    assert broadcast_axes((1, 1), (1, 1)) == broadcast_axes((), ()) == ()
    assert broadcast_axes((), (2, 3)) == (0, 1)


@given(settings, st.integers(0, 3), st.integers(1, 3))
@bounded
def test_im2col_and_col2im_are_adjoint(setting, n, c):
    win = possible(setting)
    rng = generator(0, "adjoint")
    x = rng.standard_normal((n, win.h, win.w, c))
    cols = rng.standard_normal((n, win.oh, win.ow, win.taps * c))
    for kernels in (reference, cpu):
        there, back = (kernels.im2col(x, win) * cols).sum(), (x * kernels.col2im(cols, win)).sum()
        assert abs(there - back) <= EXACT * np.abs(cols).sum()


@given(settings, st.integers(0, 3), st.integers(1, 3), st.sampled_from([np.float32, np.float64]))
@bounded
def test_both_backends_copy_and_add_the_same_bits(setting, n, c, dtype):
    """Sums are made in one order, so that not even they differ."""
    win = possible(setting)
    rng = generator(0, "bits")
    x = rng.integers(-3, 4, (n, win.h, win.w, c)).astype(dtype)  # many ties
    x[rng.random(x.shape) < 0.1] = np.nan
    cols = rng.standard_normal((n, win.oh, win.ow, win.taps * c)).astype(dtype)
    gy = rng.standard_normal((n, win.oh, win.ow, c)).astype(dtype)
    same_bits(cpu.im2col(x, win), reference.im2col(x, win))
    same_bits(cpu.col2im(cols, win), reference.col2im(cols, win))
    (y, winner), (true, true_winner) = cpu.max_pool2d(x, win), reference.max_pool2d(x, win)
    same_bits(y, true)
    same_bits(winner, true_winner)
    gx, true = cpu.max_pool2d_backward(gy, winner, win), reference.max_pool2d_backward(gy, winner, win)
    assert_near(gx, true, 4 * np.finfo(dtype).eps)


def same_bits(a, b) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(a, b)


def test_one_small_im2col_by_hand():
    x = np.arange(1.0, 5).reshape(1, 2, 2, 1)
    for kernels in (reference, cpu):
        cols = kernels.im2col(x, windows((2, 2), 2, 1, ((1, 0), (0, 0))))
        assert cols.tolist() == [[[[0, 0, 1, 2]], [[1, 2, 3, 4]]]]
        back = kernels.col2im(cols, windows((2, 2), 2, 1, ((1, 0), (0, 0))))
        assert back.ravel().tolist() == [2, 4, 3, 4]


ADAM = {"rate": 0.01, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def _adam(kernels, dtype) -> list[np.ndarray]:
    rng = generator(0, "adam")
    w, g, m, v = (rng.standard_normal((50, 7)).astype(dtype) for _ in range(4))
    v = abs(v)
    kernels.adam_update(w, g, m, v, **ADAM)
    return [w, g, m, v]


@each_backend
def test_adam_by_hand(backend):
    kernels = {"numpy": reference, "numba": cpu}[backend]
    w, m, v = np.array([1.0, -2.0]), np.array([0.5, 0.0]), np.array([0.25, 0.0])
    kernels.adam_update(w, np.array([0.1, -3.0]), m, v, **ADAM)
    # m = 0.9 * 0.5 + 0.1 * 0.1, v = 0.999 * 0.25 + 0.001 * 0.01; then 0.1 * -3 and 0.001 * 9
    assert_near(m, [0.46, -0.3], EXACT)
    assert_near(v, [0.24976, 0.009], EXACT)
    steps = [0.01 * 0.46 / (0.24976**0.5 + 1e-7), 0.01 * -0.3 / (0.009**0.5 + 1e-7)]
    assert_near(w, [1 - steps[0], -2 - steps[1]], EXACT)


def _sgd(kernels, dtype, nesterov) -> list[np.ndarray]:
    rng = generator(0, "sgd")
    w, g, velocity = (rng.standard_normal((50, 7)).astype(dtype) for _ in range(3))
    kernels.sgd_update(w, g, velocity, 0.01, 0.9, nesterov)
    return [w, g, velocity]


@each_backend
@pytest.mark.parametrize(("nesterov", "steps"), [(False, [0.44, 0.3]), (True, [0.386, 0.57])])
def test_sgd_by_hand(backend, nesterov, steps):
    kernels = {"numpy": reference, "numba": cpu}[backend]
    w, g, velocity = np.array([1.0, -2.0]), np.array([0.1, -3.0]), np.array([0.5, 0.0])
    kernels.sgd_update(w, g, velocity, 0.1, 0.9, nesterov)
    assert_near(velocity, [0.44, 0.3], EXACT)  # 0.9 * 0.5 - 0.1 * 0.1, 0.1 * 3
    assert_near(w, [1 + steps[0], -2 + steps[1]], EXACT)  # Nesterov: 0.9 * 0.44 - 0.01, 0.9 * 0.3 + 0.3
    assert g.tolist() == [0.1, -3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "step", [_adam, lambda k, d: _sgd(k, d, False), lambda k, d: _sgd(k, d, True)], ids=["adam", "sgd", "nesterov"]
)
def test_steps_agree_between_backends(dtype, step):
    for a, b in zip(step(cpu, dtype), step(reference, dtype), strict=True):
        assert a.dtype == dtype
        assert_near(a, b, 4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nesterov", [False, True])
def test_averages_of_gradients_that_have_stopped_become_zero(dtype, nesterov):
    """Numbers below the normal ones would make each later step several times as long."""
    tiny = float(np.finfo(dtype).tiny)
    w, g = np.ones(40, dtype), np.zeros(40, dtype)
    m, v, velocity = (np.full(40, 1e8 * tiny, dtype) for _ in range(3))
    for array in (m, v, velocity):
        array[7] = np.nan
    for _ in range(100):
        cpu.adam_update(w, g, m, v, 0.01, 0.9, 0.9, 1e-7)
        cpu.sgd_update(w, g, velocity, 0.01, 0.9, nesterov)
        assert all(((abs(array) >= tiny) | (array == 0) | np.isnan(array)).all() for array in (m, v, velocity))
    for array in (w, m, v, velocity):
        assert np.isnan(array[7])
        assert (np.delete(array, 7) == (array is w)).all()


@pytest.mark.parametrize("epsilon", [1e-7, 1e-16, 1e-30])
def test_small_gradients_move_weights_as_the_formula_says_whatever_epsilon(epsilon):
    w, g, m, v = arrays = [np.full(20, value, np.float32) for value in (1, 1e-15, 0, 0)]
    twins = [a.copy() for a in arrays]
    for _ in range(5):
        cpu.adam_update(w, g, m, v, 1e-3, 0.9, 0.999, epsilon)
        reference.adam_update(*twins, 1e-3, 0.9, 0.999, epsilon)
    np.testing.assert_allclose(w, twins[0], rtol=1e-6)


@pytest.mark.parametrize("size", [0, 1, cpu.BLOCK, cpu.BLOCK + 1, 3 * cpu.BLOCK - 1])
def test_every_weight_moves_once_whatever_their_number(size):
    rng = generator(0, "many weights")
    w, g, m, v = arrays = [rng.random(size, np.float32) for _ in range(4)]
    twins = [a.copy() for a in arrays]
    cpu.adam_update(w, g, m, v, **ADAM)
    cpu.sgd_update(w, g, m, 0.01, 0.9, True)
    reference.adam_update(*twins, **ADAM)
    reference.sgd_update(*twins[:3], 0.01, 0.9, True)
    for got, wanted in zip(arrays, twins, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


LAYOUTS = [
    pytest.param(lambda x: x.copy("F"), id="Fortran"),
    pytest.param(lambda x: np.pad(x, ((0, 0), (0, 1)))[:, :-1], id="part of a larger array"),
]


@each_backend
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_update_weights_in_any_memory_layout(backend, layout):
    kernels = {"numpy": reference, "numba": cpu}[backend]
    w, g, m, v = (layout(np.arange(1.0, 7).reshape(2, 3)) for _ in range(4))
    plain = [x.copy("C") for x in (w, g, m, v)]
    for update, arrays in ((kernels, (w, g, m, v)), (reference, plain)):
        update.adam_update(*arrays, **ADAM)
        update.sgd_update(*arrays[:3], 0.01, 0.9, True)
    for got, wanted in zip((w, g, m, v), plain, strict=True):
        assert_near(got, wanted, EXACT)


def test_shapes_has_no_use_for_arrays():
    assert not hasattr(shapes, "np"), "shape arithmetic is done in whole numbers"
