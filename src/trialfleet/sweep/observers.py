"""Who hears what happens to trials: the terminal, and MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.study.progress import Finished
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result

if TYPE_CHECKING:
    from trialfleet.sweep.driver import Driver


class Observer(Protocol):
    """One of them. Calls must return at once."""

    def recovered(self, number: int, directory: TrialDir) -> None: ...  # was told before this driver
    def started(self, trial: ActiveTrial) -> None: ...
    def running(self, trial: ActiveTrial, label: str) -> None: ...
    def retried(self, trial: ActiveTrial, reason: str) -> None: ...
    def ended(self, trial: ActiveTrial, result: Result) -> None: ...
    def best(self, front: Sequence[Finished]) -> None: ...
    def notice(self, message: str) -> None: ...
    def tick(self, driver: "Driver") -> None: ...


@dataclass
class Observers:
    """All of them, as one observer."""

    members: list[Observer]
    _told: set[str] = field(default_factory=set)

    def recovered(self, number: int, directory: TrialDir) -> None:
        for member in self.members:
            member.recovered(number, directory)

    def started(self, trial: ActiveTrial) -> None:
        for member in self.members:
            member.started(trial)

    def running(self, trial: ActiveTrial, label: str) -> None:
        for member in self.members:
            member.running(trial, label)

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        for member in self.members:
            member.retried(trial, reason)

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        for member in self.members:
            member.ended(trial, result)

    def best(self, front: Sequence[Finished]) -> None:
        for member in self.members:
            member.best(front)

    def notice(self, message: str) -> None:
        for member in self.members:
            member.notice(message)

    def notice_once(self, message: str, about: str = "") -> None:
        """Say it once for each `about`, which is the message itself if nothing else is given."""
        if (about or message) not in self._told:
            self._told.add(about or message)
            self.notice(message)

    def tick(self, driver: "Driver") -> None:
        for member in self.members:
            member.tick(driver)
