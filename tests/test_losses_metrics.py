"""Losses and metrics on numbers small enough to check by hand."""

import math

import numpy as np
import pytest

from tinycnn import losses, metrics
from tinycnn.errors import DataError, ShapeError, UsageError

LOG = {p: -math.log(p) for p in (0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9)}
BY_HAND = [
    ("binary_crossentropy", [1, 0], [[0.9], [0.2]], (LOG[0.9] + LOG[0.8]) / 2),
    ("binary_crossentropy", [[1], [0]], [[0.9], [0.2]], (LOG[0.9] + LOG[0.8]) / 2),
    ("binary_crossentropy", [True, False], [[0.9], [0.2]], (LOG[0.9] + LOG[0.8]) / 2),
    ("binary_crossentropy", [0.25], [[0.3]], 0.25 * LOG[0.3] + 0.75 * LOG[0.7]),
    ("binary_crossentropy", [[1, 0]], [[0.9, 0.2]], (LOG[0.9] + LOG[0.8]) / 2),
    ("binary_crossentropy", [1], [[0.0]], -math.log(1e-7)),
    ("binary_crossentropy", [0], [[1.0]], -math.log(2.0**-23)),  # 1 - 1e-7 in float32
    ("categorical_crossentropy", [[0, 1, 0], [1, 0, 0]], [[0.1, 0.6, 0.3], [0.2, 0.7, 0.1]], (LOG[0.6] + LOG[0.2]) / 2),
    ("categorical_crossentropy", [[0, 1]], [[1.0, 0.0]], -math.log(1e-7)),
    ("categorical_crossentropy", [[0, 1]], [[2.0, 6.0]], -math.log(0.75)),  # made to sum to 1 first, as in Keras
    ("sparse_categorical_crossentropy", [1, 0], [[0.1, 0.6, 0.3], [0.2, 0.7, 0.1]], (LOG[0.6] + LOG[0.2]) / 2),
    ("sparse_categorical_crossentropy", [[2]], [[0.1, 0.6, 0.3]], LOG[0.3]),
]


@pytest.mark.parametrize(("name", "y", "p", "expected"), BY_HAND)
def test_losses_by_hand(name, y, p, expected):
    loss = losses.get(name)(y, np.array(p, np.float32))
    assert isinstance(loss, float)
    assert loss == pytest.approx(expected, rel=1e-6 if expected < 15 else 0.02)


@pytest.mark.parametrize("z", [0.0, 3.0, -3.0, 30.0, -30.0, 80.0])
def test_losses_of_logits_stay_exact_where_probabilities_round(z):
    exact = math.log1p(math.exp(-z))  # of the label 1
    y = np.array([[z]], np.float32)
    assert losses.BinaryCrossentropy(from_logits=True)([1], y) == pytest.approx(exact, rel=1e-5)
    two = np.array([[0, z]], np.float32)
    assert losses.CategoricalCrossentropy(from_logits=True)([[0, 1]], two) == pytest.approx(exact, rel=1e-5, abs=1e-9)


P1, P3 = np.full((2, 1), 0.5), np.full((2, 3), 0.5)
BAD = [
    ("binary_crossentropy", [0, 2], P1, DataError, "labels from 0 to 2; they must lie between 0 and 1"),
    ("binary_crossentropy", [-1, 1], P1, DataError, "labels from -1 to 1"),
    ("binary_crossentropy", [0, 1], P3, DataError, "labels of shape (2, 1) for a model with 3 outputs"),
    ("binary_crossentropy", [0, 1, 1], P1, ShapeError, "(2, 1) and (3, 1)"),
    ("binary_crossentropy", [0, math.nan], P1, DataError, "labels hold NaN or infinity"),
    ("binary_crossentropy", [0, math.inf], P1, DataError, "labels hold NaN or infinity"),
    ("binary_crossentropy", ["a", "b"], P1, DataError, "labels are no numbers"),
    ("categorical_crossentropy", [0, 1], P3, DataError, "labels of shape (2,) are not one-hot for 3 classes (N, 3)"),
    ("categorical_crossentropy", [[0, 1], [1, 0]], P3, DataError, "are not one-hot for 3 classes"),
    ("sparse_categorical_crossentropy", [0, 3], P3, DataError, "labels 0 to 3 for classes 0 to 2"),
    ("sparse_categorical_crossentropy", [-1, 1], P3, DataError, "labels -1 to 1 for classes 0 to 2"),
    ("sparse_categorical_crossentropy", [0, 0.5], P3, DataError, "are not one whole number each"),
    ("sparse_categorical_crossentropy", [[0, 1], [1, 0]], P3, DataError, "are not one whole number each"),
    ("sparse_categorical_crossentropy", 1, P3, DataError, "labels of shape ()"),
]


@pytest.mark.parametrize(("name", "y", "p", "error", "words"), BAD)
def test_labels_that_do_not_fit_are_refused(name, y, p, error, words):
    with pytest.raises(error) as caught:
        losses.get(name)(y, p)
    assert words in str(caught.value)


def test_losses_by_name_and_by_themselves():
    for name, kind in losses.LOSSES.items():
        assert type(losses.get(name)) is kind
        mine = kind(from_logits=True)
        assert losses.get(mine) is mine
    with pytest.raises(UsageError, match="loss 'hinge' is unknown; use one of binary_crossentropy"):
        losses.get("hinge")


ACCURACY = [
    ([0, 1, 1, 0], [[0.2], [0.9], [0.4], [0.5]], 3 / 4),  # 0.5 counts as class 0, as in Keras
    ([[0], [1], [1], [0]], [[0.2], [0.9], [0.4], [0.5]], 3 / 4),
    ([0, 2, 1], [[5, 1, 0], [0, 1, 2], [3, 3, 3]], 2 / 3),  # a tie goes to the first class
    ([[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[5, 1, 0], [0, 1, 2], [3, 3, 3]], 2 / 3),
    ([[0], [1]], [[0.9, 0.1], [0.2, 0.8]], 1),
]


@pytest.mark.parametrize(("y", "p", "expected"), ACCURACY)
def test_accuracy(y, p, expected):
    value = metrics.accuracy(np.array(y), np.array(p))
    assert isinstance(value, float)
    assert value == pytest.approx(expected)
    with pytest.raises(ShapeError, match="labels for"):
        metrics.accuracy(np.array(y), np.array(p)[:-1])


def test_the_threshold_moves_the_line():
    p = np.array([[0.2], [0.5], [0.8]])
    assert metrics.predicted_classes(p).tolist() == [0, 0, 1]
    assert metrics.predicted_classes(p, 0.1).tolist() == [1, 1, 1]
    assert metrics.predicted_classes(p, 0.8).tolist() == [0, 0, 0]


def test_the_confusion_matrix_precision_and_recall():
    true, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    matrix = metrics.confusion_matrix(true, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    precision, recall = metrics.precision_and_recall(matrix)
    np.testing.assert_allclose(precision, [2 / 4, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(recall, [2 / 3, 1 / 2, 0, np.nan])


def test_accuracy_takes_lists():
    assert metrics.accuracy([1, 0, 1], np.array([[0.9], [0.2], [0.1]])) == pytest.approx(2 / 3)
