"""How often the clips of each class are seen in an epoch."""

import numpy as np

from trialfleet.config.mvfoul import ClassBalance, ClassBalanced, NoBalance, Progressive


def rows(
    balance: ClassBalance, severity: np.ndarray, action: np.ndarray, epoch: int, rng: np.random.Generator
) -> np.ndarray:
    """The rows of an epoch in random order.

    A class whose factor is 1 has each of its clips once; the clips of others are drawn with replacement.

    Args:
        severity, action: the class of each row (N,).
    """
    if isinstance(balance, NoBalance):
        return rng.permutation(len(severity))
    labels = _labels(balance, severity, action, epoch)
    chosen = []
    for label, factor in zip(*factors(balance, labels, epoch), strict=True):
        own = np.flatnonzero(labels == label)
        chosen.append(own if factor == 1 else rng.choice(own, round(len(own) * factor)))
    return rng.permutation(np.concatenate(chosen))


def size(balance: ClassBalance, severity: np.ndarray, action: np.ndarray, epoch: int) -> int:
    """How many rows there are in an epoch, without drawing them."""
    if isinstance(balance, NoBalance):
        return len(severity)
    labels = _labels(balance, severity, action, epoch)
    counts = np.unique(labels, return_counts=True)[1]
    return sum(
        int(count) if factor == 1 else round(int(count) * factor)
        for count, factor in zip(counts, factors(balance, labels, epoch)[1], strict=True)
    )


def _labels(balance: ClassBalanced | Progressive, severity: np.ndarray, action: np.ndarray, epoch: int) -> np.ndarray:
    """The classes that are balanced in an epoch."""
    by_action = balance.by == "action" or (balance.by == "alternating" and epoch % 2 == 1)
    return action if by_action else severity


def factors(balance: ClassBalance, labels: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes that there are, and how many times its number of clips each is seen with."""
    classes, counts = np.unique(labels, return_counts=True)
    match balance:
        case ClassBalanced(oversample_factor=factor):
            return classes, np.minimum(factor, counts.max() / counts)
        case Progressive():
            factor = progressive_factor(balance, epoch)
            return classes, np.asarray([_progressive(count / counts.max(), factor) for count in counts])
        case _:
            return classes, np.ones(len(classes))


def progressive_factor(balance: Progressive, epoch: int) -> float:
    """start + (1 - (1 - p)^2)(oversample - start), where p is the share of `duration_epochs` that has passed."""
    passed = min(epoch / balance.duration_epochs, 1.0)
    return balance.start_factor + (1 - (1 - passed) ** 2) * (balance.oversample_factor - balance.start_factor)


def _progressive(ratio: float, factor: float) -> float:
    """The factor of a class that is `ratio` times as frequent as the most frequent one."""
    if ratio >= 0.8:
        return 1.0
    if ratio >= 0.4:  # in between: a little more, to 1.1 times the majority at most
        return min(1 + 0.2 * (factor - 1), 1.1 / ratio)
    return min(1 + (factor - 1) * (0.5 + 0.3 * (1 - ratio) / 0.6), 2.1)
