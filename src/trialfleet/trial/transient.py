"""Errors of a file system that pass by themselves, and waiting for them to pass.

A network file system whose server restarts answers ESTALE or EIO for a while; a full disk is emptied. None of
them says anything about the trial that met it.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from trialfleet.trial import causes

T = TypeVar("T")

RECORD = "file_system.json"  # in a run's folder: a full disk or a failing file system ended the run, and its error
FULL = (errno.ENOSPC, errno.EDQUOT)
_PASSING = (
    errno.ESTALE,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ENOLCK,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNRESET,
    errno.ENFILE,
)
_SQLITE_FULL = "database or disk is full"
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0  # seconds between two tries; each pause is twice the one before


def is_full(error: BaseException) -> bool:
    """Whether an error is that of a full disk or quota, under whatever a library has made of it."""
    return _caused_by(error, FULL) or any(_SQLITE_FULL in causes.text(one) for one in causes.chain(error))


def passes(error: BaseException) -> bool:
    """Whether an error is one of the file system's that pass by themselves; a full disk is none of these."""
    return _caused_by(error, _PASSING)


def patiently(
    call: Callable[[], T],
    patience: float,
    give_up: Callable[[], bool] = lambda: False,
    waiting: Callable[[OSError], None] = lambda error: None,
) -> T:
    """Call `call`, and call it again with growing pauses while it meets errors that pass.

    Args:
        patience: seconds after which the error is raised after all.
        give_up: asked before each pause; true if there is no time to wait.
        waiting: is told of the first error that is waited for.

    Returns:
        what `call` returned.
    """
    deadline, pause, told = time.monotonic() + patience, FIRST_PAUSE, False
    while True:
        try:
            return call()
        except OSError as error:
            if not passes(error) or give_up() or time.monotonic() + pause > deadline:
                raise
            if not told:
                waiting(error)
                told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _caused_by(error: BaseException, numbers: tuple[int, ...]) -> bool:
    """Whether an OSError of one of these numbers is the error, its cause, or quoted in its text."""
    for cause in causes.chain(error):
        if causes.number(cause) in numbers:
            return True
        words = "" if isinstance(cause, OSError) else causes.text(cause)
        if any(os.strerror(number) in words for number in numbers):
            return True
    return False
