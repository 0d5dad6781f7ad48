"""Do the CUDA kernels mean what the reference means? Run on the host, by threads in no particular order."""

import numpy as np
import pytest
from checks import assert_near, check_float32
from cuda_checks import beside_naive, check_windows, everything, geometries, matrices, random, rows, same_bits
from fused_checks import POOLED, check_exact, check_nan, check_path, check_winners, whole
from host_cupy import HostCupy, above, cache_of_kernels, kernels_instead_of_numba, kernels_on_host  # noqa: F401
from tinycnn.kernels import cpu, reference
from tinycnn.kernels.shapes import windows

from tinycnn import Tensor, backend
from tinycnn.fused import ConvReLU, ConvReLUMaxPool2D, DenseReLU, SigmoidBinaryCrossEntropy
from tinycnn.random import generator

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
reals = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_row = pytest.mark.parametrize("case", rows(), ids=lambda case: case.name)
KINDS = {"pooled": (ConvReLUMaxPool2D, POOLED), "convolution": (ConvReLU, POOLED),
         "dense": (DenseReLU, [(11, 20), (20, 33), (33,)])}  # fmt: skip
each_kind = pytest.mark.parametrize(("op", "shapes"), KINDS.values(), ids=KINDS)


@each_row
def test_fused_ops_are_exact_on_whole_numbers_and_near_on_others(case, instead_of_numba):
    check_path(case)
    check_float32(case, "numba")


@reals
@pytest.mark.parametrize(("shape", "win"), [g[1:] for g in geometries()], ids=[g[0] for g in geometries()])
def test_windows_have_the_bits_of_the_reference(shape, win, dtype, cuda):
    check_windows(cuda, shape, win, dtype)


@each_kind
def test_no_images_give_no_output_and_no_gradient(op, shapes, instead_of_numba):
    check_exact(op, 0, [(0, *shapes[0][1:]), *shapes[1:]], {})


@each_kind
@pytest.mark.parametrize("needs", [(False, True, True), (True, False, False)])
def test_only_what_is_needed_is_computed(op, shapes, needs, instead_of_numba):
    check_exact(op, 1, shapes, {}, needs)


@each_kind
@pytest.mark.parametrize("where", [0, 1, 2], ids=["input", "weights", "bias"])
def test_nan_is_seen_where_the_plain_ops_show_it(op, shapes, where, instead_of_numba):
    check_nan(op, shapes, where)


def test_winners_are_the_first_of_the_largest_and_none_where_relu_stops(instead_of_numba):
    check_winners(POOLED)


def test_with_tf32_the_library_makes_the_products_of_large_batches(instead_of_numba, monkeypatch):
    monkeypatch.setattr(instead_of_numba, "TF32", True)
    check_exact(DenseReLU, 0, [(instead_of_numba.LIBRARY, 5), (5, 7), (7,)], {})
    assert {"add_bias", "relu_gradient"} <= set(instead_of_numba.cupy.launches)


def test_inputs_may_lie_in_memory_in_any_way_and_gradients_land_in_given_buffers(cuda):
    x, w, b = whole(4, *POOLED)
    win = windows(x.shape[1:3], w.shape[:2])
    pool = windows((win.oh, win.ow), 2, 2)
    y, winner = cuda.conv_relu_max_pool2d(x, w, b, win, pool)
    gy = np.ones_like(y)
    wanted = cuda.conv_relu_max_pool2d_backward(gy, winner, x, w, win, pool, True)
    f = np.asfortranarray
    again, chosen = cuda.conv_relu_max_pool2d(f(x), f(w), np.repeat(b, 2)[::2], win, pool)
    same_bits(again, y)
    same_bits(chosen, winner)
    gw, gb = np.empty_like(w), np.empty_like(b)
    got = cuda.conv_relu_max_pool2d_backward(f(gy), f(winner), f(x), f(w), win, pool, True, gw, gb)
    assert got[1] is gw
    assert got[2] is gb
    for ours, true in zip(got, wanted, strict=True):
        same_bits(ours, true)
    gw, gb = np.empty((5, 3), np.float32), np.empty(3, np.float32)
    x, w = random((4, 5), (5, 3))
    g = x[:, :3]
    got = cuda.dense_backward(g, g, x, w, True, False, gw, gb)
    assert got[0] is None
    assert got[1] is gw
    assert got[2] is gb
    assert_near(gw, x.T @ np.maximum(g, 0), 1e-6)


def test_any_order_of_threads_and_blocks_gives_the_same_bits(cache):
    results = [list(everything(above(HostCupy(cache, seed=seed)))) for seed in (1, 2)]
    for one, other in zip(*results, strict=True):
        same_bits(one, other)


def test_naive_kernels_agree_with_the_fast_ones(cuda):
    """The first kernel of a file says what the others compute."""
    cuda.cupy.launches.clear()
    for naive, fast in beside_naive(cuda):
        same_bits(naive, fast)
    assert len({name for name in cuda.cupy.launches if name.endswith("naive")}) == 5


def test_the_loss_is_that_of_the_fused_op(cuda):
    (z,) = random((7, 43))
    z[0, :6] = 90, -90, 0, 20, -20, 1e-6
    y = (random((7, 43))[0] > 0).astype(np.float32)
    leaf = Tensor(z.astype(np.float64), requires_grad=True, backend=backend.get("numpy"))
    loss = SigmoidBinaryCrossEntropy.apply(leaf, y.astype(np.float64))
    loss.backward(np.array(3.0))
    tolerance = 8 * z.size**0.5 * 2.0**-24
    ours = cuda.sigmoid_binary_cross_entropy(z, y)
    assert ours.shape == ()
    assert_near(ours, loss.data, tolerance)
    for gy in (3.0, np.full((), 3, np.float32)):
        assert_near(cuda.sigmoid_binary_cross_entropy_backward(gy, z, y), leaf.grad, tolerance)


