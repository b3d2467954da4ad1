"""Signals that reach a job: each sets a flag, which the run looks at.

Imports next to nothing, since it comes before all else.
"""

import signal
import time
from types import FrameType

STARTED = time.monotonic()  # about when the process began
received: list[int] = []


def _flag(number: int, frame: FrameType | None) -> None:
    received.append(number)


def install() -> None:
    """First of all, before the slow imports: a signal that comes during them must not kill the job."""
    signal.signal(signal.SIGTERM, _flag)
    signal.signal(signal.SIGUSR2, _flag)
    signal.signal(signal.SIGCONT, lambda number, frame: None)  # Slurm sends it along with the others
