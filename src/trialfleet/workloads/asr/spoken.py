"""Texts as they are compared: as Whisper's own normaliser for English writes them."""

from functools import cache
from typing import Any


def normalized(text: str) -> str:
    """Lower case, without punctuation, abbreviations and numbers in one form; spaces are single."""
    written: str = _normalizer()(text)
    return written


@cache
def _normalizer() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer  # here: it reads tables, which not everybody needs

    return EnglishTextNormalizer()
