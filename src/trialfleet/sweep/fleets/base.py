"""What the driver asks of a launcher's jobs: start these, what are they doing, where is that one, stop them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.submission import JobRef

WORKER = "trialfleet.worker"  # the module that a job runs, with its submission as the only argument
# Output as it comes; and no imports from the folder where the job is started, which has today's code.
PYTHON_OPTIONS = ("-u", "-P")


class Busy(Exception):
    """The launcher takes no more jobs now. Nothing was submitted.

    Args:
        message: the launcher's words.
        limit: True for a limit of jobs, which lasts until some have ended; False for a refusal that may pass.
    """

    def __init__(self, message: str, limit: bool = True) -> None:
        super().__init__(message)
        self.limit = limit


class MaybeSubmitted(Exception):
    """The launcher did not answer: the jobs may have been submitted or not. `find` will tell."""


class TooMuchMemory(Exception):
    """The launcher has no place for a job that asks for more memory than those it took. Nothing was submitted."""


class Interrupted(Exception):
    """Somebody interrupted a launcher that blocks. Of its trials those that have no result did not run."""


def _unheard(message: str) -> None:
    """Nobody listens yet."""


def _unheard_report(number: int) -> None:
    """Nobody listens yet."""


class Fleet(ABC):
    """The jobs of one launcher.

    Attributes:
        limit: jobs in flight at most.
        at_hand: whether to ask for the state of jobs costs nobody anything: they are processes of this machine.
        blocks: whether jobs are over when `submit` returns, so that nothing is to be waited for after it.
        notice: tells the user something; the driver sets it.
        reported: of a trial that runs in the driver's own process: it has reported something; the driver sets it.
    """

    limit: int
    at_hand: bool = False
    blocks: bool = False
    notice: Callable[[str], None] = staticmethod(_unheard)
    reported: Callable[[int], None] = staticmethod(_unheard_report)

    def prepare(self) -> None:  # noqa: B027  # most launchers need nothing
        """Begin, before the first job is to start, what takes time and all of them need; returns at once."""

    def close(self) -> None:  # noqa: B027  # most launchers need nothing
        """Let go of what was prepared: no more jobs are started. Those that are there go on."""

    @abstractmethod
    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        """Start the `count` elements of a submission, at once.

        Args:
            memory: factor on the memory that the launcher asks for; without effect if it asks for none.

        Raises:
            Busy: nothing was submitted, try again later.
            MaybeSubmitted: no answer in time.
            Interrupted: by the user; only from launchers that block.
            TooMuchMemory: it takes jobs, but none that asks for so much memory.
            UserError: the launcher refuses for a reason that stays.
        """

    @abstractmethod
    def refresh(self) -> bool:
        """Ask once for the state of all jobs. False if it cannot be told now: all that was known stands."""

    def handles(self) -> Sequence[int]:
        """Descriptors of jobs that run, each of which can be read once its job has ended. They stay the fleet's."""
        return ()

    def job_ended(self) -> bool:
        """Whether the handles tell that a job has ended since the last refresh."""
        return False

    @abstractmethod
    def phase(self, job: JobRef) -> JobState:
        """What the job was doing at the last refresh."""

    @abstractmethod
    def find(self, uuid: str, index: int) -> JobRef | None:
        """The job of a submission's element as of the last refresh, if there is one."""

    def why(self, job: JobRef) -> str:
        """The launcher's word on a job: why it waits, how it ended. Empty if it has none."""
        return ""

    def node(self, job: JobRef) -> str:
        """The node where the launcher last saw the job, the first of several. Empty if it did not say."""
        return ""

    @abstractmethod
    def lives(self, job: JobRef) -> bool:
        """Whether anything of the job ran, or waited in line, at the last refresh. Does not begin to follow it."""

    def timed_out(self, job: JobRef) -> bool:
        """Whether the job ended by its time limit."""
        return False

    def out_of_memory(self, job: JobRef) -> bool:
        """Whether the launcher says that the job ended for want of the host's memory."""
        return False

    def memory_gb(self, factor: float = 1.0) -> float | None:
        """GB of each node that a job with this factor asks for. None if the launcher sets no memory."""
        return None

    def cancelled(self, job: JobRef) -> bool:
        """Whether the launcher says that somebody cancelled the job."""
        return False

    def has_other_nodes(self, than: Collection[str]) -> bool:
        """Whether jobs could go to a node that is none of these."""
        return False

    def exclude(self, node: str) -> None:  # noqa: B027  # most launchers have one node
        """Give a node no more jobs, those that wait in line included."""

    @abstractmethod
    def cancel(self, jobs: Sequence[JobRef]) -> None:
        """End jobs; again, with more force, those that did not heed an earlier call. Of no effect on what is over."""

    def clear(self, job: JobRef) -> None:  # noqa: B027  # most launchers leave nothing
        """Kill what a job has left behind whose leader is gone."""
