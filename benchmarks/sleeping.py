"""What a trial does that trains nothing: it sleeps, and says on the way what it is at."""

import time
from collections.abc import Iterator


def sleep_in_parts(length: float, reports: float) -> Iterator[int]:
    """Sleep so many seconds; so often in each of them, a step to report at.

    What is done with a step takes nothing of the sleep, as long as it is done before the next.
    """
    began, steps = time.monotonic(), round(length * reports)
    for step in range(steps):
        _sleep_until(began + (step + 1) * length / steps)
        yield step
    _sleep_until(began + length)


def _sleep_until(end: float) -> None:
    time.sleep(max(0.0, end - time.monotonic()))
