"""What the driver asks of a launcher's jobs: start these, what are they doing, where is that one, stop them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trialfleet.sweep.reconcile import Job
from trialfleet.tracking.submission import JobRef


class Busy(Exception):
    """The launcher takes no more jobs now (a limit, a controller that is away). Nothing was submitted."""


class MaybeSubmitted(Exception):
    """The launcher did not answer: the jobs may have been submitted or not. `find` will tell."""


class Interrupted(Exception):
    """Somebody interrupted a launcher that blocks. Its trials did not end."""


class Fleet(Protocol):
    """The jobs of one launcher. One conformance suite is passed by every implementation."""

    limit: int  # jobs in flight at most

    def submit(self, submission: Path, uuid: str, count: int) -> list[JobRef]:
        """Start the `count` elements of a submission, at once.

        Raises:
            Busy: nothing was submitted, try again later.
            MaybeSubmitted: no answer in time.
            Interrupted: by the user; only from launchers that block.
            UserError: the launcher refuses for a reason that stays.
        """
        ...

    def refresh(self) -> bool:
        """Ask once for the state of all jobs. False if it cannot be told now: all that was known stands."""
        ...

    def phase(self, job: JobRef) -> Job:
        """What the job was doing at the last refresh."""
        ...

    def find(self, uuid: str, index: int) -> JobRef | None:
        """The job of a submission's element as of the last refresh, if there is one."""
        ...

    def why(self, job: JobRef) -> str:
        """The launcher's word on a job: why it waits, how it ended. Empty if it has none."""
        ...

    def timed_out(self, job: JobRef) -> bool:
        """Whether the job ended by its time limit."""
        ...

    def cancelled(self, job: JobRef) -> bool:
        """Whether the launcher says that somebody cancelled the job."""
        ...

    def exclude(self, node: str) -> None:
        """Give no more jobs to a node."""
        ...

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        """End jobs. Those that are over already are none of its business."""
        ...
