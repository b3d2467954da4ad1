"""How often a driver's threads take turns.

Beside the driver a thread sends results to MLflow, which keeps the interpreter busy for long. After each of its calls
to the file system the driver waits for its turn, which Python gives it five milliseconds later; a trial takes dozens of
such calls.
"""

import contextlib
import sys
from collections.abc import Iterator

SECONDS = 0.0005  # of a turn


@contextlib.contextmanager
def short() -> Iterator[None]:
    """A block in which whoever waits for a turn has it soon."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
