"""Limits of a study besides its number of trials: hours on the wall, device-hours, and no more improvement."""

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from trialfleet.sweep.settings import Budget
from trialfleet.sweep.store import StudyStore
from trialfleet.tracking import records

SAVE_EVERY = 10.0  # seconds


@dataclass
class Account:
    """What a study has used, over all of its drivers, in budget.json.

    Attributes:
        path: of budget.json.
        devices: that each trial occupies.
        wall_seconds: during which a driver ran.
        device_seconds: of trials that are over.
    """

    path: Path
    devices: int
    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)
    _saved: float = 0.0
    _closed: bool = False

    @classmethod
    def open(cls, path: Path, devices: int) -> "Account":
        record = records.read(path) or {}
        return cls(path, devices, record.get("wall_seconds", 0.0), record.get("device_seconds", 0.0))

    def pass_time(self) -> None:
        """Count the time since the last call; written every few seconds."""
        now = time.monotonic()
        self.wall_seconds += now - self._last
        self._last = now
        if now - self._saved > SAVE_EVERY:
            self.save()

    def trial_over(self, seconds: float | None) -> None:
        self.device_seconds += (seconds or 0.0) * self.devices

    def close(self) -> None:
        """Write nothing more: the study is another driver's now."""
        self._closed = True

    def save(self) -> None:
        if self._closed:
            return
        self._saved = time.monotonic()
        records.write(self.path, {"wall_seconds": self.wall_seconds, "device_seconds": self.device_seconds})


def exceeded(budget: Budget, account: Account, running_seconds: float) -> str:
    """Which limit is reached, in words; empty if none.

    Args:
        running_seconds: sum over the trials that run now.
    """
    if budget.wall_hours is not None and account.wall_seconds >= 3600 * budget.wall_hours:
        return f"the study's wall time is used up (hydra.sweeper.budget.wall_hours={budget.wall_hours})"
    used = account.device_seconds + running_seconds * account.devices
    if budget.device_hours is not None and used >= 3600 * budget.device_hours:
        return f"the study's device-hours are used up (hydra.sweeper.budget.device_hours={budget.device_hours})"
    return ""


def stagnated(budget: Budget, store: StudyStore) -> str:
    """Whether Optuna's terminator would stop: no better value in the last `no_improvement` complete trials."""
    if budget.no_improvement is None or not any(t.state.name == "COMPLETE" for t in store.trials()):
        return ""
    from optuna.terminator import BestValueStagnationEvaluator, StaticErrorEvaluator, Terminator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # chosen by the user, by name
        terminator = Terminator(
            improvement_evaluator=BestValueStagnationEvaluator(budget.no_improvement),
            error_evaluator=StaticErrorEvaluator(0),
            min_n_trials=budget.no_improvement,
        )
        stop = terminator.should_terminate(store.study)
    return f"no improvement in {budget.no_improvement} trials (hydra.sweeper.budget.no_improvement)" if stop else ""
