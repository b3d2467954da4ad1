"""The study that the driver's cost is measured on: the loss and length of its jobs are functions of their trial."""

from typing import Any

from trialfleet.sweep.clock import Clock
from trialfleet.sweep.fleets.simulated import LAUNCHER as LAUNCHER
from trialfleet.sweep.fleets.simulated import SimulatedFleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.submission import JobRef

HOPELESS = 0.95  # trials with an x above this are bad from their first report on: a median pruner stops them
SPACE = ["x=interval(0.0,1.0)", "rate=tag(log,interval(1e-5,1e-1))", "layers=range(1,9)", "kind=choice(adam,lion,sgd)"]


def objective(params: dict[str, Any]) -> float:
    """What a trial with these parameters ends with."""
    return float((params["x"] - 0.3) ** 2 + params["layers"] / 100)


def values(params: dict[str, Any], step: int) -> dict[str, float]:
    """What it reports at a step."""
    return {"loss": 1.0 / step + (10.0 if params["x"] > HOPELESS else 0.0), "accuracy": 1.0 - 0.5 / step}


class MeasuredFleet(SimulatedFleet):
    """Jobs of this study.

    Args:
        reports: of each job.
        mean: length of a job in seconds of the fleet's clock; they last from half of it to one and a half.
        epoch: Unix seconds at which that clock begins.
    """

    def __init__(self, reports: int, mean: float, epoch: float) -> None:
        super().__init__(
            length=lambda params: mean * (0.5 + params["x"]),
            values=values,
            objectives=lambda params: [objective(params)],
            reports=reports,
            epoch=epoch,
        )

    def clock(self) -> Clock:
        """The driver's clock: whenever the driver sleeps, the jobs live on."""
        return Clock(now=lambda: self.now, sleep=lambda seconds: self.sleep(seconds))


class RunningFleet(MeasuredFleet):
    """For a driver that takes a study up: the jobs of the one before run on, and do nothing."""

    def phase(self, job: JobRef) -> JobState:
        return JobState.RUNNING
