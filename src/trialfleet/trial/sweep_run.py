"""The `Run` of a trial's job, and that of a single training: the same reporting, other reasons to stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trialfleet.trial import metrics, records, transient
from trialfleet.trial.claim import Claim
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.run import Stop

Signalled = Callable[[], bool]  # whether a signal asked this process to save and leave
PATIENCE = 60.0  # seconds for which a report waits for a file system to come back
NOTES = "notes*.json"  # in a run's folder: what processes noted that the trial's own process has started, one file each
PREEMPTED = "preempted"  # in a run's folder: its process was asked to save and leave, which concerns its children, too


def merged(notes: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Notes with later ones, which replace those of the same name; mappings are put together."""
    both = dict(notes)
    for name, value in more.items():
        old = both.get(name)
        both[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return both


class LocalRun:
    """A run that answers to signals alone: a single training in its own output directory."""

    def __init__(
        self, directory: Path, signalled: Signalled = lambda: False, earlier_checkpoints: Sequence[Path] = ()
    ) -> None:
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.artifacts = directory / "artifacts"
        self.earlier_checkpoints: Sequence[Path] = list(earlier_checkpoints)
        self.notes: dict[str, Any] = {}
        self._signalled = signalled
        self._metrics = metrics.Writer(directory / "metrics.jsonl")

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        transient.patiently(lambda: self._metrics.append(step, values, steps), PATIENCE)

    def stop(self) -> Stop | None:
        return Stop.PREEMPT if self._signalled() else None

    def note(self, **entries: Any) -> None:
        """Whatever JSON has no form for is kept as its text, now: it must not stand in the way of the result later."""
        self.notes = merged(self.notes, records.plain(entries))

    def close(self) -> None:
        self._metrics.close()


class SweepRun(LocalRun):
    """A run of a trial: heeds the driver's verdict and newer runs of the same trial, too.

    Args:
        look_every: seconds between two looks at the trial's files, so that `stop` may be called at each step.

    Attributes:
        among_others: whether its process runs other trials, too: one that needs a process of its own gets it by
            raising `NotInThisProcess`.
    """

    def __init__(
        self, trial: TrialDir, claim: Claim, signalled: Signalled, look_every: float, among_others: bool = False
    ) -> None:
        self.among_others = among_others
        super().__init__(trial.run_dir(claim.label), signalled, _earlier_checkpoints(trial, claim))
        self._files = _TrialFiles(trial, claim, look_every)

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        super().report(step, values, steps)
        self._files.look_soon()  # a verdict follows a report

    def stop(self) -> Stop | None:
        return self._files.stop() or super().stop()


class _TrialFiles:
    """What a trial's files say about stopping, looked at only once in a while."""

    def __init__(self, trial: TrialDir, claim: Claim, look_every: float) -> None:
        self._trial = trial
        self._claim = claim
        self._look_every = look_every
        self._next_look = 0.0
        self._seen: Stop | None = None

    def look_soon(self) -> None:
        self._next_look = 0.0

    def stop(self) -> Stop | None:
        if self._seen is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._look_every
            self._seen = transient.patiently(self._look, PATIENCE)
        return self._seen

    def _look(self) -> Stop | None:
        if self._trial.ended(self._claim.identity) or self._trial.superseded(self._claim):
            return Stop.SUPERSEDED
        return Stop.PRUNE if self._trial.verdict() else None


def _earlier_checkpoints(trial: TrialDir, claim: Claim) -> list[Path]:
    """Those of the trial's runs before this one, the newest first."""
    earlier = [other for other in trial.claims_of(claim.identity) if claim.newer_than(other)]
    return [trial.run_dir(other.label) / "checkpoints" for other in reversed(earlier)]


class FollowerRun:
    """What the other processes of a run get: they report nothing and hear of stops from process 0's trainer.

    Only process 0 claims, reports and commits; the trainer agrees with all processes on the step to stop at.
    """

    def __init__(self, trial: TrialDir, claim: Claim, signalled: Signalled, look_every: float) -> None:
        self.directory = trial.run_dir(claim.label)
        self.checkpoints = self.directory / "checkpoints"
        self.artifacts = self.directory / "artifacts"
        self.earlier_checkpoints: Sequence[Path] = _earlier_checkpoints(trial, claim)
        self._signalled = signalled
        self._files = _TrialFiles(trial, claim, look_every)

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        """Nothing: process 0 reports."""

    def stop(self) -> Stop | None:
        return Stop.PREEMPT if self._signalled() else None

    def stop_by_files(self) -> Stop | None:
        """What the trial's files say, for an application whose processes have no way to ask process 0."""
        return self._files.stop()

    def note(self, **entries: Any) -> None:
        """Nothing: process 0 keeps the record."""
