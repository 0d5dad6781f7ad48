"""Do the compiled kernels of the fused ops give what the plain ops give, for any geometry, inside their own memory?"""

import interpreted
import numpy as np
import pytest
from cases import PATHS
from checks import bounded, check_float32, run
from fused_checks import (
    KINDS,
    POOLED,
    SHORT,
    WINOGRAD,
    assert_exact,
    both,
    check_exact,
    check_nan,
    check_order,
    check_path,
    check_winners,
    leaves_of,
    whole,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tinycnn.kernels import cpu_convolution, cpu_dense, cpu_parts, cpu_routed, cpu_winograd
from tinycnn.kernels.shapes import ShapeError, windows

from tinycnn import backend
from tinycnn.fused import ConvBias, ConvReLU, ConvReLUMaxPool2D, DenseBias, DenseReLU

each_path = pytest.mark.parametrize("case", PATHS, ids=lambda case: case.name)


@each_path
def test_every_path_is_near_float64(case):
    check_float32(case, "numba")
    assert run(case, "numba", np.float32)[0].op.name == case.op


@each_path
def test_every_path_reads_and_writes_inside_its_arrays(case, monkeypatch):
    """Compiled code checks no index: here the same code is run as Python, where each access is looked at."""
    monkeypatch.setattr(backend.get("numba"), "_kernels", interpreted.kernels())
    with np.errstate(all="ignore"):
        check_path(case)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
pads = st.tuples(st.integers(0, 2), st.integers(0, 2))
needs = st.tuples(*[st.booleans()] * 3).filter(any)


@st.composite
def geometries(draw):
    """(shapes of image, weights and bias; attributes of the convolution; how many windows it has)."""
    n = draw(st.sampled_from((1, 2, 3, 40)))
    size = st.integers(1, 6) if n > 3 else st.integers(1, 20)
    image, c = (draw(size), draw(size)), draw(st.sampled_from((1, 2, 3, 16, 17, 33)))
    f = draw(st.sampled_from((1, 6, 16, 17, 33, 40, 70)))
    kernel = draw(st.one_of(st.just((3, 3)), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    attributes = {
        "strides": draw(st.one_of(st.just(1), pairs)),
        "padding": draw(st.one_of(st.sampled_from(("valid", "same")), st.tuples(pads, pads))),
    }
    win = possible(image, kernel, **attributes)
    return [(n, *image, c), (*kernel, c, f), (f,)], attributes, (win.oh, win.ow)


def possible(*arguments, **attributes):
    """The windows, or another draw where they do not fit."""
    try:
        return windows(*arguments, **attributes)
    except ShapeError:
        assume(False)


@given(st.sampled_from((ConvBias, ConvReLU)), geometries(), needs, st.integers(0, 9))
@settings(bounded, max_examples=200)
def test_convolutions_of_any_geometry(op, geometry, needs, seed):
    shapes, attributes, _ = geometry
    check_exact(op, seed, shapes, attributes, needs)


@given(geometries(), st.one_of(st.just(2), pairs), st.one_of(st.none(), pairs), needs, st.integers(0, 9))
@settings(bounded, max_examples=200)
def test_pooled_convolutions_of_any_geometry(geometry, size, strides, needs, seed):
    shapes, attributes, image = geometry
    possible(image, size, size if strides is None else strides)
    pool = {"pool_size": size} if strides is None else {"pool_size": size, "pool_strides": strides}
    check_exact(ConvReLUMaxPool2D, seed, shapes, {**attributes, **pool}, needs)


sizes = st.one_of(st.integers(1, 20), st.sampled_from((32, 33, 40, 70, 80)))


@given(st.sampled_from((DenseBias, DenseReLU)), st.tuples(sizes, sizes, sizes), needs, st.integers(0, 9))
@bounded
def test_dense_layers_of_any_size(op, size, needs, seed):
    n, inputs, units = size
    check_exact(op, seed, [(n, inputs), (inputs, units), (units,)], {}, needs)


@given(st.integers(9, 64), st.integers(510, 1100), sizes, st.integers(0, 9))
@settings(bounded, max_examples=20)
def test_dense_layers_with_inputs_in_parts(n, inputs, units, seed):
    check_exact(DenseReLU, seed, [(n, inputs), (inputs, units), (units,)], {})


each_kind = pytest.mark.parametrize(("op", "shapes"), KINDS.values(), ids=KINDS)


@each_kind
def test_no_images_give_no_output_and_no_gradient(op, shapes):
    check_exact(op, 0, [(0, *shapes[0][1:]), *shapes[1:]], {})


def _every_second(x: np.ndarray) -> np.ndarray:
    """The same numbers, with others between them."""
    between = np.full([2 * size for size in x.shape], np.nan, x.dtype)
    part = between[tuple(slice(None, None, 2) for _ in x.shape)]
    part[...] = x
    return part


def _backwards(x: np.ndarray) -> np.ndarray:
    turn = tuple(slice(None, None, -1) for _ in x.shape)
    return x[turn].copy()[turn]


def _between_addresses(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 8, np.uint8)
    start = -raw.ctypes.data % 4 + 1
    shifted = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    assert not shifted.flags.aligned
    return shifted


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = (lambda x: x.copy("F"), _every_second, _backwards, _between_addresses, _read_only)


@each_kind
@pytest.mark.parametrize("layout", LAYOUTS, ids=["Fortran", "with gaps", "backwards", "misaligned", "read-only"])
def test_inputs_may_lie_in_memory_in_any_way(op, shapes, layout):
    """And none is another type to Numba, for which it would compile for seconds."""
    arrays = whole(0, *shapes)
    ours, wanted = both(op, arrays, {})
    before = compiled_kernels()
    assert_exact(both(op, [layout(a) for a in arrays], {})[0], wanted)
    assert_exact(ours, wanted)
    assert compiled_kernels() == before


def compiled_kernels() -> list[int]:
    """For how many types each kernel has been compiled."""
    modules = (cpu_convolution, cpu_dense, cpu_parts, cpu_routed, cpu_winograd)
    return [len(f.signatures) for module in modules for f in vars(module).values() if hasattr(f, "signatures")]


@each_kind
def test_an_output_gradient_may_lie_in_memory_in_any_way(op, shapes):
    results = []
    for layout in (np.copy, *LAYOUTS):
        leaves = leaves_of(whole(0, *shapes))
        y = op.apply(*leaves)
        y.backward(layout(np.arange(y.data.size, dtype=np.float32).reshape(y.shape) % 7 - 3))
        results.append([y.data, *(leaf.grad for leaf in leaves)])
    for result in results[1:]:
        assert_exact(result, results[0])


@each_kind
@pytest.mark.parametrize("where", [0, 1, 2], ids=["input", "weights", "bias"])
def test_nan_is_seen_where_the_plain_ops_show_it(op, shapes, where):
    check_nan(op, shapes, where)


@pytest.mark.parametrize("shapes", [POOLED, WINOGRAD, SHORT], ids=["pooled", "Winograd", "short windows"])
def test_winners_are_the_first_of_the_largest_and_none_where_relu_stops(shapes):
    check_winners(shapes)


@pytest.mark.parametrize("name", [name for name in KINDS if "dense" not in name])
def test_weight_gradients_of_a_batch_are_those_of_its_images_added_in_order(name):
    check_order(*KINDS[name])


@each_kind
def test_gradients_land_in_the_buffers_that_are_given(op, shapes):
    arrays = whole(3, *shapes)
    leaves = leaves_of(arrays)
    for leaf in leaves[1:]:
        leaf.grad_buffer = np.full(leaf.shape, np.nan, np.float32)
    y = op.apply(*leaves)
    y.backward(np.ones(y.shape, np.float32))
    without = leaves_of(arrays)
    op.apply(*without).backward(np.ones(y.shape, np.float32))
    for leaf, plain in zip(leaves, without, strict=True):
        assert leaf.grad_buffer is None or leaf.grad is leaf.grad_buffer
        np.testing.assert_array_equal(leaf.grad, plain.grad)


@pytest.mark.parametrize("samples", [72, 73, 200])
def test_sums_of_many_samples_need_little_memory(samples, monkeypatch):
    """Not all at once: the sums of some blocks are added up before those of the next are formed."""
    monkeypatch.setattr(cpu_dense, "SUMS", 2 * 3 * 20 * 40)
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((samples, 800), (800, 20), 20))
    np.testing.assert_allclose(cpu_dense.dense(x, w, b, relu=False), x.astype(np.float64) @ w + b, atol=1e-3)
