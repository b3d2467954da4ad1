"""Jobs that are no processes: on a virtual clock they leave in trial folders what real ones would have left.

A simulated job waits in line for a while, claims its trial, reports at even intervals, looks for a verdict
after each report, and commits a result. Its loss is a function of the trial's parameters (`objective`), its
length too, from half the mean to one and a half of it.
"""

import heapq
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trialfleet.sweep.driver import Clock
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial import records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.process import Process
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import JobRef, Submission, TrialRecord

LAUNCHER = "slurm"
IN_LINE = 1.0  # virtual seconds between submission and start
HOPELESS = 0.95  # trials with an x above this are bad from their first report on: a median pruner stops them
SPACE = ["x=interval(0.0,1.0)", "rate=tag(log,interval(1e-5,1e-1))", "layers=range(1,9)", "kind=choice(adam,lion,sgd)"]


def objective(params: dict[str, Any]) -> float:
    """What a trial with these parameters ends with."""
    return float((params["x"] - 0.3) ** 2 + params["layers"] / 100)


@dataclass
class SimulatedJob:
    """One job: of which trial, since when, and how far it is."""

    trial: TrialDir
    attempt: int
    name: str
    params: dict[str, Any]
    length: float  # virtual seconds
    identity: Identity
    started: float = 0.0
    reported: int = 0
    phase: JobState = JobState.PENDING
    file: int = -1  # its metrics.jsonl


@dataclass
class SimulatedFleet(Fleet):
    """A fleet of simulated jobs, and the clock that they and the driver live by.

    Args:
        reports: of each job.
        mean: length of a job in virtual seconds.
        epoch: Unix seconds at which the virtual clock begins.
    """

    reports: int
    mean: float
    epoch: float
    limit: int = sys.maxsize
    now: float = 0.0
    frozen: bool = False  # time passes, and the jobs stand still
    _life: float = 0.0  # virtual seconds that the jobs have lived through
    _jobs: dict[str, SimulatedJob] = field(default_factory=dict)
    _known: dict[str, JobState] = field(default_factory=dict)  # phases as of the last refresh
    _events: list[tuple[float, int, SimulatedJob]] = field(default_factory=list)
    _order: "itertools.count[int]" = field(default_factory=itertools.count)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _process: dict[str, Any] = field(default_factory=lambda: Process.own().to_json())

    def clock(self) -> Clock:
        """The driver's clock: whenever the driver sleeps, the jobs live on."""
        return Clock(now=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.frozen:
            return
        until = self._life + seconds
        while self._events and self._events[0][0] <= until:
            self._life, _, job = heapq.heappop(self._events)
            self._live(job)
        self._life = until

    # ---------------------------------------------------------------- what the driver asks

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        array = next(self._ids)
        names = [f"{array}_{index}" if count > 1 else str(array) for index in range(count)]
        described = Submission.read(submission)
        for assignment, name in zip(described.trials, names, strict=True):
            trial = TrialDir(Path(assignment.directory))
            record = TrialRecord.read(trial.trial_json)
            assert record is not None
            length = self.mean * (0.5 + record.params["x"])
            identity = described.identity(assignment)
            job = SimulatedJob(trial, assignment.attempt, name, record.params, length, identity)
            self._jobs[name] = job
            self._later(job, self._life + IN_LINE)
        return [JobRef(LAUNCHER, name) for name in names]

    def refresh(self) -> bool:
        self._known = {name: job.phase for name, job in self._jobs.items()}
        self._jobs = {name: job for name, job in self._jobs.items() if job.phase is not JobState.OVER}
        return True

    def phase(self, job: JobRef) -> JobState:
        return self._known.get(job.id, JobState.PENDING if job.id in self._jobs else JobState.OVER)

    def lives(self, job: JobRef) -> bool:
        return self.phase(job) is not JobState.OVER

    def find(self, uuid: str, index: int) -> JobRef | None:
        return None

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        """Nothing: nobody cancels here."""

    # ---------------------------------------------------------------- a job's life

    def _later(self, job: SimulatedJob, at: float) -> None:
        heapq.heappush(self._events, (at, next(self._order), job))

    def _live(self, job: SimulatedJob) -> None:
        """One moment of a job: it starts, or it reports and perhaps ends."""
        if job.phase is JobState.PENDING:
            self._start(job)
        else:
            self._report(job)
        if job.phase is JobState.RUNNING:
            self._later(job, job.started + job.length * (job.reported + 1) / self.reports)

    def _start(self, job: SimulatedJob) -> None:
        run = job.trial.run_dir(f"{job.attempt}.0")
        run.mkdir(parents=True)
        claim = {
            "study": job.identity.study,
            "params": job.identity.params,
            "attempt": job.attempt,
            "restart": 0,
            "job": f"{LAUNCHER}:{job.name}",
        }
        _appear(run / "claim", {**claim, "process": self._process, "node": "n1"})
        job.file = os.open(run / "metrics.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        job.started, job.phase = self._life, JobState.RUNNING

    def _report(self, job: SimulatedJob) -> None:
        job.reported += 1
        loss = 1.0 / job.reported + (10.0 if job.params["x"] > HOPELESS else 0.0)
        values = {"loss": loss, "accuracy": 1.0 - 0.5 / job.reported}
        line = json.dumps({"step": job.reported, "time": self.epoch + self._life, "values": values})
        os.write(job.file, f"{line}\n".encode())
        if job.trial.verdict_json.exists():
            self._end(job, TrialState.PRUNED, None)
        elif job.reported == self.reports:
            self._end(job, TrialState.COMPLETE, [objective(job.params)])

    def _end(self, job: SimulatedJob, state: TrialState, objectives: list[float] | None) -> None:
        os.close(job.file)
        label = f"{job.attempt}.0"
        result = Result(state, objectives, None, {"total": self._life - job.started}, label, {}, job.identity)
        _appear(job.trial.result_json, result.to_json())
        job.phase = JobState.OVER


class RunningFleet(SimulatedFleet):
    """For a driver that takes a study up: the jobs of the one before run on, and do nothing."""

    def phase(self, job: JobRef) -> JobState:
        return JobState.RUNNING


def _appear(path: Path, record: Any) -> None:
    """Like `records.create`, without waiting for the disk: what it would cost is the job's, not the driver's."""
    temporary = path.with_name(f".{path.name}.simulated")
    temporary.write_text(records.dumps(record) + "\n")
    temporary.rename(path)
