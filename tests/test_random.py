"""Random draws depend on their key alone, and a change of the keying, which changes every run, is noticed."""

import itertools

import numpy as np
import pytest

from tinycnn.random import generator

KEYS = [
    *itertools.product((0, 1, -1), ("shuffle", "weights"), (0, 1)),
    (0, "shuffle"), (0, "shuffle", 0, 0), (0, "shuffle", 0, 1), (0, "shuffle", 1, 0),
    (11, "shuffle", 1), (1, "shuffle", 11),
]  # fmt: skip


def test_first_values_of_a_key_stay():
    drawn = generator(7, "shuffle", 2, 5).integers(0, 2**32, 4)
    assert drawn.tolist() == [1693287984, 2101342394, 2156662020, 2610362012]
    assert generator(7, "shuffle", 2, 5).permutation(6).tolist() == [4, 1, 3, 5, 2, 0]


def test_each_key_draws_numbers_of_its_own():
    drawn = {key: generator(*key).integers(0, 2**63) for key in KEYS}
    assert len(set(drawn.values())) == len(KEYS)


@pytest.mark.parametrize("order", [1, -1])
def test_order_of_asking_and_the_global_state_do_not_matter(order):
    expected = {key: generator(*key).random() for key in KEYS}
    state = np.random.get_state()[1].copy()
    for key in KEYS[::order]:
        generator(*key).random(3)
        assert generator(*key).random() == expected[key]
    assert (np.random.get_state()[1] == state).all()


def test_number_types_of_a_key_do_not_matter():
    assert generator(np.int64(3), "x", np.uint8(4)).random() == generator(3, "x", 4).random()
