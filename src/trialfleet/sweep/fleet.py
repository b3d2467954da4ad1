"""What the driver asks of a launcher's jobs: start these, what are they doing, where is that one, stop them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from trialfleet.sweep.reconcile import Job
from trialfleet.tracking.submission import JobRef


class Busy(Exception):
    """The launcher takes no more jobs now (a limit, a controller that is away). Nothing was submitted."""


class MaybeSubmitted(Exception):
    """The launcher did not answer: the jobs may have been submitted or not. `find` will tell."""


class Interrupted(Exception):
    """Somebody interrupted a launcher that blocks. Its trials did not end."""


class Fleet(ABC):
    """The jobs of one launcher."""

    limit: int  # jobs in flight at most

    @abstractmethod
    def submit(self, submission: Path, uuid: str, count: int) -> list[JobRef]:
        """Start the `count` elements of a submission, at once.

        Raises:
            Busy: nothing was submitted, try again later.
            MaybeSubmitted: no answer in time.
            Interrupted: by the user; only from launchers that block.
            UserError: the launcher refuses for a reason that stays.
        """

    @abstractmethod
    def refresh(self) -> bool:
        """Ask once for the state of all jobs. False if it cannot be told now: all that was known stands."""

    @abstractmethod
    def phase(self, job: JobRef) -> Job:
        """What the job was doing at the last refresh."""

    @abstractmethod
    def find(self, uuid: str, index: int) -> JobRef | None:
        """The job of a submission's element as of the last refresh, if there is one."""

    def why(self, job: JobRef) -> str:
        """The launcher's word on a job: why it waits, how it ended. Empty if it has none."""
        return ""

    def timed_out(self, job: JobRef) -> bool:
        """Whether the job ended by its time limit."""
        return False

    def cancelled(self, job: JobRef) -> bool:
        """Whether the launcher says that somebody cancelled the job."""
        return False

    def exclude(self, node: str) -> None:  # noqa: B027  # most launchers have one node
        """Give no more jobs to a node."""

    @abstractmethod
    def cancel(self, jobs: Sequence[JobRef]) -> None:
        """End jobs. Those that are over already are none of its business."""
