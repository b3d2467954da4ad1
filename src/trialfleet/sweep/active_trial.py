"""One unfinished trial as the driver follows it: its files, its job, and what both say together."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.fleets.local import LAUNCHER as LOCAL
from trialfleet.sweep.fleets.local import marker
from trialfleet.sweep.reconcile import JobState, Observation, SubmissionState
from trialfleet.trial import metrics, out_of_memory, records, transient
from trialfleet.trial.checkpoints import newest_step
from trialfleet.trial.claim import Claim
from trialfleet.trial.directory import TIME_LIMIT, TrialDir
from trialfleet.trial.failure import word_of_file_system
from trialfleet.trial.metrics import Line
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import Result
from trialfleet.trial.submission import JobRef, TrialRecord
from trialfleet.trial.worker_folder import WorkerFolder

LISTED_EVERY = 4  # looks at a trial of which nothing new is heard
LOG_TAIL = 4000  # characters of a log that are looked at and shown


@dataclass(eq=False)  # a trial is itself, whatever is known of it
class ActiveTrial:
    """An unfinished trial.

    Attributes:
        uids: the study's uid, and those that it had before it was copied.
        n_objectives: how many numbers a result must have.
        submissions: where the launcher's logs lie.
        ran: seconds that drivers saw each run go on, by label, on clocks that no change of the time of day alters.
        offsets: bytes of each run's metrics.jsonl that were read.
        latest: the newest value of each metric, `step` the newest step, and `steps` how many there will be.
        searches: refreshes of the launcher since a submission whose answer is missing.
        pruned: whether its verdict was written.
        ran_out_of_memory: whether the job that ended ran out of the host's memory.
        file_system_error: of a full disk or a failing file system, that ended the job's run; None of other ends.
        file_system_failures: the fruitless runs in a row that ended so.
        not_before: when it may be submitted at the earliest, on the driver's clock.
    """

    trial_id: int
    record: TrialRecord
    dir: TrialDir
    uids: Collection[str]
    n_objectives: int
    submissions: Path
    ran: dict[str, float] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    steps: int | None = None
    searches: int = 0
    pruned: bool = False
    started: float | None = None  # Unix seconds of the first claim
    ran_out_of_memory: bool = False
    file_system_error: dict[str, str] | None = None
    file_system_failures: int = 0
    not_before: float = 0.0
    phase: JobState = JobState.UNKNOWN
    job: JobRef | None = None  # that the last look found to be the one to follow
    _looked: tuple[str, float] | None = None  # the run that went on at the last look, and when that was
    _heard: JobState = JobState.UNKNOWN  # the launcher's word at the last look
    _next_look: float = 0.0  # on the driver's clock
    _running_since: float | None = None  # on the driver's clock
    _claims: list[Claim] = field(default_factory=list)  # as last listed
    _looks: int = 0  # since then
    timed_out: bool = False  # whether the time limit ended the job, other than by the run's leaving ahead of it
    _claims_counted: int = -1
    _fruitless_runs: int = 0
    _time_limits: int = 0
    _reports: dict[str, Path] = field(default_factory=dict)  # each run's metrics.jsonl
    _worker: WorkerFolder | None = None  # of the process that runs it, as last looked at

    @property
    def number(self) -> int:
        return self.record.number

    def write(self, synced: bool = True, **changes: object) -> None:
        """Change trial.json, and what we know of it once it is written."""
        record = replace(self.record, **changes)  # type: ignore[arg-type]  # the fields have many types
        record.write(self.dir.trial_json, synced)
        self.record = record

    def mend_record(self) -> str | None:
        """Write trial.json again if something has damaged it meanwhile: whoever reads the folder later needs it.

        Returns:
            what was found and done, in words; None if nothing was.
        """
        said = None
        try:
            if TrialRecord.read(self.dir.trial_json) is not None:
                return None
            said = f"{self.dir.trial_json}: was empty or missing, and is written again"
        except Damaged as damage:
            said = f"{damage}: renamed to {records.set_aside(damage.path).name}, and written again"
        self.record.write(self.dir.trial_json)
        return said

    def due(self, fleets: dict[str, Fleet], now: float) -> bool:
        """Whether it is time to look: `rest` is over, or the launcher says something new of the job."""
        return now >= self._next_look or self._phase(fleets, self.record.job) is not self._heard

    def pass_time(self, now: float) -> None:
        """Count the time since the last look for the run that was seen to go on then."""
        if self._looked is not None:
            label, before = self._looked
            self.ran[label] = self.ran.get(label, 0.0) + max(0.0, now - before)
        self._looked = (self._claims[-1].label, now) if self.phase is JobState.RUNNING and self._claims else None

    def rest(self, now: float, least: float, longest: float) -> None:
        """Look again after a twentieth of the time that the trial has been running, unless it is woken before.

        So an end is noticed late by one part in twenty, and hundreds of long trials are no load to a file system.

        Args:
            least, longest: seconds between two looks.
        """
        if self.started is not None and self._running_since is None:
            self._running_since = now
        age = 0.0 if self._running_since is None else now - self._running_since
        self._next_look = now + max(least, min(longest, age / 20))

    def wake(self) -> None:
        """Something is new: look at the next turn."""
        self._next_look = 0.0

    def see(self, fleets: dict[str, Fleet]) -> Observation:
        """Look: at the launcher's last answer first, at the files second. Writes nothing.

        Of the files the result comes first: the run that brought it, and all that it reported, are there then.

        Args:
            fleets: by launcher's name.
        """
        record = self.record
        heard, self.phase = self._heard, self._phase(fleets, record.job)
        self._heard = self.phase
        done_with = self._done_with()  # before the result is read, which comes first
        result, damage = self._result()
        claims = self._claims = self._runs(ended=result is not None, news=self.phase is not heard)
        own = [claim for claim in claims if claim.attempt == record.attempt]
        self.job = job = self._job(own)
        if job != record.job:  # what the launcher said was about another job, or about none
            self.phase = self._phase(fleets, job)
        if own and not own[-1].damaged:
            self.phase = self._with_worker(own[-1])
        if done_with and self.phase is JobState.RUNNING:
            self.phase = JobState.OVER
        if claims and self.started is None:
            self.started = _begun(self.dir.run_dir(claims[0].label))
        over = self.phase is JobState.OVER
        fleet = None if job is None else fleets.get(job.launcher)
        self.timed_out, self.ran_out_of_memory, self.file_system_error = False, False, None
        if over and own and result is None:
            self.file_system_error = word_of_file_system(self.dir, own[-1].label)
        if over and job is not None and fleet is not None:
            self.timed_out = fleet.timed_out(job)
            self.ran_out_of_memory = result is None and self._out_of_memory(fleet, job, own)
        return Observation(
            result=result,
            damage=damage,
            submission=_submission_state(record, job),
            job=self.phase,
            claimed=bool(own),
            pruned=self.pruned,
            fruitless=self._fruitless(claims, over),
            unclaimed=record.unclaimed + 1,
            timeouts=record.timeouts + self.timed_out + self._time_limits,
        )

    def _result(self) -> tuple[Result | None, str]:
        """The trial's result, if there is one; or why what is there is not."""
        try:
            result = self.dir.result()
        except Damaged as damage:
            return None, str(damage)
        if result is None:
            return None, ""
        if self.accepts(result):
            return result, ""
        if result.identity.is_of(self.record.identity, self.uids):
            count = len(result.objectives or ())
            return None, f"{self.dir.result_json}: has {count} objectives, not {self.n_objectives}"
        return None, f"{self.dir.result_json}: is the result of another trial, or of another study"

    def accepts(self, result: Result) -> bool:
        """Whether a result is this trial's, with as many objectives as the study has."""
        fits = result.objectives is None or len(result.objectives) == self.n_objectives
        return fits and result.identity.is_of(self.record.identity, self.uids)

    def _out_of_memory(self, fleet: Fleet, job: JobRef, own: list[Claim]) -> bool:
        """Whether the job ended for want of memory: by the launcher's word, the run's own, or its log's."""
        records_of_it = [self.dir.run_dir(claim.label) / out_of_memory.RECORD for claim in own[-1:]]
        if fleet.out_of_memory(job) or any(record.exists() for record in records_of_it):
            return True
        return out_of_memory.killed(self.log_tail(own_only=True))

    def _runs(self, ended: bool, news: bool) -> list[Claim]:
        """The trial's runs so far; none are looked for while its job waits in line.

        To list them is half of what a look costs. A job that runs on has the runs it had, unless Slurm requeued it
        quicker than it was asked about it: then the new run is seen a few looks late.
        """
        if self.phase is JobState.PENDING and not ended:
            return []
        known = bool(self._claims) and self._claims[-1].attempt == self.record.attempt
        self._looks += 1
        if ended or news or not known or self.phase is not JobState.RUNNING or self._looks >= LISTED_EVERY:
            self._looks = 0
            return self.dir.claims_of(self.record.identity)
        return self._claims

    def _phase(self, fleets: dict[str, Fleet], job: JobRef | None) -> JobState:
        if job is not None:
            fleet = fleets.get(job.launcher)
            return JobState.UNKNOWN if fleet is None else fleet.phase(job)
        # Nothing to ask for. Whether the launcher can be asked at all decides if a search makes sense.
        return JobState.OVER if self.searches > 0 else JobState.UNKNOWN

    def _job(self, own: list[Claim]) -> JobRef | None:
        """The job to follow: the one that claimed the attempt, whichever the launcher named to us.

        Args:
            own: claims of the present attempt.
        """
        known = self.record.job
        if not own or own[-1].damaged:
            return known
        claimant = job_of(own[-1], self.record)
        if known is not None and (claimant.launcher == LOCAL or claimant.id == known.id):
            return known  # a local job's worker is not the process that was started for it
        return claimant

    def adopt(self) -> None:
        """Record the job that the last look found to be the one to follow."""
        if self.job != self.record.job:
            self.write(job=self.job)

    def _with_worker(self, claim: Claim) -> JobState:
        """A local job lives as long as its worker does, even if its controller was killed."""
        if self.phase is JobState.OVER and claim.process.is_alive() and claim.job.startswith(f"{LOCAL}:"):
            return JobState.RUNNING
        return self.phase

    def _done_with(self) -> bool:
        """Whether the job lives on and waits for another trial: this one's run is over, whatever it has left."""
        record = self.record
        if record.submission is None or record.job is None:
            return False
        name = record.worker or f"{record.submission}.{record.index}"
        if self._worker is None or self._worker.name != name:
            self._worker = WorkerFolder(self.submissions.parent, name)
        return self._worker.waiting() is not None

    def _fruitless(self, claims: list[Claim], over: bool) -> int:
        """Ended runs in a row, up to the newest, that brought no newer checkpoint than those before them.

        A requeue ends a run as well as a new attempt does. Counted anew only when there is a run more, or none left,
        and the time limits among the ends with them.
        """
        if over or len(claims) != self._claims_counted:
            self._claims_counted = len(claims)
            ended = claims if over else claims[:-1]
            self._time_limits = sum((self.dir.run_dir(claim.label) / TIME_LIMIT).exists() for claim in claims)
            newest, self._fruitless_runs, self.file_system_failures = -1, 0, 0
            for claim in ended:
                folder = self.dir.run_dir(claim.label)
                step = newest_step(folder)
                self._fruitless_runs = 0 if step > newest else self._fruitless_runs + 1
                failures = self.file_system_failures + (folder / transient.RECORD).exists()
                self.file_system_failures = failures if self._fruitless_runs else 0
                newest = max(newest, step)
        return self._fruitless_runs

    def new_lines(self, all_of_them: bool = False) -> Iterator[Line]:
        """Metrics lines that came since the last call, in order of the runs that the last look saw.

        Args:
            all_of_them: read on to the end; else as much as one look should take.
        """
        for label in [claim.label for claim in self._claims]:
            if label not in self.offsets:
                self.offsets[label], self._reports[label] = 0, self.dir.run_dir(label) / "metrics.jsonl"
            while True:
                before = self.offsets[label]
                new, self.offsets[label] = metrics.read_from(self._reports[label], before)
                for line in new:
                    self.latest.update(line.values)
                    self.step, self.steps = line.step, line.steps or self.steps
                    yield line
                if not all_of_them or self.offsets[label] == before:
                    break

    def list_runs(self) -> None:
        """Look which runs there are, without all that a look is besides: the trial runs in this process."""
        self._claims = self.dir.claims_of(self.record.identity)

    def run_labels(self) -> list[str]:
        """The runs that the trial has, oldest first."""
        return [claim.label for claim in self.dir.claims_of(self.record.identity)]

    @property
    def run(self) -> str:
        """The label of the run of its present attempt that the last look found; empty if there was none."""
        newest = self._claims[-1] if self._claims else None
        return newest.label if newest is not None and newest.attempt == self.record.attempt else ""

    @property
    def seen_on(self) -> str:
        """Where the last look found its newest run; empty before the first. Asks no files."""
        return self._claims[-1].node if self._claims else ""

    def node(self) -> str:
        """Where the newest run was; empty before the first."""
        claims = self.dir.claims()
        return claims[-1].node if claims else ""

    def log_tail(self, own_only: bool = False) -> str:
        """The end of the newest log of a trial that never said how it ended.

        Args:
            own_only: not those that its job shares with others of its submission.
        """
        logs = [self.dir.run_dir(label) / "log" for label in self.run_labels()]
        if self.record.submission is not None:
            submitted = self.record.worker or self.record.submission  # a worker's name begins with its submission's
            folder, job = self.submissions / submitted.partition(".")[0], self.record.job
            everybody = sorted(folder.glob("*.out")) + sorted(folder.glob("*.err"))
            own = [log for log in everybody if job is not None and log.name.startswith(f"{job.id}_")]
            logs += own or ([] if own_only else everybody)
        return next((text for log in reversed(logs) if (text := records.tail(log, LOG_TAIL))), "")

    def seconds(self, result: Result | None = None) -> float | None:
        """How long the trial ran, over all of its runs; None if it never did, or nobody counted.

        The run that brought the result says so itself. Of the others counts what drivers saw: what a trial did while
        there was no driver is left out.
        """
        if self.started is None:
            return None
        total = 0.0 if result is None or result.run is None else result.seconds.get("total", 0.0)
        known = {result.run} if result is not None and total > 0 else set()
        total += sum(seconds for label, seconds in self.ran.items() if label not in known)
        return total or None


def _submission_state(record: TrialRecord, job: JobRef | None) -> SubmissionState:
    if job is not None:
        return SubmissionState.DONE
    return SubmissionState.NONE if record.submission is None else SubmissionState.MAYBE


def _begun(run_dir: Path) -> float:
    """When a run began (Unix seconds), by its claim; by its folder, later than that, if somebody deleted the claim."""
    try:
        return (run_dir / "claim").stat().st_mtime
    except FileNotFoundError:
        return run_dir.stat().st_mtime


def job_of(claim: Claim, record: TrialRecord) -> JobRef:
    """The job that made a claim, as its launcher knows it."""
    launcher, _, rest = claim.job.partition(":")
    if launcher != LOCAL:
        return JobRef(launcher, rest)
    marked = None if record.submission is None else record.worker or marker(record.submission, record.index)
    return JobRef(LOCAL, str(claim.process.pid), claim.process.to_json(), marked)
