"""The observer that keeps the index of ended trials (`study.index`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.study.index import IndexWriter
from trialfleet.sweep.study.progress import Finished
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result

if TYPE_CHECKING:
    from trialfleet.sweep.driver import Driver


class IndexObserver:
    """Adds each trial that has ended."""

    def __init__(self, writer: IndexWriter) -> None:
        self._writer = writer

    def recovered(self, number: int, directory: TrialDir) -> None:
        """Nothing: `IndexWriter.open` has seen to those."""

    def started(self, trial: ActiveTrial) -> None:
        """Nothing: what has not ended is read from its files."""

    def running(self, trial: ActiveTrial, label: str) -> None:
        """Nothing."""

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        """Nothing."""

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self._writer.ended(trial.number)

    def best(self, front: Sequence[Finished]) -> None:
        """Nothing: whoever reads the index finds the best."""

    def notice(self, message: str) -> None:
        """Nothing."""

    def tick(self, driver: "Driver") -> None:
        """Nothing."""
