"""The errors that a person reads: they name the key or file, what is wrong and what to do."""

import difflib
from collections.abc import Iterable


class ShownError(Exception):
    """Shown as a short message without a traceback.

    Args:
        message: what is wrong, naming the key or file.
        fix: what to do about it; shown on a line of its own.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class UserError(ShownError):
    """Something that the user can put right."""


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean …?', if one of the known names is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
