"""Signals that reach a job: each sets a flag, which the run looks at.

Imports next to nothing, since it comes before all else.
"""

import contextlib
import os
import signal
import time
from types import FrameType

STARTED = time.monotonic()  # about when the process began
received: list[int] = []
marker: list[str] = []  # a file that is made when a signal comes, by which the process's children hear of it


def _flag(number: int, frame: FrameType | None) -> None:
    received.append(number)
    for path in marker:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def install() -> None:
    """First of all, before the slow imports: a signal that comes during them must not kill the job."""
    signal.signal(signal.SIGTERM, _flag)
    signal.signal(signal.SIGUSR2, _flag)
    signal.signal(signal.SIGCONT, lambda number, frame: None)  # Slurm sends it along with the others
