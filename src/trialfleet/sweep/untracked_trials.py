"""Trials unfinished in the study that nobody follows yet: an earlier driver's, and those that an error cut off."""

from collections.abc import Callable
from dataclasses import replace

from optuna.trial import FrozenTrial

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets import blocking
from trialfleet.sweep.study.consistency import with_claims
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.sweep.unreadable_trials import UnreadableTrials
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.submission import TrialRecord


class UntrackedTrials:
    """Each is followed from when its record can be read.

    Args:
        active_trial: makes what is followed, of a trial's id in the storage, its record and its folder.
        follow: follows it.
    """

    def __init__(
        self,
        study: StudyFolder,
        store: StudyStorage,
        proposer: Proposer,
        unreadable: UnreadableTrials,
        active_trial: Callable[[int, TrialRecord, TrialDir], ActiveTrial],
        follow: Callable[[ActiveTrial], None],
    ) -> None:
        self._study = study
        self._store = store
        self._proposer = proposer
        self._unreadable = unreadable
        self._active_trial = active_trial
        self._follow = follow
        self._ids: dict[int, int] = {}  # in the storage, by trial number

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, trial: FrozenTrial) -> None:
        """A trial of ours that runs, as the study says."""
        self._ids[trial.number] = self._store.id_of(trial)

    def look(self, now: float) -> None:
        """Follow those whose records can be read."""
        for number in list(self._ids):
            if not self._unreadable.rests(number, now):
                with self._unreadable.look(number, self._study.trial_dir(number).path, now):
                    self._track(number)

    def _track(self, number: int) -> None:
        trial_id, directory = self._ids[number], self._study.trial_dir(number)
        record = TrialRecord.read(directory.trial_json)
        if record is None:  # the driver died between asking and writing
            record = with_claims(self._proposer.complete(trial_id), directory)
            self._store.sync()
            record.write(directory.trial_json)
        if record.launcher == blocking.LAUNCHER and record.submission is not None and not _begun(record, directory):
            record = replace(record, submission=None, job=None)  # it was to run inside a driver that is gone
            record.write(directory.trial_json)
        trial = self._active_trial(trial_id, record, directory)
        trial.pruned = directory.verdict() is not None
        del self._ids[number]
        self._follow(trial)


def _begun(record: TrialRecord, directory: TrialDir) -> bool:
    """Whether the trial's present attempt was claimed."""
    return any(claim.attempt == record.attempt for claim in directory.claims_of(record.identity))
