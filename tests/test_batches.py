"""Whatever data comes as, it is numbered batches: the same ones in any order of asking."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import using
from tinycnn.kernels import threads

from tinycnn.batches import ArrayBatches, as_batches, in_turn, split_batch, validation_split
from tinycnn.errors import DataError, UsageError


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.integers(0, 5))
def test_every_pass_over_arrays_gives_every_sample_once_with_its_label(count, size, shuffle, seed):
    data = ArrayBatches(np.arange(count)[:, None], -np.arange(count), size, shuffle, seed)
    numbers = list(range(3 * len(data)))
    batches = {n: data.batch(n) for n in reversed(numbers)}
    assert len(data) == -(-count // size)
    for a_pass in range(3):
        mine = [batches[n] for n in numbers[a_pass * len(data) : (a_pass + 1) * len(data)]]
        x, y = (np.concatenate(parts) for parts in zip(*mine, strict=True))
        assert all(len(b[0]) == size for b in mine[:-1])
        assert (x[:, 0] == -y).all()
        assert sorted(-y) == list(range(count))
        assert shuffle or list(-y) == list(range(count))
        again = ArrayBatches(np.arange(count)[:, None], None, size, shuffle, seed)
        np.testing.assert_array_equal(again.batch(numbers[a_pass * len(data)])[0], mine[0][0])


def test_passes_and_seeds_have_orders_of_their_own():
    x = np.arange(50)[:, None]
    orders = {
        tuple(ArrayBatches(x, None, 50, True, seed).batch(number)[0][:, 0])
        for seed, number in itertools.product(range(3), range(3))
    }
    assert len(orders) == 9


class Sequence:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        if not 0 <= index < 3:
            raise IndexError(index)
        return index, -index


class Iterable:
    def __iter__(self):
        return iter([(0, 0), (1, -1), (2, -2)])


@pytest.mark.parametrize("data", [Sequence(), Iterable(), iter([(0, 0), (1, -1), (2, -2)])], ids=type)
def test_sequences_and_streams(data):
    batches = as_batches(data)
    assert [batches.batch(n) for n in range(3)] == [(0, 0), (1, -1), (2, -2)]
    if isinstance(data, Sequence):
        assert len(batches) == 3
        assert batches.batch(7) == (1, -1)
    else:
        with pytest.raises(UsageError, match="a generator has no length; say steps_per_epoch"):
            len(batches)
        with pytest.raises(DataError, match="the generator ended before batch 4; give fewer steps or an endless one"):
            batches.batch(3)


class Ahead:
    """Batches that are made ahead; it remembers which, in which thread, and how many threads their kernels get."""

    prepares_ahead = True

    def __init__(self, broken=None):
        self.broken, self.made, self.makers, self.teams = broken, [], set(), set()
        self.started = [threading.Event() for _ in range(9)]

    def batch(self, number):
        self.makers.add(threading.current_thread())
        self.teams.add(threads.workers(10**12, 10**6))
        self.started[number].set()
        if number == self.broken:
            raise DataError(f"batch {number} is broken")
        self.made.append(number)
        return number * 10


def test_a_batch_is_made_while_the_one_before_is_used(monkeypatch):
    monkeypatch.setattr(threads, "_limit", 4)
    data = Ahead()
    with using("numba"):
        for number, batch in enumerate(in_turn(data, range(5))):
            assert batch == number * 10
            assert number == 4 or data.started[number + 1].wait(timeout=60), "the next is on its way"
            assert len(data.made) <= number + 2, "no more than one ahead"
    assert data.made == [0, 1, 2, 3, 4]
    assert len(data.makers) == 1
    assert threading.current_thread() not in data.makers
    assert data.teams == {1}, "the cores belong to the batch in use"
    assert list(in_turn(Ahead(), [])) == []
    assert list(in_turn(Ahead(), [7])) == [70]


def test_an_error_comes_when_its_batch_is_due():
    batches = in_turn(Ahead(broken=2), range(5))
    assert [next(batches), next(batches)] == [0, 10]
    with pytest.raises(DataError, match="batch 2 is broken"):
        next(batches)


def test_whoever_stops_early_leaves_no_thread_behind():
    data = Ahead()
    batches = in_turn(data, range(9))
    assert next(batches) == 0
    batches.close()
    assert all(not maker.is_alive() for maker in data.makers)
    assert len(data.made) <= 2


def test_data_of_a_user_is_asked_in_the_thread_of_its_user():
    makers = []

    def generator():
        for number in range(3):
            makers.append(threading.current_thread())
            yield number, -number

    data = as_batches(generator())
    assert [batch[0] for batch in in_turn(data, range(3))] == [0, 1, 2]
    assert set(makers) == {threading.current_thread()}


def test_numbered_batches_are_taken_as_they_are():
    data = ArrayBatches(np.ones((2, 1)))
    assert as_batches(data) is data


def test_arrays_may_be_lists():
    x, y = as_batches([[1, 2], [3, 4], [5, 6]], [0, 1, 0], 2).batch(1)
    assert (x.tolist(), y.tolist()) == ([[5, 6]], [0])


@pytest.mark.parametrize("batch", [([[1]], [2]), [[[1]], [2]], (np.ones((1, 1)), np.array([2]))])
def test_a_batch_is_x_and_y(batch):
    x, y = split_batch(batch)
    assert (x.tolist(), y.tolist()) == ([[1]], [2])


@pytest.mark.parametrize("rest", [None, (None,), ()])
def test_a_batch_may_lack_labels(rest):
    images = np.ones((1, 1))
    x, y = split_batch(images if rest is None else (images, *rest))
    assert x.shape == (1, 1)
    assert y is None


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(10, 0.2, 8), (10, 0.25, 7), (3, 0.5, 1), (7, 0.1, 6), (32, 0.001, 31)]
)
def test_validation_is_cut_from_the_end_as_keras_cuts(count, share, kept):
    x = np.arange(count)[:, None]
    (x1, y1), (x2, y2) = validation_split(x, x[:, 0], share)
    assert len(x1) == len(y1) == kept
    assert np.concatenate([x1, x2]).tolist() == x.tolist()
    assert np.concatenate([y1, y2]).tolist() == x[:, 0].tolist()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: as_batches(np.ones((0, 2))), DataError, "x of shape (0, 2) holds no samples"),
        (lambda: as_batches(np.ones(3)), DataError, "x of shape (3,) holds no samples; it must be (samples, ...)"),
        (lambda: as_batches(np.ones((3, 1)), np.ones(2)), DataError, "x has 3 samples, y has shape (2,)"),
        (lambda: as_batches(np.ones((3, 1)), 5), DataError, "x has 3 samples, y has shape ()"),
        (lambda: as_batches(np.ones((3, 1)), None, 0), UsageError, "batch_size 0 is not at least 1"),
        (lambda: as_batches(5), DataError, "data of type int is no array, image iterator, sequence or generator"),
        (lambda: validation_split(np.ones(4), np.ones(4), 0.9), DataError, "of 4 samples leaves one part empty"),
        (lambda: validation_split(np.ones(4), np.ones(4), 1.0), UsageError, "validation_split 1.0 is not above 0"),
    ],
)
def test_data_that_cannot_be_used_is_refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
