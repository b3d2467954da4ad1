"""Why a study starts no more trials, and what becomes of the jobs that run."""

from dataclasses import dataclass
from enum import IntEnum


class Jobs(IntEnum):
    """What becomes of jobs that run when their study stops. A later request counts if it asks for more."""

    FINISH = 1  # they are waited for
    CANCEL = 2  # they are cancelled, and their trials told as failed
    LEAVE = 3  # they run on without a driver: the next one takes them up


@dataclass(frozen=True)
class StopRequest:
    """A request to stop.

    Attributes:
        reason: to show, in words; may be empty if a person asked for it.
    """

    reason: str
    jobs: Jobs


class Stopping:
    """The requests to stop that were made of a driver.

    Attributes:
        request: the one that counts; None while the study goes on.
        failure: why the study has failed; empty if it has not.
    """

    def __init__(self) -> None:
        self.request: StopRequest | None = None
        self.failure = ""

    @property
    def reason(self) -> str:
        """Why no more trials are started; empty while they are."""
        return "" if self.request is None else self.request.reason or "stopped"

    @property
    def leaves(self) -> bool:
        """Whether the driver is to go at once."""
        return self.request is not None and self.request.jobs is Jobs.LEAVE

    def ask(self, reason: str, jobs: Jobs, failed: bool = False) -> None:
        """Ask for a stop. Only sets attributes, so that a signal's handler may call it."""
        if failed and not self.failure:
            self.failure = reason
        if self.request is None or jobs > self.request.jobs:
            self.request = StopRequest(reason, jobs)

    def withdraw(self, reason: str) -> None:
        """Take back the request that was made for this reason, if it is the one that counts."""
        if self.request is not None and self.request.reason == reason:
            self.request = StopRequest(self.failure, Jobs.FINISH) if self.failure else None
