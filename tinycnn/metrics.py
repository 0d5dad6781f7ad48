"""How good predictions are: accuracy for training, and the table that says which class is taken for which."""

import numpy as np

from .errors import ShapeError


def predicted_classes(y_pred: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The class of each row of probabilities: (N, 1) against the threshold, (N, CLASSES) by the largest."""
    return (y_pred[:, 0] > threshold).astype(int) if y_pred.shape[1] == 1 else y_pred.argmax(axis=1)


def true_classes(y_true: np.ndarray, outputs: int) -> np.ndarray:
    """The class of each label: numbers (N,) or (N, 1), or one-hot rows (N, outputs)."""
    y_true = y_true if hasattr(y_true, "ndim") else np.asarray(y_true)  # an array of a GPU stays there
    one_hot = y_true.ndim == 2 and y_true.shape[1] == outputs > 1
    return y_true.argmax(axis=1) if one_hot else y_true.reshape(len(y_true)).astype(int)


def accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The share of rows whose predicted class is the true one."""
    if len(y_true) != len(y_pred):
        raise ShapeError(f"accuracy: {len(y_true)} labels for {len(y_pred)} predictions")
    return (predicted_classes(y_pred) == true_classes(y_true, y_pred.shape[1])).mean()


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (CLASSES, CLASSES): row is the true class, column the predicted one."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


def precision_and_recall(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per class: of those predicted as it, the share that are it; of those that are it, the share found.

    NaN where a class was never predicted, or does not occur.
    """
    found = np.diag(matrix).astype(float)
    with np.errstate(invalid="ignore"):
        return found / matrix.sum(axis=0), found / matrix.sum(axis=1)


METRICS = {"accuracy": accuracy, "acc": accuracy}
