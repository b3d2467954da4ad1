"""Ctrl-C and SIGTERM: never a lost result, and a choice where somebody is there to choose.

Dedup: no new trials, and a question: leave the jobs running, wait for them, or cancel them. Twice: leave at
once. Without a terminal both signals mean to leave: the jobs go on, the next driver takes them up.
"""

import select
import signal
import sys
import time
from types import FrameType

from trialfleet.sweep.driver import Driver
from trialfleet.sweep.ui.live_table import LiveTable

QUESTION = "interrupted: no new trials. [d]etach, leaving jobs running · [w]ait for them · [c]ancel them · [r]esume"

INTERRUPTED = "interrupted"


class Interrupts:
    """Installed for the length of a `with` block; `poll` is to be called between the driver's looks."""

    def __init__(self, driver: Driver, terminal: LiveTable, interactive: bool) -> None:
        self._driver = driver
        self._terminal = terminal
        self._interactive = interactive
        self._count = 0
        self._asking = False

    def __enter__(self) -> "Interrupts":
        self._old = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if not self._interactive or number == signal.SIGTERM or self._count > 1:
            self._driver.detach = True
        else:
            self._driver.stop_asking = self._driver.stop_asking or INTERRUPTED
            self._asking = True

    def poll(self) -> None:
        """Ask, and act on what was typed. Never waits: results are taken in meanwhile."""
        self._terminal.question = QUESTION if self._asking else ""
        if not self._asking or not select.select([sys.stdin], [], [], 0)[0]:
            return
        answer = sys.stdin.readline().strip().lower()[:1]
        if answer == "d" or answer == "":
            self._driver.detach = True
        elif answer == "c":
            self._driver.cancel()
        elif answer == "r":
            if self._driver.stop_asking == INTERRUPTED:
                self._driver.stop_asking = ""
            self._count = 0
        elif answer != "w":
            return
        self._asking = False


def interruptible_sleep(interrupts: "Interrupts | None", seconds: float) -> None:
    """Sleep that a signal cuts short, since PEP 475 would sleep on."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        if interrupts is not None:
            interrupts.poll()
