"""Limits of a study besides its number of trials: hours on the wall, device-hours, and no more improvement."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.sweep.sweeper_settings import Budget
from trialfleet.trial import records
from trialfleet.trial.records import Damaged

SAVE_EVERY = 10.0  # seconds


@dataclass
class Account:
    """What a study has used, over all of its drivers, in budget.json.

    Attributes:
        path: of budget.json.
        devices: that each trial occupies.
        wall_seconds: during which a driver ran.
        device_seconds: of trials that are over.
        running: seconds of the runs of trials that are not over, by number and by the run's label, as last saved.
    """

    path: Path
    devices: int
    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    running: dict[int, dict[str, float]] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)
    _saved: float = 0.0
    _closed: bool = False

    @classmethod
    def open(
        cls, path: Path, devices: int, notice: Callable[[str], None], trial_seconds: Callable[[], float]
    ) -> "Account":
        """What budget.json says. A damaged one is set aside, and what the trials say of themselves stands in for it.

        Args:
            notice: tells the user of it.
            trial_seconds: the sum over all trials that are over, from their results.
        """
        try:
            record = records.read(path) or {}
            running = {int(number): _numbers(runs) for number, runs in record.get("running", {}).items()}
            spent = _numbers({key: record.get(key, 0.0) for key in ("wall_seconds", "device_seconds")})
            return cls(path, devices, **spent, running=running)  # type: ignore[arg-type]  # the two keys above
        except (Damaged, TypeError, ValueError, AttributeError) as damage:
            aside = records.set_aside(path)
            seconds = trial_seconds() * devices
            notice(
                f"{path} is damaged ({damage}) and was renamed to {aside.name}: the wall time used so far is lost, "
                f"of the device-hours {seconds / 3600:.2f} are known from the trials' results"
            )
            return cls(path, devices, 0.0, seconds)

    def pass_time(self, running: Mapping[int, Mapping[str, float]]) -> None:
        """Count the time since the last call; written every few seconds.

        Args:
            running: seconds of the runs of trials that are not over.
        """
        now = time.monotonic()
        self.wall_seconds += now - self._last
        self._last = now
        if now - self._saved > SAVE_EVERY:
            self.running = {number: dict(runs) for number, runs in running.items() if runs}
            self.save()

    def trial_over(self, number: int, seconds: float | None) -> None:
        self.device_seconds += (seconds or 0.0) * self.devices
        self.running.pop(number, None)

    def close(self) -> None:
        """Write nothing more: the study is another driver's now."""
        self._closed = True

    def save(self) -> None:
        if self._closed:
            return
        self._saved = time.monotonic()
        record: dict[str, Any] = {"wall_seconds": self.wall_seconds, "device_seconds": self.device_seconds}
        records.write(self.path, {**record, "running": {str(number): runs for number, runs in self.running.items()}})


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Raises:
    TypeError, ValueError: an entry is no number of seconds.
    """
    numbers = {str(key): records.number(value) for key, value in record.items()}
    if not all(0 <= number < float("inf") for number in numbers.values()):
        raise ValueError(f"not seconds: {numbers}")
    return numbers


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


def stagnated(budget: Budget, store: StudyStorage) -> str:
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
