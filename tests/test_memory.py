"""Does memory come back when its last user is gone, not before, and does training really take no fresh memory?"""

import gc
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from checks import bounded
from hypothesis import given
from hypothesis import strategies as st
from networks import fish, photos, using
from tinycnn.kernels import cpu_graph, memory

MIB = 2**20


@pytest.fixture(autouse=True)
def shelf(monkeypatch) -> memory.Shelf:
    """An empty shelf for each test; what others have left behind comes back before."""
    gc.collect()
    empty = memory.Shelf()
    monkeypatch.setattr(memory, "_shelf", empty)
    return empty


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_array_is_gone_and_not_before():
    first = memory.empty((512, 512))
    place = address(first)
    second = memory.empty((512, 512))
    assert not np.shares_memory(first, second)
    del first
    assert address(memory.empty((512, 512))) == place


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[100:], id="slice"),
        pytest.param(lambda x: x.reshape(-1)[5:6], id="one element"),
        pytest.param(lambda x: x.T[::-1], id="turned"),
        pytest.param(lambda x: x.view(np.int8)[:, 1:][1:], id="view of a view"),
        pytest.param(lambda x: np.broadcast_to(x[0], (3, 512)), id="broadcast"),
        pytest.param(memoryview, id="buffer"),
        pytest.param(lambda x: np.asarray(memoryview(x))[3:], id="view of a buffer"),
    ],
)
def test_a_view_keeps_memory_from_coming_back(view):
    array = memory.empty((512, 512))
    place = address(array)
    kept = view(array)
    del array
    other = memory.empty((512, 512))
    assert address(other) != place
    assert memory.idle() == 0
    del kept, other
    assert memory.idle() == 2 * MIB
    assert place in map(address, [memory.empty((512, 512)), memory.empty((512, 512))])


def test_memory_comes_back_from_a_ring_of_references():
    ring: list = [memory.empty((512, 512))]
    ring.append(ring)
    del ring
    gc.collect()
    assert memory.idle() == MIB


sizes = st.lists(st.integers(0, 300), min_size=1, max_size=4)


@given(sizes, st.sampled_from((np.float32, np.float64, np.int8, np.int32, np.bool_, np.complex128)))
@bounded
def test_arrays_are_like_those_of_numpy(shape, dtype):
    shape = (*shape[:2], *(size % 5 for size in shape[2:]))
    a, b = memory.empty(shape, dtype), np.empty(shape, dtype)
    assert (a.shape, a.dtype, a.strides) == (b.shape, b.dtype, b.strides)
    assert a.flags.c_contiguous
    assert a.flags.writeable
    assert a.flags.aligned
    assert type(a) is np.ndarray
    a[...] = 1
    assert a.all()
    assert memory.zeros(shape, dtype).tobytes() == bytes(b.nbytes)


def test_zeros_are_zeros_after_reuse():
    place = None
    for _ in range(3):
        array = memory.zeros((300, 70))
        assert place in (None, address(array)), "the same memory"
        assert not array.any()
        place = address(array)
        array[...] = 7
        del array


def test_large_arrays_begin_at_a_cache_line_and_small_ones_are_left_to_numpy():
    held = [memory.empty((size,), np.uint8) for size in range(memory.SMALL + 1, memory.SMALL + 2000, 97)]
    assert all(address(a) % memory.CACHE_LINE == 0 for a in held)
    small = memory.empty((memory.SMALL,), np.uint8)
    assert small.flags.owndata
    del held, small
    assert memory.idle() > 0
    assert all(size > memory.SMALL for size in memory._shelf)


@pytest.mark.parametrize("size", [memory.SMALL + 1, 10**5, MIB, MIB + 1, 10**7 + 3, 2**25 - 1])
def test_little_is_wasted(size):
    memory.empty((size,), np.uint8)
    assert size <= memory.idle() <= 1.13 * size + memory.CACHE_LINE


def test_sizes_that_are_nearly_equal_share_memory(shelf):
    """Batches of 17 to 32 images, as at the end of an epoch, need eight sizes and not sixteen."""
    for images in range(17, 33):
        memory.empty((images, 31, 31, 32))
    assert len(shelf) <= 9


def test_what_lies_idle_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "KEPT", 3 * MIB)
    held = [memory.empty((512, 512)) for _ in range(5)]
    del held
    assert memory.idle() == 3 * MIB
    held = [memory.empty((512, 512)) for _ in range(4)]
    assert memory.idle() == 0
    del held
    big = memory.empty((4, MIB), np.uint8)
    del big
    assert memory.idle() == 3 * MIB, "one that is larger than the bound is not kept"


def test_several_threads_never_get_the_same_memory():
    def work(number: int) -> bool:
        alone = True
        for step in range(300):
            mine = memory.empty((100 + 20 * (step % 3), 100))
            mine[:] = number
            alone &= bool((mine == number).all())
        return alone

    with ThreadPool(4) as pool:
        assert all(pool.map(work, range(8)))
    held = sum(size * len(blocks) for size, blocks in memory._shelf.items())
    assert memory.idle() == held
    places = [place for blocks in memory._shelf.values() for place, _ in blocks]
    assert len(set(places)) == len(places) <= 8 * 3


def test_arrays_that_die_while_python_shuts_down_do_no_harm(monkeypatch):
    array = memory.empty((512, 512))
    monkeypatch.setattr(memory, "_shelf", None)
    del array


class CountingShelf(memory.Shelf):
    """Counts how often it had to take fresh memory; what other tests' threads give back meanwhile is no matter."""

    fresh = 0

    def take(self, size):
        self.fresh += not self.get(size)
        return super().take(size)


@pytest.mark.parametrize("replayed", [True, False], ids=["replayed", "not replayed"])
def test_training_takes_no_fresh_memory(replayed, monkeypatch):
    """The system counts a page fault for each page of 4 KiB that is touched for the first time."""
    if not replayed:
        monkeypatch.setattr(cpu_graph.Graph, "MOST", 0)
    resource = pytest.importorskip("resource")
    shelf = CountingShelf()
    monkeypatch.setattr(memory, "_shelf", shelf)

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    x, y = photos(32, 64)
    with using("numba"):
        model = fish()
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
        for _ in range(4):
            model.train_on_batch(x, y)
        fresh, before = shelf.fresh, faults()
        for _ in range(30):
            model.train_on_batch(x, y)
    assert shelf.fresh == fresh > 0
    assert replayed or memory.idle() > MIB
    assert faults() - before < 30 * 16, "a step works on 12 MiB, which are 3,000 pages"
