"""Jobs that run one trial after another: which of them wait for the next, and what they are given."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.submission import JobRef, Submission, TrialRecord
from trialfleet.trial.worker_folder import FOLDER, Employed, Waiting, WorkerFolder

HELD_SECONDS = 5.0  # for which a trial waits for a worker whose last one has just ended; then it gets a job of its own


@dataclass(eq=False)
class _Worker:
    folder: WorkerFolder
    employed: Employed
    trial: int | None  # that it runs, as far as we know
    last: int = -1  # the trial before
    ended: float = 0.0  # when that had, on the driver's clock
    waiting: Waiting | None = None


class Workers:
    """The workers of a study's jobs.

    Args:
        study: the study's folder.
        fleets: by launcher's name.
        kind: of this driver's jobs (`Employed.kind`); None if they run one trial each. Workers of an earlier driver's
            are closed then, as are those of another kind.
        grace: seconds between a trial's end and its worker's word that it waits.
        leaves: takes a job that is to leave: (job, trial, whether it has had its grace).
    """

    def __init__(
        self,
        study: Path,
        fleets: Mapping[str, Fleet],
        kind: str | None,
        grace: float,
        leaves: Callable[[JobRef, int, bool], None],
    ) -> None:
        self._study, self._fleets, self._kind, self._grace, self._leaves = study, fleets, kind, grace, leaves
        self._workers: list[_Worker] = []

    def __len__(self) -> int:
        return len(self._workers)

    # ---------------------------------------------------------------- who there is

    def started(self, trial: ActiveTrial, name: str, job: JobRef) -> None:
        """A job was submitted for a trial, and will wait for others after it."""
        if self._kind is None:
            return
        folder, employed = WorkerFolder(self._study, name), Employed(job, self._kind)
        folder.employ(employed)
        self._workers.append(_Worker(folder, employed, trial.number))

    def take_up(self, trials: Collection[ActiveTrial], now: float) -> None:
        """Find those that an earlier driver's jobs left.

        Args:
            trials: the unfinished ones.
        """
        known = {worker.folder.name for worker in self._workers}
        for path in sorted((self._study / FOLDER).glob("*/job.json")):
            folder = WorkerFolder(self._study, path.parent.name)
            employed = folder.employed()
            if folder.name in known or employed is None or folder.closed() or employed.job.launcher not in self._fleets:
                continue
            own = [
                trial.number
                for trial in trials
                if trial.record.worker == folder.name or (trial.record.job == employed.job and not trial.record.worker)
            ]
            self._workers.append(_Worker(folder, employed, own[0] if own else None, ended=now))

    def has(self, job: JobRef) -> bool:
        """Whether a job is a worker's that may run other trials by now."""
        return any(worker.employed.job == job for worker in self._workers)

    def ended(self, number: int, now: float) -> bool:
        """A trial has ended: whether its job is a worker's, which is not told to leave for that."""
        own = [worker for worker in self._workers if worker.trial == number]
        for worker in own:
            worker.trial, worker.last, worker.ended = None, number, now
        return bool(own)

    def job_of(self, record: TrialRecord) -> JobRef | None:
        """The job of the worker that was given a trial, if it was: its driver may have died before it wrote so."""
        assert record.worker is not None
        folder = WorkerFolder(self._study, record.worker)
        employed = folder.employed()
        given = None if record.submission is None else folder.given(record.submission)
        return None if employed is None or given is None else employed.job

    def look(self, now: float) -> None:
        """See who waits, and forget who is gone or has closed."""
        for worker in list(self._workers):
            job = worker.employed.job
            if self._fleets[job.launcher].phase(job) is JobState.OVER:
                self._workers.remove(worker)
            elif worker.trial is None:
                self._look_at(worker, now)

    def _look_at(self, worker: _Worker, now: float) -> None:
        worker.waiting = worker.folder.waiting()
        if worker.waiting is not None:
            if worker.employed.kind != self._kind:
                self._close(worker, "another command drives the study")
        elif worker.folder.closed() or now - worker.ended > self._grace:
            self._dismiss(worker, late=not worker.folder.closed())

    # ---------------------------------------------------------------- what they are given

    def next(self, signature: Callable[[], str | None] = lambda: None) -> str | None:
        """Name of the worker that is given a trial; None if nobody waits.

        Args:
            signature: of the trial's programs, asked for where there is a choice: one that has compiled them comes
                first.
        """
        idle = self._idle()
        if len(idle) > 1 and any(worker.waiting.known for worker in idle if worker.waiting is not None):
            wanted = signature()
            idle.sort(key=lambda worker: worker.waiting is None or wanted not in worker.waiting.known)
        return idle[0].folder.name if idle else None

    def give(self, name: str, number: int, submission: Submission) -> JobRef | None:
        """Give trial `number` to a worker that waits.

        Returns:
            its job; None if it takes no more.
        """
        worker = next(worker for worker in self._workers if worker.folder.name == name)
        assert worker.waiting is not None
        if not worker.folder.assign(worker.waiting.number, submission):
            self._dismiss(worker, late=False)
            return None
        worker.trial, worker.waiting = number, None
        return worker.employed.job

    def expected(self, now: float) -> int:
        """Workers whose trials have just ended, and which will wait for others in a moment."""
        return sum(
            worker.trial is None and worker.waiting is None and now - worker.ended < HELD_SECONDS
            for worker in self._workers
        )

    def close_all_but(self, count: int) -> None:
        """Let go of those that wait, but for `count` of them."""
        for worker in self._idle()[max(0, count) :]:
            self._close(worker, "there are no more trials for it")

    def _idle(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.waiting is not None]

    def _close(self, worker: _Worker, reason: str) -> None:
        assert worker.waiting is not None
        worker.folder.close(worker.waiting.number, reason)
        self._dismiss(worker, late=False)

    def _dismiss(self, worker: _Worker, late: bool) -> None:
        self._workers.remove(worker)
        self._leaves(worker.employed.job, worker.last, late)
