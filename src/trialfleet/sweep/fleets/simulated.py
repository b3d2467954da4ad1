"""Jobs that are no processes: on a clock of their own, they leave in trial folders what real ones would have left.

For measuring what a driver costs, and for driving it through whatever launchers and jobs do, in milliseconds.
"""

import errno
import heapq
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from trialfleet.sweep.fleets.base import Busy, Fleet, MaybeSubmitted
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial import records, transient
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.process import Process
from trialfleet.trial.result import Result, TrialState, described
from trialfleet.trial.submission import JobRef, Submission, TrialRecord

LAUNCHER = "simulated"


class Answer(Enum):
    """What the launcher answers to a submission."""

    ACCEPTED = "accepted"
    BUSY = "busy"  # a limit of jobs
    REFUSED = "refused"  # for a reason that may pass
    SILENT = "silent"  # it accepted the jobs, and the answer was lost
    UNHEARD = "unheard"  # it never got the request, and there is no answer


class Fate(Enum):
    """How a job fares, from its start on."""

    COMPLETES = "completes"
    FAILS = "fails"  # the task raises
    UNCLAIMED = "unclaimed"  # it ends before the trial begins
    LOST = "lost"  # it ends in the middle, without a word
    SAVED = "saved"  # the same, after a checkpoint
    HINDERED = "failures"  # the same, since some disk is full, as its last word says
    REQUEUED = "requeued"  # it is taken off its node in the middle, and starts again
    LINGERS = "lingers"  # it completes, and does not end until it is cancelled


@dataclass
class SimulatedJob:
    """One job: of which trial, since when, and how far it is."""

    ref: JobRef
    trial: TrialDir
    attempt: int
    params: dict[str, Any]
    length: float  # seconds on the fleet's clock
    identity: Identity
    restart: int = 0
    started: float = 0.0
    reported: int = 0
    fate: Fate = Fate.COMPLETES
    phase: JobState = JobState.PENDING
    file: int = -1  # its metrics.jsonl

    @property
    def label(self) -> str:
        return f"{self.attempt}.{self.restart}"


