"""Errors of the storage and of the file system that pass by themselves, and full disks: waited for, up to a limit."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from trialfleet.sweep.study.databases import storage_is_full, storage_is_transient
from trialfleet.trial import secrets, transient

FULL_DISK_PAUSE = 5.0  # seconds between two looks whether there is room again
FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds between two tries while something is away; each is twice the one before
ROOM = 1 << 16  # bytes that must fit on the disk


@dataclass
class Outages:
    """What the driver does about an error in the middle of a turn: it rests, then begins the turn again.

    Args:
        folder: of the study.
        patience: seconds for which errors that pass are waited for. A full disk is waited for without end.
        notice_once: tells the user something, unless it was said.

    Attributes:
        cut_off: whether the last turn ended in the middle. What was half done must be mended first.
    """

    folder: Path
    patience: float
    notice_once: Callable[[str], None]
    cut_off: bool = False
    _full: bool = False
    _since: float | None = None  # of an outage that is not over
    _rest: float = FIRST_REST
    _rest_until: float = 0.0

    def resting(self, now: float) -> bool:
        """Whether it is too early for another turn."""
        return now < self._rest_until

    def meet(self, error: Exception, now: float) -> str | None:
        """Take note of what ended a turn.

        Returns:
            None if it is to be waited for; why not, in words, if it has lasted for longer than anybody waits.

        Raises:
            Exception: `error`, if it is of another kind.
        """
        full = transient.is_full(error) or storage_is_full(error)
        if not full and not transient.passes(error) and not storage_is_transient(error):
            raise error
        self.cut_off, text = True, brief(error)
        if full:
            where = self.folder if transient.is_full(error) else "the database of hydra.sweeper.storage"
            self._full, self._rest_until = True, now + FULL_DISK_PAUSE
            self.notice_once(f"{text}: waiting for room in {where}")
            return None
        self._since = now if self._since is None else self._since
        if now - self._since >= self.patience:
            return f"{text}: still so after {self.patience:.0f} s (hydra.sweeper.patience)"
        self._rest_until, self._rest = now + self._rest, min(2 * self._rest, LONGEST_REST)
        self.notice_once(f"{text}: waiting until it passes, for {self.patience:.0f} s at most (hydra.sweeper.patience)")
        return None

    def check_room(self) -> None:
        """Raises:
        OSError: the disk was full at the last turn, and is full still.
        """
        if self._full:
            make_sure_of_room(self.folder)
        self._full = False

    def mended(self) -> None:
        """What was half done is put right."""
        self.cut_off = False

    def over(self) -> None:
        """A turn came to its end."""
        self._since, self._rest = None, FIRST_REST


def make_sure_of_room(folder: Path) -> None:
    """Write a little to the disk, and take it away again.

    Raises:
        OSError: the disk is full.
    """
    probe = folder / f".room-{uuid4().hex}"
    try:
        with open(probe, "wb") as file:
            file.write(b"\0" * ROOM)
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def brief(error: BaseException) -> str:
    """An error in one line, with the file that it is about, without passwords."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return secrets.masked(text)
