"""Launchers without an executor of their own (Hydra's basic launcher, joblib's): run through their `launch()`.

It blocks until its jobs are done and returns what they returned, so there is nothing to follow: what it
returns becomes result.json at once, and a driver killed meanwhile runs these trials again.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from trialfleet.sweep.fleets.base import Fleet, Interrupted
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial import run
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState, described, judged
from trialfleet.trial.submission import Assignment, JobRef, Submission

LAUNCHER = "blocking"


class BlockingFleet(Fleet):
    """Args:
    launcher: any Hydra launcher.
    """

    limit = sys.maxsize

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        described = Submission.read(submission)
        batches = [described.trials] if _consecutive(described.trials) else [[t] for t in described.trials]
        for batch in batches:
            self._launch(described, batch)
        return [JobRef(LAUNCHER, str(trial.number)) for trial in described.trials]

    def _launch(self, submission: Submission, batch: Sequence[Assignment]) -> None:
        overrides = []
        for trial in batch:
            subdir = Path(trial.directory).relative_to(submission.sweep_dir) / "runs" / f"{trial.attempt}.0"
            overrides.append([*trial.overrides, f"hydra.sweep.subdir={subdir}"])
        with _interruptible():
            returns = self._launcher.launch(overrides, initial_job_idx=batch[0].number)
        for trial, returned in zip(batch, returns, strict=True):
            TrialDir(Path(trial.directory)).commit(
                _result(returned, trial, submission.n_objectives), submission.identity(trial)
            )

    def refresh(self) -> bool:
        return True

    def phase(self, job: JobRef) -> JobState:
        return JobState.OVER

    def lives(self, job: JobRef) -> bool:
        return False

    def find(self, uuid: str, index: int) -> JobRef | None:
        return None

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        """Nothing: when the driver gets to cancel, `launch()` has returned and the jobs are over."""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """While `launch()` blocks nobody looks at the driver's flags: Ctrl-C ends it, and the driver detaches."""

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, raise_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted while the launcher ran trials") from None
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _consecutive(trials: Sequence[Assignment]) -> bool:
    """Whether one `launch()` numbers the jobs as the trials are numbered."""
    return all(trial.number == trials[0].number + index for index, trial in enumerate(trials))


def _result(returned: JobReturn, trial: Assignment, n_objectives: int) -> Result:
    label = f"{trial.attempt}.0"
    if returned.status is JobStatus.COMPLETED:
        state, objectives, error = judged(returned.return_value, n_objectives)
        return Result(state, objectives, error, {}, label, {})
    failure = returned._return_value
    if run.is_pruned(failure):
        return Result(TrialState.PRUNED, None, None, {}, label, {})
    return Result(TrialState.FAIL, None, described(failure), {}, label, {})
