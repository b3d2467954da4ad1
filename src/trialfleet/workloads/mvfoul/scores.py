"""Scores of a classification with rare classes, and a picture of its confusions."""

from collections.abc import Sequence

import numpy as np

_CELL = 44  # pixels of a picture's square
_MARGIN = 120


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


def picture(table: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """The confusion matrix as SVG; each row is shaded by the share of its class."""
    side = _MARGIN + _CELL * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side + 10}" height="{side + 10}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18" font-weight="bold">{title}: true by row, predicted by column</text>',
    ]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    for index, name in enumerate(names):
        middle = _MARGIN + _CELL * index + _CELL // 2
        parts.append(f'<text x="{_MARGIN - 6}" y="{middle + 4}" text-anchor="end">{name}</text>')
        parts.append(
            f'<text x="{middle}" y="{_MARGIN - 6}" transform="rotate(-45 {middle} {_MARGIN - 6})">{name}</text>'
        )
    for row, column in np.ndindex(table.shape):
        x, y, share = _MARGIN + _CELL * column, _MARGIN + _CELL * row, float(shares[row, column])
        light, ink = round(100 - 60 * share), "white" if share > 0.6 else "black"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="hsl(215 70% {light}%)" stroke="#ddd"/>'
            f'<text x="{x + _CELL // 2}" y="{y + _CELL // 2 + 4}" text-anchor="middle" fill="{ink}">'
            f"{table[row, column]}</text>"
        )
    return "\n".join([*parts, "</svg>\n"]).encode()
