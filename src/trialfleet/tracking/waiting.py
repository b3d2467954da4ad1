"""What is said while somebody waits for the last results to arrive in MLflow."""

import time
from collections.abc import Callable
from pathlib import Path

SLOW_SECONDS = 15.0  # after which it is said that MLflow is waited for, though it answers: new tables take less


class Waiting:
    """Called several times a second by `Exporter.flush`: says at once what the wait is for, and where the results are.

    Args:
        folder: which has all results.
        patience: seconds for which it is waited.
        say: shows a line.
        signals: how many have come; one that comes during the wait ends it.
        again: what sends the rest later.

    Attributes:
        away: why MLflow took nothing when it was last asked, or None.
    """

    def __init__(
        self,
        folder: Path,
        patience: float,
        say: Callable[[str], None],
        signals: Callable[[], int],
        again: str = "the same command",
    ) -> None:
        self.away: str | None = None
        self._folder = folder
        self._patience = patience
        self._say = say
        self._signals = signals
        self._again = again
        self._told: set[str] = set()
        self._began: tuple[float, int] | None = None

    def __call__(self, problem: str | None) -> bool:
        """Whether to go on waiting."""
        self.away = problem
        self._began = began, heard = self._began or (time.monotonic(), self._signals())
        why = problem or ("results are still on their way" if time.monotonic() - began > SLOW_SECONDS else None)
        if why is not None and why not in self._told:
            self._told.add(why)
            self._say(
                f"MLflow: {why}; all results are in {self._folder}; it is tried for {self._patience:.0f} s at most "
                f"(Ctrl-C ends that), and {self._again} sends the rest later"
            )
        return self._signals() == heard

    def in_vain(self, problem: str | None) -> str:
        """That not everything arrived, and why, if that was not said while it was waited for."""
        why = (problem if self.away is None else None) or "not everything arrived"
        return f"MLflow: {why}; {self._again} sends the rest"
