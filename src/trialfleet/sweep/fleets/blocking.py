"""Launchers without an executor of their own (Hydra's basic launcher, joblib's): run through their `launch()`.

It blocks until its jobs are done and returns what they returned, so there is nothing to follow: what it
returns becomes result.json at once. Each run is claimed before, as a worker's is: of one that ended for no fault of its
trial's, or together with the driver, there is a claim and no result, and the driver that comes next starts the next
one. What somebody interrupted is no run: its claim is taken back.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import FrameType

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from trialfleet.compat.hydra import compose_quickly, failure_of, runs_one_by_one
from trialfleet.errors import UserError
from trialfleet.sweep.fleets.base import Fleet, Interrupted
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.study.search_space import quoted
from trialfleet.trial import attached, commitment, records, transient
from trialfleet.trial.checkpoints import whole_entries
from trialfleet.trial.claim import NotClaimed
from trialfleet.trial.directory import TrialDir, composed_config
from trialfleet.trial.failure import COMMENTS, Cause, cause_of, end_of_trial, write_cause
from trialfleet.trial.result import Result, described, judged, shown, spent
from trialfleet.trial.submission import Assignment, JobRef, Submission

LAUNCHER = "blocking"


class BlockingFleet(Fleet):
    """Args:
    launcher: any Hydra launcher; None to tell of jobs without starting any.
    """

    limit = sys.maxsize
    at_hand = True
    blocks = True

    def __init__(self, launcher: Launcher | None) -> None:
        self._launcher = launcher
        if launcher is not None:
            compose_quickly(launcher)

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        described = Submission.read(submission)
        for batch in self._batches(described.trials):
            self._run(described, batch)
        return [JobRef(LAUNCHER, str(trial.number)) for trial in described.trials]

    def _batches(self, trials: Sequence[Assignment]) -> list[Sequence[Assignment]]:
        """What goes into one `launch()` each.

        A trial that had a run goes alone: perhaps it ends the driver, and the others' runs would be lost with its own.
        So does each of a launcher that runs them one after another: what has ended is written down before the next one
        begins, and nothing that happens to that one, or to the driver, takes it back.
        """
        if runs_one_by_one(self._launcher):
            return [[trial] for trial in trials]
        new, again = [t for t in trials if t.attempt == 1], [t for t in trials if t.attempt > 1]
        batches: list[Sequence[Assignment]] = [new] if new and _consecutive(new) else [[trial] for trial in new]
        return batches + [[trial] for trial in again]

    def _run(self, submission: Submission, batch: Sequence[Assignment]) -> None:
        """Run trials until they have ended, and write down how.

        Raises:
            Interrupted: by the user.
            UserError: what the launcher returned cannot be told apart by trial.
        """
        unended = list(batch)
        try:
            with _interruptible() as signals:
                for trial in batch:
                    _claim(submission, trial)
                at, began = time.time(), time.monotonic()
                ends = self._launch(submission, batch, signals)
                took = _seconds(batch, at, time.monotonic() - began)
                for trial, end, seconds in zip(batch, ends, took, strict=True) if ends is not None else ():
                    if signals and _failure(end) is not None:  # it heard of the interrupt before us
                        continue
                    self._write_down(submission, trial, end, seconds)
                    unended.remove(trial)
            if ends is None:
                for trial in batch:
                    self._run(submission, [trial])
                    unended.remove(trial)
        except BaseException:
            _take_back_claims(unended)
            raise

    def _launch(
        self, submission: Submission, batch: Sequence[Assignment], signals: Sequence[int]
    ) -> list[JobReturn] | None:
        """How each trial ended; None if one of several raised through the launcher, and the others' ends are lost.

        Args:
            signals: those that somebody sent meanwhile.
        """
        launcher = self._launcher
        assert launcher is not None, "this fleet only tells of jobs"
        overrides = []
        for trial in batch:
            subdir = Path(trial.directory).relative_to(submission.sweep_dir) / "runs" / _label(trial)
            # The folder by its absolute path: a task may change the directory of the process it shares with others.
            folder = quoted("hydra.sweep.dir", submission.sweep_dir)
            overrides.append([*trial.overrides, f"hydra.sweep.dir={folder}", f"hydra.sweep.subdir={subdir}"])
        try:
            with _as_before(), self._heard(batch):
                returned = launcher.launch(overrides, initial_job_idx=batch[0].number)
        except BaseException as failure:  # a task's SystemExit among them, and a KeyboardInterrupt of its own
            if signals:
                raise
            return [JobReturn(status=JobStatus.FAILED, _return_value=failure)] if len(batch) == 1 else None
        name = type(launcher).__name__
        found = list(returned) if isinstance(returned, Sequence) else []
        if len(found) != len(batch) or not all(isinstance(one, JobReturn) for one in found):
            raise UserError(
                f"hydra.launcher: {name} ran {len(batch)} trials and returned {_shown(returned)} instead of a "
                "JobReturn for each: how they ended cannot be told",
                "choose another launcher, such as hydra/launcher=submitit_local; the same command runs them again",
            )
        return found

    def _write_down(self, submission: Submission, trial: Assignment, end: JobReturn, took: float) -> None:
        """Commit how a trial ended; or leave what a worker leaves whose run ended for no fault of the trial's.

        Args:
            took: seconds.
        """
        directory, identity, label = TrialDir(Path(trial.directory)), submission.identity(trial), _label(trial)
        failure = attached.as_told(directory.run_dir(label), _failure(end))
        if failure is not None and cause_of(failure) not in (Cause.PRUNED, Cause.LEFT):
            _say_as_hydra_does(end)
        notes = records.plain(dict(attached.notes_of(directory.run_dir(label))))
        seconds = spent(notes.pop("seconds", None), took)
        outcome: Result | None
        if failure is None:
            state, objectives, error = judged(end.return_value, submission.n_objectives)
            outcome = Result(state, objectives, error, seconds, label, notes)
        elif isinstance(failure, BrokenExecutor):  # the trial's process was killed, and has no word of its own
            outcome = None
        else:
            outcome = end_of_trial(failure, label, seconds, notes)
        if outcome is not None:
            commitment.commit(directory, outcome, identity, self.notice)
            return
        assert failure is not None
        transient.patiently(lambda: _leave(directory, trial, failure), commitment.PATIENCE)
        cause = cause_of(failure)
        if cause not in (Cause.FULL_DISK, Cause.FILE_SYSTEM):  # of which the driver gets word, and tells
            reason = COMMENTS.get(cause, "its process ended before its end")
            self.notice(f"trial {trial.number}: {reason}")

    @contextlib.contextmanager
    def _heard(self, batch: Sequence[Assignment]) -> Iterator[None]:
        """The driver hears of each report of the trials that run in its process, and their children know their run."""

        def hear(folder: Path) -> None:
            self.reported(int(folder.parent.parent.name))

        attached.reported.append(hear)
        before = os.environ.get(attached.VARIABLE)
        if len(batch) == 1:
            os.environ[attached.VARIABLE] = str(TrialDir(Path(batch[0].directory)).run_dir(_label(batch[0])))
        try:
            yield
        finally:
            attached.reported.remove(hear)
            os.environ.pop(attached.VARIABLE, None)
            if before is not None:
                os.environ[attached.VARIABLE] = before

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
def _interruptible() -> Iterator[list[int]]:
    """While `launch()` blocks nobody looks at the driver's flags: Ctrl-C ends it, and the driver detaches.

    Yields:
        the signals that came so far: without any, a KeyboardInterrupt is the task's own.

    Raises:
        Interrupted: a signal came, whatever became of the exception that it raised in the task.
    """
    signals: list[int] = []

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    old = {number: signal.signal(number, raise_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    except BaseException:
        if not signals:
            raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if signals:
        raise Interrupted("interrupted while the launcher ran trials")


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """A task may run in the driver's own process: afterwards the driver is where it was, and can be heard."""
    folder, streams = Path.cwd(), (sys.stdout, sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        with contextlib.suppress(OSError):  # it is gone
            os.chdir(folder)


def _consecutive(trials: Sequence[Assignment]) -> bool:
    """Whether one `launch()` numbers the jobs as the trials are numbered."""
    return all(trial.number == trials[0].number + index for index, trial in enumerate(trials))


def _claim(submission: Submission, trial: Assignment) -> None:
    """Claim the run, so that it is known of should the driver end with it. A power cut is no fault of the trial's."""
    directory = TrialDir(Path(trial.directory))
    with contextlib.suppress(NotClaimed):  # by us, before the launcher had to run each trial by itself
        directory.claim(trial.attempt, f"{LAUNCHER}:{trial.number}", 0, submission.identity(trial), synced=False)


def _take_back_claims(trials: Sequence[Assignment]) -> None:
    """These runs were none: neither their trials nor the launcher ended them. One that has saved stays."""
    for trial in trials:
        directory = TrialDir(Path(trial.directory))
        folder = directory.run_dir(_label(trial))
        with contextlib.suppress(OSError):  # then the run counts as lost
            if not directory.result_json.exists() and not whole_entries(folder / "checkpoints"):
                attached.forget(folder)
                (folder / "claim").unlink(missing_ok=True)


def _seconds(batch: Sequence[Assignment], since: float, took: float) -> list[float]:
    """How long each trial of a batch took, up to the return of its launcher: their single ends nobody notes.

    Of several, some may have waited for their turn: Hydra writes the config of a job when that begins.

    Args:
        since: when the launcher got them (Unix seconds).
        took: until it returned.
    """
    found = []
    for trial in batch:
        waited = 0.0
        if len(batch) > 1:
            config = composed_config(TrialDir(Path(trial.directory)).run_dir(_label(trial)))
            with contextlib.suppress(OSError):
                waited = 0.0 if config is None else config.stat().st_mtime - since
        found.append(min(took, max(0.0, took - waited)))
    return found


def _label(trial: Assignment) -> str:
    return f"{trial.attempt}.0"


def _shown(returned: object) -> str:
    return f"{len(returned)} results" if isinstance(returned, Sequence) else type(returned).__name__


class NoEnd(Exception):
    """Stands for the exception of a trial whose launcher has none to show."""


def _failure(end: JobReturn) -> BaseException | None:
    """What the trial's task raised, with what led to it; None if it returned a value."""
    if end.status is JobStatus.COMPLETED:
        return None
    given = failure_of(end)
    if not isinstance(given, BaseException):
        return NoEnd(f"the launcher does not say how the trial ended: status {shown(end.status)}, {shown(given)}")
    with contextlib.suppress(BaseException), contextlib.redirect_stderr(io.StringIO()):  # it calls each an error
        end.return_value  # noqa: B018  # raises `given`; only so do the causes of one from another process come back
    return given


def _say_as_hydra_does(end: JobReturn) -> None:
    with contextlib.suppress(Exception):  # a task may have closed the stream
        sys.stderr.write(f"Error executing job with overrides: {end.overrides}\n")


def _leave(directory: TrialDir, trial: Assignment, failure: BaseException) -> None:
    """Beside a claim without a result, the word of why and the log: the driver goes on from there."""
    label = _label(trial)
    (directory.run_dir(label) / "log").write_text(described(failure)["traceback"], errors="replace")
    write_cause(directory, label, failure)
