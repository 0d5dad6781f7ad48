"""The warp kernel: against NumPy's own shifts and flips, against SciPy, and each backend against the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinycnn.kernels import cpu, reference

FILL_MODES = ("nearest", "constant", "reflect", "wrap")
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


@pytest.fixture(params=[reference, cpu], ids=["reference", "cpu"])
def warp(request):
    return request.param.warp


def random_images(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def shift(rows, columns):
    return np.array([[1.0, 0, rows], [0, 1, columns]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_identity_changes_no_value(warp, dtype, fill_mode):
    x = random_images((2, 5, 7, 3), dtype)
    y = warp(x, np.stack([IDENTITY] * 2), fill_mode, 9.0, 1.0)
    assert y.dtype == np.float32
    assert np.array_equal(y, x)


def test_scale_is_a_float32_product(warp):
    x = random_images((1, 6, 6, 3))
    y = warp(x, IDENTITY[None], "nearest", 0.0, 1 / 255)
    assert np.array_equal(y, x.astype(np.float32) * np.float32(1 / 255))


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (1, 4)])
def test_flips_and_half_turn(warp, size):
    h, w = size
    x = random_images((3, h, w, 2))
    flips = np.array(
        [[[-1, 0, h - 1], [0, 1, 0]], [[1, 0, 0], [0, -1, w - 1]], [[-1, 0, h - 1], [0, -1, w - 1]]], float
    )
    y = warp(x, flips, "constant", 0.0, 1.0)
    assert np.array_equal(y, np.stack([x[0, ::-1], x[1, :, ::-1], x[2, ::-1, ::-1]]))


def test_quarter_turn_of_a_square(warp):
    x = random_images((1, 7, 7, 3))
    turn = np.array([[[0, 1, 0], [-1, 0, 6]]], float)
    assert np.array_equal(warp(x, turn, "nearest", 0.0, 1.0)[0], np.rot90(x[0]))


@pytest.mark.parametrize(
    ("fill_mode", "pad"), [("nearest", "edge"), ("reflect", "symmetric"), ("constant", "constant")]
)
@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, -3), (-1, 4), (3, 3)])
def test_whole_shifts_read_a_padded_image(warp, fill_mode, pad, rows, columns):
    x = random_images((1, 5, 6, 2))
    padded = np.pad(x, ((0, 0), (5, 5), (5, 5), (0, 0)), mode=pad)
    expected = padded[:, 5 + rows : 10 + rows, 5 + columns : 11 + columns]
    assert np.array_equal(warp(x, shift(rows, columns)[None], fill_mode, 0.0, 1.0), expected)


def test_wrap_lays_the_first_pixel_upon_the_last(warp):
    x = np.array([1, 2, 3, 4], np.uint8).reshape(1, 1, 4, 1)
    y = warp(x, shift(0, 2)[None], "wrap", 0.0, 1.0)
    assert y.ravel().tolist() == [3, 4, 2, 3]
    y = warp(x, shift(0, -2)[None], "wrap", 0.0, 1.0)
    assert y.ravel().tolist() == [2, 3, 1, 2]


def test_halfway_between_pixels(warp):
    x = np.array([[0, 10], [100, 250]], np.uint8).reshape(1, 2, 2, 1)
    y = warp(x, shift(0.5, 0.5)[None], "nearest", 0.0, 1.0)
    assert y[0, :, :, 0].tolist() == [[90, 130], [175, 250]]


def test_constant_fills_whole_pixels_and_is_scaled(warp):
    x = np.full((1, 3, 3, 2), 200, np.uint8)
    y = warp(x, shift(0.5, 0)[None], "constant", 40.0, 0.5)
    assert y[0, :2].tolist() == np.full((2, 3, 2), 100.0).tolist()
    assert y[0, 2].tolist() == np.full((3, 2), 20.0).tolist()


def test_constant_keeps_the_border_despite_rounding(warp):
    x = random_images((1, 64, 64, 1))
    middle = 31.5
    cos, sin = np.cos(np.pi / 2), np.sin(np.pi / 2)  # cos is not exactly 0
    turn = np.array([[cos, sin, middle - (cos + sin) * middle], [-sin, cos, middle - (cos - sin) * middle]])
    assert np.abs(warp(x, turn[None], "constant", -99.0, 1.0)[0] - np.rot90(x[0])).max() < 1e-3


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("size", [(16, 16), (17, 17), (9, 20), (1, 6), (2, 2)])
def test_agrees_with_scipy(warp, fill_mode, size):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(7)
    x = random_images((12, *size, 2))
    matrices = rng.normal(0, 1, (12, 2, 3)) * [1, 1, 12]
    y = warp(x, matrices, fill_mode, 17.0, 1.0)
    for image, m, result in zip(x, matrices, y, strict=True):
        for channel in range(2):
            plane = image[..., channel].astype(np.float64)
            expected = ndimage.affine_transform(plane, m[:, :2], m[:, 2], order=1, mode=fill_mode, cval=17.0)
            assert np.abs(result[..., channel] - expected).max() < 1e-3


affine = st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6).map(lambda v: np.array(v).reshape(2, 3))


@settings(deadline=None, max_examples=60)
@given(
    matrix=affine,
    reach=st.sampled_from([1, 30]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 4),
    fill_mode=st.sampled_from(FILL_MODES),
)
def test_backends_agree_to_rounding(matrix, reach, size, channels, fill_mode):
    x = random_images((1, *size, channels))
    matrices = (matrix * [1, 1, reach])[None]
    ours = cpu.warp(x, matrices, fill_mode, 3.0, 1 / 255)
    assert np.abs(ours - reference.warp(x, matrices, fill_mode, 3.0, 1 / 255)).max() <= 4 * 2**-24


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308, -1e300])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_no_map_reads_outside_the_image(warp, fill_mode, value):
    x = np.full((1, 8, 8, 1), 7, np.uint8)
    for entry in range(6):
        m = IDENTITY.copy()
        m.flat[entry] = value
        assert np.isin(warp(x, m[None], fill_mode, 7.0, 1.0), [7.0]).all()


def test_inputs_may_be_views_and_stay_as_they_are(warp):
    x = random_images((4, 12, 10, 3))
    view = x[::2, ::-1, 1:9:2]
    view.flags.writeable = False
    matrices = np.stack([shift(0.3, -0.7), shift(-1.2, 0.1)])
    before = x.copy(), matrices.copy()
    y = warp(view, matrices, "reflect", 0.0, 1.0)
    assert np.array_equal(y, warp(view.copy(), matrices, "reflect", 0.0, 1.0))
    assert np.array_equal(x, before[0])
    assert np.array_equal(matrices, before[1])


def test_wrong_arguments_are_refused(warp):
    x = random_images((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"shorter|matrices"):
        warp(x, IDENTITY[None], "nearest", 0.0, 1.0)
    with pytest.raises(ValueError, match=r"mirror|not in tuple"):
        warp(x, np.stack([IDENTITY] * 2), "mirror", 0.0, 1.0)


def test_threads_do_not_change_the_bits():
    import numba

    x = random_images((8, 33, 31, 3))
    matrices = IDENTITY + np.random.default_rng(3).normal(0, 0.2, (8, 2, 3))
    results = []
    for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        results.append(cpu.warp(x, matrices, "reflect", 0.0, 1 / 255))
        numba.set_num_threads(before)
    assert all(np.array_equal(results[0], other) for other in results[1:])
