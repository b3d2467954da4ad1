"""Ctrl-C and SIGTERM: never a lost result, and a choice where somebody is there to choose.

Once: no new trials, and a question: leave the jobs running, wait for them, or cancel them. Twice: leave at
once. Without a terminal both signals mean to leave: the jobs go on, the next driver takes them up.
"""

import select
import signal
import sys
import time
from types import FrameType

from trialfleet.sweep.stopping import Jobs, Stopping
from trialfleet.sweep.ui.live_table import LiveTable

QUESTION = (
    "interrupted: no new trials. Type a letter and Enter: [d]etach, leaving jobs running · [w]ait for them · "
    "[c]ancel them · [r]esume"
)

INTERRUPTED, CANCELLED = "interrupted", "the study was cancelled"


class Interrupts:
    """Turns signals and what is typed into requests to stop.

    They are heard for the length of a `with` block; `poll` is to be called between the driver's turns.

    Attributes:
        count: signals since the study was last to go on.
        last: the number of the latest of these; None without one.
    """

    def __init__(self, stopping: Stopping, terminal: LiveTable, interactive: bool) -> None:
        self._stopping = stopping
        self._terminal = terminal
        self._interactive = interactive
        self.count = 0
        self.last: int | None = None
        self._asking = False

    def __enter__(self) -> "Interrupts":
        self._old = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.last = number
        if not self._interactive or number == signal.SIGTERM or self.count > 1:
            self._stopping.ask("", Jobs.LEAVE)
        else:
            self._stopping.ask(INTERRUPTED, Jobs.FINISH)
            self._asking = True

    def poll(self) -> None:
        """Ask, and act on what was typed. Never waits: results are taken in meanwhile."""
        self._terminal.ask(QUESTION if self._asking else "")
        if not self._asking or not select.select([sys.stdin], [], [], 0)[0]:
            return
        answer = sys.stdin.readline().strip().lower()[:1]
        if answer == "d" or answer == "":
            self._stopping.ask("", Jobs.LEAVE)
        elif answer == "c":
            self._stopping.ask(CANCELLED, Jobs.CANCEL)
        elif answer == "r":
            self._stopping.withdraw(INTERRUPTED)
            self.count, self.last = 0, None
        elif answer != "w":
            return
        self._asking = False


def interruptible_sleep(interrupts: Interrupts, seconds: float) -> None:
    """Sleep that a signal cuts short, since PEP 475 would sleep on."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        interrupts.poll()
