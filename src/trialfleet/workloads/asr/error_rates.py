"""How far texts that were read are from those that were said, by words and by characters."""

from collections.abc import Sequence
from typing import Any

import jiwer


def error_rates(said: Sequence[str], read: Sequence[str]) -> tuple[dict[str, float], list[Any]]:
    """Word and character error rates, and the alignment of each pair of texts.

    Args:
        said, read: in the form in which they are to be compared. Nothing said and nothing read is no error, each word
            that was read where none was said is an insertion.
    """
    words, characters = jiwer.process_words(list(said), list(read)), jiwer.process_characters(list(said), list(read))
    spoken = max(words.hits + words.substitutions + words.deletions, 1)  # without any: as jiwer has it
    rates = {
        "wer": words.wer,
        "cer": characters.cer,
        "insertions": words.insertions / spoken,
        "deletions": words.deletions / spoken,
        "substitutions": words.substitutions / spoken,
    }
    return rates, words.alignments
