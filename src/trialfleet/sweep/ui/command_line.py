"""The command line as it was typed, for a person to type again."""

import re
import shlex
import sys
from collections.abc import Collection

from hydra.core.override_parser.types import Quote, QuotedString

from trialfleet.trial import secrets

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")  # which Hydra reads as the text that it is


def again(*more: str, left_out: Collection[str] = ()) -> str:
    """The command, without passwords in URLs.

    Args:
        more: overrides that replace those of the same keys.
        left_out: keys that are not said again.
    """
    keys = {*(text.partition("=")[0] for text in more), *left_out}
    words = [word for word in sys.orig_argv[1:] if word.partition("=")[0].lstrip("+") not in keys]
    return shlex.join(["python", *(secrets.masked(word) for word in words), *more])


def override(key: str, text: str) -> str:
    """What sets a key to this very text."""
    plain = _PLAIN.fullmatch(text)
    return f"{key}={text if plain else QuotedString(text=text, quote=Quote.single).with_quotes()}"
