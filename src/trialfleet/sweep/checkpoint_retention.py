"""Whose checkpoints stay: a study's best trials, and of each the run that brought its result."""

import shutil
from collections.abc import Sequence

from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.trial.directory import TrialDir


class CheckpointRetention:
    """Keeps the checkpoints of the `keep` best trials (None: of all), and those on a Pareto front.

    Args:
        progress: of the study, kept up to date by the driver.
    """

    def __init__(self, keep: int | None, progress: StudyProgress) -> None:
        self._keep = keep
        self._standings = progress
        self._best: list[Finished] = []

    def add(self, trial: Finished) -> list[int]:
        """Take a finished trial into account; the numbers of those whose checkpoints may go now."""
        if self._keep is None:
            return []
        if trial.state != "COMPLETE" or trial.values is None or not trial.feasible:
            return [trial.number]
        ranked = sorted([*self._best, trial], key=lambda one: self._standings.losses(one)[0])
        front = {one.number for one in self._standings.front} if len(self._standings.directions) > 1 else set()
        self._best = [one for place, one in enumerate(ranked) if place < self._keep or one.number in front]
        return [one.number for one in ranked if one not in self._best]


def drop_checkpoints(trial: TrialDir, but_of: Sequence[str] = ()) -> None:
    """Delete the checkpoints of a trial's runs, except of the runs named."""
    for label in trial.run_labels():
        checkpoints = trial.run_dir(label) / "checkpoints"
        if label not in but_of and checkpoints.exists():
            shutil.rmtree(checkpoints, ignore_errors=True)
