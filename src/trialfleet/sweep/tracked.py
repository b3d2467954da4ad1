"""One unfinished trial as the driver follows it: its files, its job, and what both say together."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from trialfleet.sweep.fleet import Fleet
from trialfleet.sweep.reconcile import Job, Seen, Submission
from trialfleet.tracking import metrics
from trialfleet.tracking.checkpoints import newest_step
from trialfleet.tracking.metrics import Line
from trialfleet.tracking.submission import JobRef, TrialRecord
from trialfleet.tracking.trial_dir import TIME_LIMIT, Claim, TrialDir

LISTED_EVERY = 4  # looks at a trial of which nothing new is heard


@dataclass(eq=False)  # a trial is itself, whatever is known of it
class Tracked:
    """An unfinished trial.

    Attributes:
        offsets: bytes of each run's metrics.jsonl that were read.
        latest: the newest value of each metric, and `step` the newest step.
        searches: refreshes of the launcher since a submission whose answer is missing.
        pruned: whether its verdict was written.
    """

    trial_id: int
    record: TrialRecord
    dir: TrialDir
    offsets: dict[str, int] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    searches: int = 0
    pruned: bool = False
    started: float | None = None  # Unix seconds of the first claim
    phase: Job = Job.UNKNOWN
    _heard: Job = Job.UNKNOWN  # the launcher's word at the last look
    _next_look: float = 0.0  # on the driver's clock
    _running_since: float | None = None  # on the driver's clock
    _claims: list[Claim] = field(default_factory=list)  # as last listed
    _looks: int = 0  # since then
    timed_out: bool = False  # whether the time limit ended the job, other than by the run's leaving ahead of it
    _claims_counted: int = -1
    _fruitless_runs: int = 0
    _time_limits: int = 0
    _reports: dict[str, Path] = field(default_factory=dict)  # each run's metrics.jsonl

    @property
    def number(self) -> int:
        return self.record.number

    def write(self, synced: bool = True, **changes: object) -> None:
        """Change trial.json, and what we know of it once it is written."""
        record = replace(self.record, **changes)  # type: ignore[arg-type]  # the fields have many types
        record.write(self.dir.trial_json, synced)
        self.record = record

    def due(self, fleets: dict[str, Fleet], now: float) -> bool:
        """Whether it is time to look: `rest` is over, or the launcher says something new of the job."""
        return now >= self._next_look or self._phase(fleets) is not self._heard

    def rest(self, now: float, longest: float) -> None:
        """Look again after a twentieth of the time that the trial has been running, after `longest` seconds at most.

        So an end is noticed late by one part in twenty, and hundreds of long trials are no load to a file system.
        """
        if self.started is not None and self._running_since is None:
            self._running_since = now
        self._next_look = now if self._running_since is None else now + min(longest, (now - self._running_since) / 20)

    def see(self, fleets: dict[str, Fleet]) -> Seen:
        """Look: at the launcher's last answer first, at the files second.

        Of these the result comes first: the run that brought it, and all that it reported, are there then.

        Args:
            fleets: by launcher's name.
        """
        record = self.record
        submission = (
            Submission.NONE
            if record.submission is None
            else Submission.MAYBE
            if record.job is None
            else Submission.DONE
        )
        heard, self.phase = self._heard, self._phase(fleets)
        self._heard = self.phase
        result = self.dir.result()
        claims = self._claims = self._runs(ended=result is not None, news=self.phase is not heard)
        own = [claim for claim in claims if claim.attempt == record.attempt]
        if own:
            self._adopt(own[-1])
            self.phase = self._with_worker(own[-1])
        if claims and self.started is None:
            self.started = (self.dir.run_dir(claims[0].label) / "claim").stat().st_mtime
        over = self.phase is Job.OVER
        job = self.record.job
        self.timed_out = over and job is not None and fleets[job.launcher].timed_out(job)
        return Seen(
            result=result,
            submission=submission if job is None else Submission.DONE,
            job=self.phase,
            claimed=bool(own),
            condemned=self.pruned,
            fruitless=self._fruitless(claims, over),
            unclaimed=record.unclaimed + 1,
            timeouts=record.timeouts + self.timed_out + self._time_limits,
        )

    def _runs(self, ended: bool, news: bool) -> list[Claim]:
        """The trial's runs so far; none are looked for while its job waits in line.

        To list them is half of what a look costs. A job that runs on has the runs it had, unless Slurm requeued it
        quicker than it was asked about it: then the new run is seen a few looks late.
        """
        if self.phase is Job.PENDING and not ended:
            return []
        known = bool(self._claims) and self._claims[-1].attempt == self.record.attempt
        self._looks += 1
        if ended or news or not known or self.phase is not Job.RUNNING or self._looks >= LISTED_EVERY:
            self._looks = 0
            return self.dir.claims()
        return self._claims

    def _phase(self, fleets: dict[str, Fleet]) -> Job:
        job = self.record.job
        if job is not None:
            fleet = fleets.get(job.launcher)
            return Job.UNKNOWN if fleet is None else fleet.phase(job)
        # Nothing to ask for. Whether the launcher can be asked at all decides if a search makes sense.
        return Job.OVER if self.searches > 0 else Job.UNKNOWN

    def _adopt(self, claim: Claim) -> None:
        """The job that claimed the attempt is the one to follow, whichever the launcher named to us."""
        job = _job_of(claim)
        if self.record.job is None or (job.launcher == "slurm" and job.id != self.record.job.id):
            self.write(job=job)

    def _with_worker(self, claim: Claim) -> Job:
        """A local job lives as long as its worker does, even if its controller was killed."""
        if self.phase is Job.OVER and claim.process.is_alive() and claim.job.startswith("local:"):
            return Job.RUNNING
        return self.phase

    def _fruitless(self, claims: list[Claim], over: bool) -> int:
        """Ended runs in a row, up to the newest, that brought no newer checkpoint than those before them.

        A requeue ends a run as well as a new attempt does. Counted anew only when there is a run more, or none left,
        and the time limits among the ends with them.
        """
        if over or len(claims) != self._claims_counted:
            self._claims_counted = len(claims)
            ended = claims if over else claims[:-1]
            self._time_limits = sum((self.dir.run_dir(claim.label) / TIME_LIMIT).exists() for claim in claims)
            newest, self._fruitless_runs = -1, 0
            for claim in ended:
                step = newest_step(self.dir.run_dir(claim.label) / "checkpoints")
                self._fruitless_runs = 0 if step > newest else self._fruitless_runs + 1
                newest = max(newest, step)
        return self._fruitless_runs

    def new_lines(self) -> list[tuple[str, Line]]:
        """Metrics lines that came since the last call, with the label of their run, in order of the runs.

        Of the runs that the last look saw.
        """
        lines: list[tuple[str, Line]] = []
        for label in [claim.label for claim in self._claims]:
            if label not in self.offsets:
                self.offsets[label], self._reports[label] = 0, self.dir.run_dir(label) / "metrics.jsonl"
            new, self.offsets[label] = metrics.read_from(self._reports[label], self.offsets[label])
            lines += [(label, line) for line in new]
        for _, line in lines:
            self.latest.update(line.values)
            self.step = line.step
        return lines

    def run_labels(self) -> list[str]:
        """The runs that the trial has, oldest first."""
        return self.dir.run_labels()

    def node(self) -> str:
        """Where the newest run was; empty before the first."""
        claims = self.dir.claims()
        return claims[-1].node if claims else ""

    def log_tail(self, submissions: Path, size: int = 4000) -> str:
        """The end of the newest log of a trial that never said how it ended."""
        logs = [self.dir.run_dir(label) / "log" for label in self.run_labels()]
        if self.record.submission is not None:
            folder, job = submissions / self.record.submission, self.record.job
            everybody = sorted(folder.glob("*.out")) + sorted(folder.glob("*.err"))
            own = [log for log in everybody if job is not None and log.name.startswith(f"{job.id}_")]
            logs += own or everybody
        for log in reversed(logs):
            if log.exists() and log.stat().st_size:
                return log.read_text(errors="replace")[-size:]
        return ""

    def seconds(self) -> float | None:
        """Since the first claim."""
        return None if self.started is None else max(0.0, time.time() - self.started)


def _job_of(claim: Claim) -> JobRef:
    launcher, _, rest = claim.job.partition(":")
    if launcher == "slurm":
        return JobRef("slurm", rest)
    return JobRef("local", str(claim.process.pid), claim.process.to_json())
