"""When a study starts no more trials by its own settings: failures, stagnation, a budget that is used up."""

from collections.abc import Callable, Collection

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.study import budget
from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.sweep.sweeper_settings import Settings


class StopRules:
    """Looks at what has happened, and asks for a stop.

    Args:
        account: of the budget.
        stop: asks for it; given the reason, and whether the study has failed by it.
    """

    def __init__(
        self,
        settings: Settings,
        account: budget.Account,
        progress: StudyProgress,
        store: StudyStorage,
        stop: Callable[[str, bool], None],
    ) -> None:
        self._settings = settings
        self._account = account
        self._progress = progress
        self._store = store
        self._stop = stop

    def taken_up(self, n_trials: int) -> None:
        """A driver has counted what there is: a study that is over may have failed."""
        rate = self._settings.max_failure_rate
        if self._progress.finished >= n_trials and self._progress.failed > rate * n_trials:
            failed = f"{self._progress.failed} of {n_trials} trials failed"
            self._stop(f"{failed}, more than max_failure_rate={rate} allows", True)

    def trial_ended(self, trial: Finished, n_trials: int) -> None:
        """A trial has ended, and is counted."""
        rate = self._settings.max_failure_rate
        if trial.error is not None and self._progress.failed > rate * n_trials:
            reason = (
                f"{self._progress.failed} trials failed, more than max_failure_rate={rate} of n_trials={n_trials} "
                f"allows; the last was trial {trial.number}: {trial.error}"
            )
            self._stop(reason, True)
        if reason := budget.stagnated(self._settings.budget, self._store):
            self._stop(reason, False)

    def time_passed(self, trials: Collection[ActiveTrial]) -> None:
        """The budget pays for another turn of these trials."""
        self._account.pass_time({trial.number: trial.ran for trial in trials})
        limits, running = self._settings.budget, 0.0
        if limits.device_hours is not None:
            running = sum(trial.seconds() or 0.0 for trial in trials if trial.phase is JobState.RUNNING)
        if reason := budget.exceeded(limits, self._account, running):
            self._stop(reason, False)