@dataclass
class SimulatedFleet(Fleet):
    """A fleet of simulated jobs, and the clock that they and the driver live by.

    A job waits in line, claims its trial, reports at even intervals, looks for a verdict after each report, and
    commits a result.

    Args:
        length: seconds that a job with these parameters runs.
        values: that it reports at a step.
        objectives: that it ends with.
        reports: of each job.
        in_line: seconds between a job's submission and its start.
        epoch: Unix seconds at which the clock begins.
        fate: how the next run of a job fares.
        answer: to the next submission.
        answers: whether the launcher answers the next question about its jobs.
    """

    length: Callable[[dict[str, Any]], float] = lambda params: 2.0
    values: Callable[[dict[str, Any], int], dict[str, float]] = lambda params, step: {"loss": 1.0 / step}
    objectives: Callable[[dict[str, Any]], list[float]] = lambda params: [0.0]
    reports: int = 2
    in_line: float = 1.0
    epoch: float = 0.0
    fate: Callable[[SimulatedJob], Fate] = lambda job: Fate.COMPLETES
    answer: Callable[[], Answer] = lambda: Answer.ACCEPTED
    answers: Callable[[], bool] = lambda: True
    limit: int = sys.maxsize
    now: float = 0.0
    frozen: bool = False  # time passes, and the jobs stand still
    jobs: dict[str, SimulatedJob] = field(default_factory=dict)  # those that the launcher knows, by id
    _life: float = 0.0  # seconds that the jobs have lived through
    _known: dict[str, JobState] = field(default_factory=dict)  # as of the last refresh
    _places: dict[tuple[str, int], JobRef] = field(default_factory=dict)  # jobs by submission and index
    _events: list[tuple[float, int, SimulatedJob]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _process: dict[str, Any] = field(default_factory=lambda: Process.own().to_json())

    def sleep(self, seconds: float) -> None:
        """The driver sleeps, and the jobs live on."""
        self.now += seconds
        if self.frozen:
            return
        until = self._life + seconds
        while self._events and self._events[0][0] <= until:
            self._life, _, job = heapq.heappop(self._events)
            self._live(job)
        self._life = until

    def pass_over(self, ref: JobRef) -> None:
        """The job ends without a word, now."""
        self._over(self.jobs[ref.id])

    # ---------------------------------------------------------------- what the driver asks

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        answer = self.answer()
        if answer in (Answer.BUSY, Answer.REFUSED):
            raise Busy(f"the launcher is {answer.value}", limit=answer is Answer.BUSY)
        if answer is Answer.UNHEARD:
            raise MaybeSubmitted("it did not hear")
        refs = self._accept(Submission.read(submission), uuid)
        if answer is Answer.SILENT:
            raise MaybeSubmitted("it heard and did not answer")
        return refs

    def _accept(self, submission: Submission, uuid: str) -> list[JobRef]:
        array, refs = next(self._ids), []
        for index, assignment in enumerate(submission.trials):
            trial = TrialDir(Path(assignment.directory))
            record = TrialRecord.read(trial.trial_json)
            assert record is not None
            name = f"{array}_{index}" if len(submission.trials) > 1 else str(array)
            ref, length = JobRef(LAUNCHER, name), self.length(record.params)
            job = SimulatedJob(ref, trial, assignment.attempt, record.params, length, submission.identity(assignment))
            self.jobs[name] = job
            self._places[uuid, index] = ref
            self._later(job, self._life + self.in_line)
            refs.append(ref)
        return refs

    def refresh(self) -> bool:
        if not self.answers():
            return False
        self._known = {name: job.phase for name, job in self.jobs.items()}
        self.jobs = {name: job for name, job in self.jobs.items() if job.phase is not JobState.OVER}
        return True

    def phase(self, job: JobRef) -> JobState:
        return self._known.get(job.id, JobState.PENDING if job.id in self.jobs else JobState.OVER)

    def lives(self, job: JobRef) -> bool:
        return self.phase(job) is not JobState.OVER

    def find(self, uuid: str, index: int) -> JobRef | None:
        ref = self._places.get((uuid, index))
        return ref if ref is not None and ref.id in self._known else None

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        for ref in jobs:
            if ref.id in self.jobs:
                self._over(self.jobs[ref.id])

    # ---------------------------------------------------------------- a job's life

    def _later(self, job: SimulatedJob, at: float) -> None:
        heapq.heappush(self._events, (at, next(self._order), job))

    def _live(self, job: SimulatedJob) -> None:
        """One moment of a job: it starts, or it reports and perhaps ends."""
        if job.phase is JobState.PENDING:
            self._start(job)
        elif job.phase is JobState.RUNNING:
            self._report(job)
        if job.phase is JobState.RUNNING and job.reported < self.reports:
            self._later(job, job.started + job.length * (job.reported + 1) / self.reports)

    def _start(self, job: SimulatedJob) -> None:
        job.fate = self.fate(job)
        run = job.trial.run_dir(job.label)
        if job.fate is Fate.UNCLAIMED or job.trial.ended(job.identity) or self._is_taken(job):
            self._over(job)
            return
        run.mkdir(parents=True)
        claim = {
            "study": job.identity.study,
            "params": job.identity.params,
            "attempt": job.attempt,
            "restart": job.restart,
            "job": f"{LAUNCHER}:{job.ref.id}",
        }
        _appear(run / "claim", {**claim, "process": self._process, "node": "n1"})
        job.file = os.open(run / "metrics.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        job.started, job.reported, job.phase = self._life, 0, JobState.RUNNING

    def _is_taken(self, job: SimulatedJob) -> bool:
        """Whether another job has claimed the attempt, or a later one."""
        return any(job.trial.run_dir(label).exists() for label in (job.label, f"{job.attempt + 1}.0"))

    def _report(self, job: SimulatedJob) -> None:
        job.reported += 1
        values = self.values(job.params, job.reported)
        line = json.dumps({"step": job.reported, "time": self.epoch + self._life, "values": values})
        os.write(job.file, f"{line}\n".encode())
        if job.trial.verdict_json.exists():
            self._end(job, TrialState.PRUNED)
        elif job.fate in (Fate.LOST, Fate.SAVED, Fate.HINDERED, Fate.REQUEUED):
            self._break_off(job)
        elif job.reported == self.reports:
            self._end(job, TrialState.FAIL if job.fate is Fate.FAILS else TrialState.COMPLETE)

    def _break_off(self, job: SimulatedJob) -> None:
        """The job is taken off its node in the middle."""
        if job.fate is Fate.SAVED:
            (job.trial.run_dir(job.label) / "checkpoints" / f"step_{job.attempt}").mkdir(parents=True)
        if job.fate is Fate.HINDERED:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch")
            _appear(job.trial.run_dir(job.label) / transient.RECORD, described(full))
        if job.fate is not Fate.REQUEUED:
            self._over(job)
            return
        self._close(job)
        job.phase, job.restart = JobState.PENDING, job.restart + 1
        self._later(job, self._life + self.in_line)

    def _end(self, job: SimulatedJob, state: TrialState) -> None:
        objectives = self.objectives(job.params) if state is TrialState.COMPLETE else None
        error = {"type": "Simulated", "message": "it raised", "traceback": ""} if state is TrialState.FAIL else None
        seconds = {"total": self._life - job.started}
        _appear(job.trial.result_json, Result(state, objectives, error, seconds, job.label, {}, job.identity).to_json())
        if job.fate is not Fate.LINGERS:
            self._over(job)

    def _over(self, job: SimulatedJob) -> None:
        self._close(job)
        job.phase = JobState.OVER

    def _close(self, job: SimulatedJob) -> None:
        if job.file >= 0:
            os.close(job.file)
            job.file = -1


def _appear(path: Path, record: Any) -> None:
    """Like `records.create`, without waiting for the disk: what it would cost is the job's, not the driver's."""
    temporary = path.with_name(f".{path.name}.simulated")
    temporary.write_text(records.dumps({"format": records.FORMAT, **record}) + "\n")
    if not path.exists():
        temporary.rename(path)
