"""Trials that no run of their own ends: a pruner, an exhausted retry, memory or a cancelled study does.

Each is committed as any result is, so that no job takes the trial up again and the driver's next look takes it in.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.memory_growth import MemoryGrowth
from trialfleet.sweep.reconcile import Action
from trialfleet.sweep.study.progress import CANCELLED
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import OUT_OF_MEMORY, Result, TrialState


@dataclass(frozen=True)
class ForcedEnds:
    """Ends trials from outside.

    Attributes:
        study: the study's uid.
        fleets: by launcher's name, for the jobs that are to leave.
        memory: says with how much memory a trial ran out of it.
        cancelled: trials that were, with their study.
    """

    study: str
    fleets: Mapping[str, Fleet]
    memory: MemoryGrowth
    cancelled: set[int] = field(default_factory=set)

    def prune(self, trial: ActiveTrial) -> None:
        self._commit(trial, TrialState.PRUNED, None)

    def give_up(self, trial: ActiveTrial, action: Action) -> None:
        """The trial's runs were lost too often, or it must not be tried again."""
        error = {"type": action.error, "message": action.reason, "traceback": trial.log_tail()}
        if trial.file_system_error is not None:
            error = trial.file_system_error
        if trial.ran_out_of_memory:
            error |= {"type": OUT_OF_MEMORY, "message": f"{self.memory.described(trial)}: {action.reason}"}
        self._commit(trial, TrialState.FAIL, error)

    def no_memory(self, trial: ActiveTrial, refusal: str) -> None:
        """The launcher has no place for a job with as much memory as the trial needs."""
        self._fail(trial, OUT_OF_MEMORY, f"{self.memory.described(trial)}: {refusal}")

    def too_large(self, trial: ActiveTrial, reason: str) -> None:
        """No device has room for the trial: it ends as one that ran out of memory, and no job was spent on it."""
        trial.write()  # the record that a submission would have written
        self._fail(trial, OUT_OF_MEMORY, reason)

    def cancel(self, trial: ActiveTrial, reason: str = "the study was cancelled") -> None:
        """Somebody cancelled the trial, or its study."""
        self._fail(trial, CANCELLED, reason)

    def cancel_all(
        self, trials: Collection[ActiveTrial], look: Callable[[ActiveTrial], AbstractContextManager[object]]
    ) -> None:
        """The study is cancelled: committed as failed by us first, so that no job takes a trial up again.

        Args:
            look: a block in which the trial's files may turn out not to be readable.
        """
        new = [trial for trial in trials if trial.number not in self.cancelled]
        for trial in new:
            with look(trial):
                self.cancel(trial)
                self.cancelled.add(trial.number)
        self.cancel_jobs([trial for trial in new if trial.number in self.cancelled])

    def cancel_jobs(self, trials: Iterable[ActiveTrial]) -> None:
        """Ask the launchers to end the jobs of these trials."""
        jobs = [trial.record.job for trial in trials if trial.record.job is not None]
        for name, fleet in self.fleets.items():
            fleet.cancel([job for job in jobs if job.launcher == name])

    def _fail(self, trial: ActiveTrial, kind: str, message: str) -> None:
        self._commit(trial, TrialState.FAIL, {"type": kind, "message": message, "traceback": ""})

    def _commit(self, trial: ActiveTrial, state: TrialState, error: dict[str, str] | None) -> None:
        trial.dir.commit(Result(state, None, error, {}, None, {}), Identity(self.study, trial.record.identity.params))
