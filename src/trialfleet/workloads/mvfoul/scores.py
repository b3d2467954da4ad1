"""Scores of a classification with rare classes; they are those of scikit-learn."""

from collections.abc import Sequence

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (K, K): true class by row, predicted class by column."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def accuracy(table: np.ndarray) -> float:
    return float(np.trace(table) / max(table.sum(), 1))


def balanced_accuracy(table: np.ndarray) -> float:
    """The mean recall of the classes that there are."""
    there = table.sum(1) > 0
    return float((np.diag(table)[there] / table.sum(1)[there]).mean()) if there.any() else 0.0


def weighted_f1(table: np.ndarray) -> float:
    """The mean of the classes' F1, each weighted by the number of its examples."""
    hits, true, predicted = np.diag(table), table.sum(1), table.sum(0)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    return float((f1 * true).sum() / max(true.sum(), 1))


def prediction_entropy(table: np.ndarray) -> float:
    """The entropy of the predicted classes as a share of the largest there is: 0 if it is always the same one."""
    shares = table.sum(0) / max(table.sum(), 1)
    shares = shares[shares > 0]
    return abs(float(-(shares * np.log(shares)).sum() / np.log(len(table))))


def by_class(table: np.ndarray, names: Sequence[str]) -> list[dict[str, str | int | float]]:
    """What a confusion matrix says of each class: clips, how often it was predicted and was right, and three rates."""
    rows: list[dict[str, str | int | float]] = []
    for index, name in enumerate(names):
        hits, true, predicted = int(table[index, index]), int(table[index].sum()), int(table[:, index].sum())
        rows.append(
            {
                "class": name,
                "clips": true,
                "predicted": predicted,
                "hits": hits,
                "precision": round(hits / max(predicted, 1), 4),
                "recall": round(hits / max(true, 1), 4),
                "f1": round(2 * hits / max(true + predicted, 1), 4),
            }
        )
    return rows
