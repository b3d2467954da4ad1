"""Time as a driver sees it; replaced in simulations."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Clock:
    """The time, and waiting for it.

    Attributes:
        now: seconds on a clock that never goes back.
        sleep: rest for so many seconds.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
