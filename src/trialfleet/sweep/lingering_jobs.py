"""Jobs whose trial has ended but which still run: each gets a grace, then it is cancelled.

A thread that never ends, a child process that lives on, or an exit handler that hangs would hold a node for as
long as the job's time limit lasts, though nobody waits for anything from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trialfleet.sweep.fleets.base import Fleet
from trialfleet.trial.submission import JobRef

SHOWN = 5  # jobs that are named
MAX_ORDERS = 6  # after which a job is named and left to the launcher: an epilog that hangs, say
AGAIN_AFTER = 5.0  # seconds between two orders to end the same job


@dataclass
class _Job:
    ref: JobRef
    number: int
    cancel_at: float
    orders: int = 0  # to end it


class LingeringJobs:
    """The jobs that are to leave.

    Args:
        fleets: by launcher's name.
        grace: seconds after a trial's end during which its job may still run.
        notice: tells the user of a job that had to be cancelled.
    """

    def __init__(self, fleets: Mapping[str, Fleet], grace: float, notice: Callable[[str], None]) -> None:
        self._fleets = fleets
        self._grace = grace
        self._notice = notice
        self._jobs: list[_Job] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def due(self) -> dict[str, float]:
        """The launchers that are to be asked about these jobs, and when."""
        return {
            name: min(job.cancel_at for job in self._jobs if job.ref.launcher == name)
            for name in {job.ref.launcher for job in self._jobs}
        }

    def add(self, job: JobRef | None, number: int, now: float) -> None:
        """The trial has ended: its job has the grace from now on. None lingers that was over when it was submitted."""
        if job is not None and job.launcher in self._fleets and not self._fleets[job.launcher].blocks:
            self._jobs.append(_Job(job, number, now + self._grace))

    def look(self, now: float) -> None:
        """Forget those that are gone, as of the last refresh, and cancel those whose grace is over."""
        self._jobs = [job for job in self._jobs if self._fleets[job.ref.launcher].lives(job.ref)]
        late = [job for job in self._jobs if now >= job.cancel_at]
        new = [job for job in late if not job.orders]
        if lost := [job for job in late if job.orders >= MAX_ORDERS]:
            names = ", ".join(job.ref.id for job in lost[:SHOWN])
            self._notice(f"jobs of ended trials do not end though they were told to, and are left alone: {names}")
            late = [job for job in late if job not in lost]
            self._jobs = [job for job in self._jobs if job not in lost]
        if new:
            names = ", ".join(f"{job.ref.id} of trial {job.number}" for job in new[:SHOWN])
            more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
            self._notice(
                f"jobs still ran {self._grace:.0f} s after their trials had ended (hydra.sweeper.grace) and are "
                f"cancelled: {names}{more}"
            )
        for job in late:
            job.cancel_at, job.orders = now + AGAIN_AFTER, job.orders + 1
        for launcher in sorted({job.ref.launcher for job in late}):
            self._fleets[launcher].cancel([job.ref for job in late if job.ref.launcher == launcher])
