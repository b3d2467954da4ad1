"""How a command ends that a person got wrong: a short message, no traceback."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trialfleet.errors import UserError

INTERRUPTED = 130  # the exit code of what Ctrl-C ended, as shells have it


def shown(command: Callable[[], Any]) -> None:
    """Run a command; what the user can mend is said in words, unless HYDRA_FULL_ERROR asks for the traceback."""
    full = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
    try:
        with broken_off(full):
            command()
    except UserError as error:
        if full:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def broken_off(full: bool) -> Iterator[None]:
    """Exit in few words where a person stops what runs in here: by Ctrl-C, or by closing the pipe that reads it.

    Args:
        full: whether Ctrl-C is to show a traceback.
    """
    try:
        yield
        sys.stdout.flush()  # here, and not where Python ends and nobody catches what goes wrong
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        if full:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
