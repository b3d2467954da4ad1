"""Trials whose files cannot be read for the moment: the others go on without them."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trialfleet.sweep.outages import FIRST_REST, LONGEST_REST, brief
from trialfleet.trial import transient


@dataclass
class _Rest:
    error: OSError
    since: float  # of the first error in a row
    length: float  # seconds
    until: float


class UnreadableTrials:
    """Each is named once, left alone for growing pauses, and looked at again.

    Args:
        notice_once: tells the user something, unless it was said.
    """

    def __init__(self, notice_once: Callable[[str], None]) -> None:
        self._notice_once = notice_once
        self._rests: dict[int, _Rest] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._rests

    def rests(self, number: int, now: float) -> bool:
        """Whether it is too early to look at the trial again."""
        rest = self._rests.get(number)
        return rest is not None and now < rest.until

    @contextmanager
    def look(self, number: int, folder: Path, now: float) -> Generator[None]:
        """A block that looks at one trial. An error of the trial's own files ends the block and nothing else."""
        try:
            yield
        except OSError as error:
            if transient.is_full(error) or not _is_inside(error, folder):
                raise
            before = self._rests.get(number)
            length = FIRST_REST if before is None else min(2 * before.length, LONGEST_REST)
            since = now if before is None else before.since
            self._rests[number] = _Rest(error, since, length, now + length)
            if before is None:
                self._notice_once(
                    f"{brief(error)}: trial {number} is left as it is until that passes; the others go on"
                )
        else:
            self._rests.pop(number, None)

    def overdue(self, now: float, patience: float) -> str | None:
        """Why one of them cannot be read, if each has been unreadable for `patience` seconds; else None."""
        rests = list(self._rests.values())
        if not rests or any(now - rest.since < patience for rest in rests):
            return None
        return f"{brief(rests[0].error)}: still so after {patience:.0f} s (hydra.sweeper.patience)"


def _is_inside(error: OSError, folder: Path) -> bool:
    """Whether the error is about a file in the folder, or the folder itself."""
    path = error.filename
    return isinstance(path, str | os.PathLike) and Path(os.path.abspath(path)).is_relative_to(folder)  # noqa: PTH100
