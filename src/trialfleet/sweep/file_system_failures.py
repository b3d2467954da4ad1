"""Runs that a full disk or a failing file system ended, elsewhere than in the study's folder: tried again for a while.

A node's scratch disk or the file system of a data set is nothing that the driver can look at. It can only start the
trial again, after a pause, until its patience is over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.reconcile import JobState

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a trial's next run; each pause is twice the one before


@dataclass
class FileSystemFailures:
    """What the driver does about them.

    Attributes:
        patience: seconds from a trial's first such end on, for which they do not count against max_retries.
        notice: tells the user something, once for each of its second arguments.
    """

    patience: float
    notice: Callable[[str, str], None]
    _since: dict[int, float] = field(default_factory=dict)  # trial → its first such end in a row, on the driver's clock
    _over: set[int] = field(default_factory=set)  # trials whose last end came when there was no patience left

    def forgiven(self, trial: ActiveTrial, now: float) -> int:
        """How many of the trial's fruitless runs do not count. What is judged is an end: a run that goes on is let."""
        if not trial.file_system_failures:
            self._since.pop(trial.number, None)
            self._over.discard(trial.number)
            return 0
        since = self._since.setdefault(trial.number, now)
        if trial.phase is JobState.OVER and now - since >= self.patience:
            self._over.add(trial.number)
        return 0 if trial.number in self._over else trial.file_system_failures

    def rest(self, trial: ActiveTrial, now: float) -> str | None:
        """Let a trial that is started again wait for its turn, if its last run ended so.

        Returns:
            why it is started again, in words; None if its last run ended otherwise.
        """
        if trial.file_system_error is None:
            return None
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(trial.file_system_failures - 1, 30))
        trial.not_before = now + pause
        said = trial.file_system_error["message"]
        self.notice(
            f"trial {trial.number}: {said}: such runs are tried again with growing pauses, "
            f"for {self.patience:.0f} s (hydra.sweeper.patience)",
            "runs that a full disk or a failing file system ended",
        )
        return said
