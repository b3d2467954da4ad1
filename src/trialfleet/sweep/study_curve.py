"""The study's own curves: how far it was after each trial, in progress.jsonl, from where MLflow gets them.

The file has the form of a trial's metrics.jsonl; its steps are trials that have ended.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.study.progress import NO_MEMORY, Finished
from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.metrics import CURVES
from trialfleet.trial.result import Result

if TYPE_CHECKING:
    from trialfleet.sweep.driver import Driver


class StudyCurve:
    """An observer that appends a point at each turn that brought ended trials; what no disk takes is left out.

    Args:
        folder: the study's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CURVES
        self._writer: metrics.Writer | None = None
        self._step = -1  # the last that the file has
        with contextlib.suppress(OSError):
            end = records.tail(self._path, 1)
            if end and end != "\n":  # a driver was killed in the middle of a line: it must not spoil the next one
                with open(self._path, "a") as file:
                    file.write("\n")
            self._writer = metrics.Writer(self._path)
            for raw in records.tail(self._path, 4096).encode().splitlines():
                with contextlib.suppress(ValueError):  # the first one may be cut
                    self._step = metrics.parse(raw).step

    def recovered(self, number: int, directory: TrialDir) -> None:
        """Nothing: an earlier driver told of it."""

    def started(self, trial: ActiveTrial) -> None:
        """Nothing: steps are trials that have ended."""

    def running(self, trial: ActiveTrial, label: str) -> None:
        """Nothing."""

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        """Nothing."""

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        """Nothing: it is counted when the turn is over."""

    def best(self, front: Sequence[Finished]) -> None:
        """Nothing."""

    def notice(self, message: str) -> None:
        """Nothing."""

    def tick(self, driver: "Driver") -> None:
        """Append a point if trials have ended since the last one."""
        done = driver.progress.finished
        if self._writer is None or done <= self._step or done == 0:
            return
        self._step = done
        with contextlib.suppress(OSError):
            self._writer.append(done, _values(driver))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _values(driver: "Driver") -> dict[str, float]:
    progress = driver.progress
    states = progress.states
    values = {
        "study/done": progress.finished,
        "study/complete": states["COMPLETE"],
        "study/pruned": states["PRUNED"],
        "study/failed": states["FAIL"] + states[NO_MEMORY],
        "study/device_hours": driver.account.device_seconds / 3600,
    }
    if driver.in_flight:  # the last value is what tables show, and that all is over at the end is no news
        values["study/slots_in_use"] = driver.in_flight
        values["study/slot_use"] = driver.in_flight / max(1, driver.slots())
    if progress.front and len(progress.directions) == 1:
        values["study/best"] = (progress.front[0].values or [0.0])[0]
    elif progress.front:
        values["study/front"] = len(progress.front)
    return values
