"""Characters as labels of connectionist temporal classification, and back."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

BLANK = 0
ALPHABET = " abcdefghijklmnopqrstuvwxyz"  # label n stands for ALPHABET[n - 1]
CLASSES = len(ALPHABET) + 1


def encode(text: str) -> list[int]:
    """Labels of a text of lower-case letters and spaces."""
    return [ALPHABET.index(character) + 1 for character in text]


def decode(labels: Sequence[int] | np.ndarray) -> str:
    """The text of labels without blanks."""
    return "".join(ALPHABET[int(label) - 1] for label in labels)


def collapse(path: np.ndarray) -> str:
    """The text of a frame-by-frame path (T,): runs become one label, then blanks are taken out."""
    changed = np.concatenate([[True], path[1:] != path[:-1]]) if len(path) else np.zeros(0, bool)
    return decode(path[changed & (path != BLANK)])


def frames_needed(labels: Sequence[int]) -> int:
    """The shortest path that can say these labels: equal neighbours need a blank between them."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))