@reals
@pytest.mark.parametrize("layout", [np.copy, lambda a: np.asfortranarray(a.reshape(11, -1))], ids=["flat", "Fortran"])
def test_steps_are_those_of_the_reference(dtype, layout, cuda):
    w, g, m, v = arrays = [layout(a.astype(dtype)) for a in random(*[(517,)] * 4)]
    v[...] = abs(v)
    twins = [a.copy() for a in arrays]
    for rate in (0.01, np.full(1, 0.02, np.float32)):
        number = float(np.asarray(rate).item())
        cuda.adam_update(w, g, m, v, rate, 0.9, 0.999, 1e-7)
        reference.adam_update(*twins, number, 0.9, 0.999, 1e-7)
        for nesterov in (False, True):
            cuda.sgd_update(w, g, m, rate, 0.9, nesterov)
            reference.sgd_update(*twins[:3], number, 0.9, nesterov)
    for got, wanted in zip(arrays, twins, strict=True):
        assert got.dtype == dtype
        assert_near(got, wanted, 8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "reflect", "wrap"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
def test_warped_images_are_those_of_the_reference(fill_mode, dtype, cuda):
    x = generator(0, "images").integers(0, 256, (40, 9, 7, 3)).astype(dtype)
    maps = matrices(40)
    ours, wanted = (kernels.warp(x, maps, fill_mode, 3.0, 1 / 255) for kernels in (cuda, reference))
    assert ours.dtype == np.float32
    assert np.abs(ours - wanted).max() <= 4 * 2.0**-24


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_no_map_reads_outside_the_image(value, cuda):
    x = np.full((1, 8, 8, 1), 7, np.uint8)
    for fill_mode in ("nearest", "reflect", "wrap"):
        for entry in range(6):
            m = np.eye(2, 3)
            m.flat[entry] = value
            assert (cuda.warp(x, m[None], fill_mode, 7.0, 1.0) == 7).all()


def test_wrong_arguments_of_warp_are_refused(cuda):
    x = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="2 images need as many matrices, not 1"):
        cuda.warp(x, matrices(1), "nearest", 0.0, 1.0)
    with pytest.raises(ValueError, match="not in tuple"):
        cuda.warp(x, matrices(2), "mirror", 0.0, 1.0)


def test_a_step_of_the_fish_network_takes_few_launches_and_is_that_of_the_other_backend(cuda):
    """On an image a quarter as large: the tiles, and what a thread does, are those of the whole one."""
    cuda.cupy.launches.clear()
    ours = fish_step(cuda)
    assert 0 < len(cuda.cupy.launches) <= 15, cuda.cupy.launches
    for got, wanted in zip(ours, fish_step(cpu), strict=True):
        assert_near(got, wanted, 1e-4)  # the other backend's rounding may move a winner


def fish_step(kernels) -> list[np.ndarray]:
    """The loss and every gradient of the fish network and 2 images; a step of Adam follows."""
    x, w1, b1, w2, b2, w3, b3, w4, b4 = random(
        (2, 34, 34, 3), (3, 3, 3, 32), (32,), (3, 3, 32, 32), (32,), (1568, 128), (128,), (128, 1), (1,)
    )
    w2, w3, w4, y = w2 / 17, w3 / 40, w4 / 11, np.array([[0], [1]], np.float32)
    win1, win2 = windows((34, 34), 3), windows((16, 16), 3)
    pool1, pool2 = windows((32, 32), 2, 2), windows((14, 14), 2, 2)
    a, won1 = kernels.conv_relu_max_pool2d(x, w1, b1, win1, pool1)
    b, won2 = kernels.conv_relu_max_pool2d(a, w2, b2, win2, pool2)
    flat = b.reshape(2, -1)  # (N, H*W*F)
    c = kernels.dense(flat, w3, b3, True)
    z = kernels.dense(c, w4, b4, False)
    losses = kernels if hasattr(kernels, "sigmoid_binary_cross_entropy") else _Loss
    loss = losses.sigmoid_binary_cross_entropy(z, y)
    gz = losses.sigmoid_binary_cross_entropy_backward(np.ones((), np.float32), z, y)
    gc, *g4 = kernels.dense_backward(gz, z, c, w4, False, True)
    gflat, *g3 = kernels.dense_backward(gc, c, flat, w3, True, True)
    ga, *g2 = kernels.conv_relu_max_pool2d_backward(gflat.reshape(b.shape), won2, a, w2, win2, pool2, True)
    _, *g1 = kernels.conv_relu_max_pool2d_backward(ga, won1, x, w1, win1, pool1, False)
    gradients = [*g1, *g2, *g3, *g4]
    g = np.concatenate([a.ravel() for a in gradients])
    w = np.concatenate([a.ravel() for a in (w1, b1, w2, b2, w3, b3, w4, b4)])
    m, v, rate = np.zeros_like(w), np.zeros_like(w), np.full(1, 0.001, np.float32)
    kernels.adam_update(w, g, m, v, rate if kernels is not cpu else 0.001, 0.9, 0.999, 1e-7)
    return [np.asarray(loss), *gradients]


class _Loss:
    """The formulas of the fused op, for the backend without kernels for them."""

    @staticmethod
    def sigmoid_binary_cross_entropy(z, y):
        return (np.maximum(z, 0) - z * y + np.log1p(np.exp(-abs(z)))).mean()

    @staticmethod
    def sigmoid_binary_cross_entropy_backward(gy, z, y):
        return gy * (1 / (1 + np.exp(-z)) - y) / y.size
