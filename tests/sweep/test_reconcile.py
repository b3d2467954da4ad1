"""Reconcile, as a table and in a small world of jobs, claims and deaths.

The generated worlds interleave a driver that may die between any two of its writes with jobs that start late,
die, are requeued, run twice, or go on running on a node that Slurm lost. Whatever happens, each trial is told
once, with a result of its own, and what is left to itself ends.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trialfleet.sweep.reconcile import Do, JobState, Limits, Observation, SubmissionState, reconcile
from trialfleet.trial.result import Result, TrialState

LIMITS = Limits(max_retries=2, max_unclaimed=3, max_timeouts=None)
COMPLETE = Result(TrialState.COMPLETE, [1.0], None, {}, "1.0", {})

# -------------------------------------------------------------------- the table

NONE, MAYBE, DONE = SubmissionState.NONE, SubmissionState.MAYBE, SubmissionState.DONE
RUNS = Observation(submission=DONE, job=JobState.RUNNING, claimed=True)
LOST = Observation(submission=DONE, job=JobState.OVER, claimed=True, fruitless=1)
NEVER_BEGAN = Observation(submission=DONE, job=JobState.OVER, unclaimed=1)


@pytest.mark.parametrize(
    ("seen", "do"),
    [
        # nothing was submitted yet, whatever the launcher says of it
        (Observation(), Do.SUBMIT),
        (Observation(job=JobState.OVER), Do.SUBMIT),
        # a driver died around sbatch: look for the job, unless there is nobody to ask
        (Observation(submission=MAYBE, job=JobState.UNKNOWN), Do.WAIT),
        (Observation(submission=MAYBE, job=JobState.OVER), Do.FIND),
        (Observation(submission=MAYBE, job=JobState.UNKNOWN, claimed=True), Do.WAIT),
        (Observation(submission=MAYBE, job=JobState.RUNNING, claimed=True), Do.WAIT),
        # a job that waits, runs, or only looks over
        *[(replace(RUNS, job=job), Do.WAIT) for job in JobState if job is not JobState.OVER],
        *[(replace(RUNS, job=job, claimed=False), Do.WAIT) for job in JobState if job is not JobState.OVER],
        # it ended, or was lost: a claim tells whether the trial began
        (LOST, Do.NEXT_ATTEMPT),
        (replace(LOST, fruitless=0), Do.NEXT_ATTEMPT),
        (replace(LOST, fruitless=2), Do.NEXT_ATTEMPT),
        (replace(LOST, fruitless=3), Do.GIVE_UP),
        (replace(LOST, fruitless=9, forgiven=7), Do.NEXT_ATTEMPT),
        (replace(LOST, fruitless=9, forgiven=6), Do.GIVE_UP),
        (NEVER_BEGAN, Do.SAME_ATTEMPT),
        (replace(NEVER_BEGAN, unclaimed=2, fruitless=9), Do.SAME_ATTEMPT),
        (replace(NEVER_BEGAN, unclaimed=3), Do.GIVE_UP),
        # a verdict outlives the run that it was made for
        (replace(LOST, pruned=True), Do.PRUNE),
        (replace(LOST, pruned=True, fruitless=9), Do.PRUNE),
        (replace(RUNS, pruned=True), Do.WAIT),
    ],
)
def test_what_to_do(seen: Observation, do: Do) -> None:
    assert reconcile(seen, LIMITS).do is do


def every_sight() -> Iterator[Observation]:
    """Each combination of what can be seen, with numbers around the limits."""
    for result, submission, job, claimed, pruned, fruitless, unclaimed, timeouts in itertools.product(
        (None, COMPLETE), SubmissionState, JobState, (False, True), (False, True), (0, 2, 3), (1, 3), (0, 2)
    ):
        yield Observation(result, submission, job, claimed, pruned, fruitless, unclaimed, timeouts)


def test_every_sight_has_an_answer_and_each_ending_a_reason() -> None:
    for limits in (LIMITS, replace(LIMITS, max_timeouts=1), Limits(0, 1, 0)):
        for seen in every_sight():
            action = reconcile(seen, limits)
            assert (action.do is Do.TELL) == (seen.result is not None)
            if action.do in (Do.GIVE_UP, Do.NEXT_ATTEMPT, Do.SAME_ATTEMPT):
                assert action.reason


def test_nothing_is_started_while_a_job_may_still_run() -> None:
    for seen in every_sight():
        if seen.submission is DONE and seen.job is not JobState.OVER:
            assert reconcile(seen, LIMITS).do in (Do.TELL, Do.WAIT, Do.GIVE_UP)


def test_preemption_that_brings_checkpoints_never_exhausts_the_retries() -> None:
    assert reconcile(replace(LOST, fruitless=0, timeouts=99), LIMITS).do is Do.NEXT_ATTEMPT


def test_time_limits_are_capped_only_where_asked() -> None:
    seen = replace(LOST, fruitless=0, timeouts=3)
    assert reconcile(seen, replace(LIMITS, max_timeouts=3)).do is Do.NEXT_ATTEMPT
    capped = reconcile(replace(seen, timeouts=4), replace(LIMITS, max_timeouts=3))
    assert capped.do is Do.GIVE_UP
    assert "max_num_timeout" in capped.reason


def test_the_reason_names_the_setting() -> None:
    assert "max_retries=2" in reconcile(replace(LOST, fruitless=3), LIMITS).reason


# -------------------------------------------------------------------- the world


@dataclass
class Run:
    """One life of a process: it may outlive its job where a node is lost to Slurm only."""

    trial: int
    attempt: int
    restart: int
    job: int
    alive: bool = True
    label: str | None = None  # once it has claimed
    saw_nothing_newer: bool = False
    step: int = -1  # of its newest checkpoint


@dataclass
class SlurmJob:
    id: int
    submission: int
    trial: int
    attempt: int
    restart: int = 0
    phase: JobState = JobState.PENDING
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """result.json."""

    trial: int
    state: str
    label: str | None


@dataclass(frozen=True)
class Record:
    """trial.json."""

    attempt: int = 1
    submission: int | None = None
    job: int | None = None
    unclaimed: int = 0


@dataclass
class Files:
    """A trial's folder, which outlives whoever writes to it."""

    record: Record = Record()
    claims: list[Run] = field(default_factory=list)
    result: Outcome | None = None
    verdict: bool = False


class Dies(Exception):
    """The driver is killed before its next write."""


class World(RuleBasedStateMachine):
    trials = (0, 1)
    patience = 3  # looks of the launcher without the job of a submission, until it is taken for never submitted

    def __init__(self) -> None:
        super().__init__()
        self.files = {trial: Files() for trial in self.trials}
        self.jobs: list[SlurmJob] = []
        self.told: dict[int, list[Outcome]] = {trial: [] for trial in self.trials}
        self.reachable = True
        self.searches = dict.fromkeys(self.trials, 0)  # the driver's memory: gone when it dies
        self.writes_left: int | None = None
        self.numbers = itertools.count(1)
        self.checkpoints = 0
        self.ending = "kind"

    # ---------------------------------------------------------------- the driver

    @rule(trial=st.sampled_from(trials), writes=st.none() | st.integers(0, 3), answer=st.sampled_from(("yes", "lost")))
    def driver_looks(self, trial: int, writes: int | None, answer: str) -> None:
        """One look at one trial; the driver is killed after so many writes, and another takes its place."""
        self.writes_left = writes
        try:
            self._look(trial, answer)
        except Dies:
            self.searches = dict.fromkeys(self.trials, 0)

    def _writes(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Dies
            self.writes_left -= 1

    def _write(self, trial: int, record: Record) -> None:
        self._writes()
        self.files[trial].record = record

    def _look(self, trial: int, answer: str = "yes") -> None:
        if self.told[trial]:
            return
        files = self.files[trial]
        if self.reachable and files.record.submission is not None and files.record.job is None:
            self.searches[trial] += 1
        seen = self._see(trial)  # Slurm first, files second
        match reconcile(seen, LIMITS).do:
            case Do.TELL:
                assert files.result is not None
                self._writes()
                self.told[trial].append(files.result)
            case Do.SUBMIT:
                self._submit(trial, answer)
            case Do.FIND:
                found = [job for job in self.jobs if job.submission == files.record.submission]
                if found:
                    self._write(trial, replace(files.record, job=found[0].id))
                elif self.searches[trial] >= self.patience:
                    self.searches[trial] = 0
                    self._write(trial, replace(files.record, submission=None))
            case Do.SAME_ATTEMPT:
                self._write(trial, replace(files.record, submission=None, job=None, unclaimed=seen.unclaimed))
            case Do.NEXT_ATTEMPT:
                self._write(trial, Record(files.record.attempt + 1))
            case Do.PRUNE:
                self._commit(trial, Outcome(trial, "PRUNED", None))
            case Do.GIVE_UP:
                self._commit(trial, Outcome(trial, "FAIL", None))

    def _see(self, trial: int) -> Observation:
        files, record = self.files[trial], self.files[trial].record
        own = [run for run in files.claims if run.attempt == record.attempt]
        if own and record.job != own[-1].job:
            self._write(trial, replace(record, job=own[-1].job))
            record = files.record
        if record.job is None:
            phase = JobState.OVER if self.searches[trial] else JobState.UNKNOWN
        else:
            phase = self._job(record.job).phase if self.reachable else JobState.UNKNOWN
        submission = DONE if record.job is not None else NONE if record.submission is None else MAYBE
        ended = files.claims if phase is JobState.OVER else files.claims[:-1]
        newest, fruitless = -1, 0
        for run in ended:
            fruitless = 0 if run.step > newest else fruitless + 1
            newest = max(newest, run.step)
        result = None if files.result is None else COMPLETE
        return Observation(result, submission, phase, bool(own), files.verdict, fruitless, record.unclaimed + 1)

    def _submit(self, trial: int, answer: str) -> None:
        record = replace(self.files[trial].record, submission=next(self.numbers), job=None)
        self._write(trial, record)
        self.searches[trial] = 0
        self._writes()
        assert record.submission is not None
        job = SlurmJob(next(self.numbers), record.submission, trial, record.attempt)
        self.jobs.append(job)
        if answer == "yes":
            self._write(trial, replace(record, job=job.id))

    def _commit(self, trial: int, outcome: Outcome) -> None:
        self._writes()
        if self.files[trial].result is None:
            self.files[trial].result = outcome

    @rule(trial=st.sampled_from(trials))
    def driver_condemns(self, trial: int) -> None:
        if self.files[trial].claims and not self.told[trial]:
            self.files[trial].verdict = True

    # ---------------------------------------------------------------- Slurm

    @rule()
    def controller_goes_or_comes(self) -> None:
        self.reachable = not self.reachable

    def _job(self, number: int) -> SlurmJob:
        return next(job for job in self.jobs if job.id == number)

    def _jobs(self, *phases: JobState) -> list[SlurmJob]:
        return [job for job in self.jobs if job.phase in phases]

    @precondition(lambda self: self._jobs(JobState.PENDING))
    @rule(data=st.data())
    def starts_a_job(self, data: st.DataObject) -> None:
        self._start(data.draw(st.sampled_from(self._jobs(JobState.PENDING))))

    def _start(self, job: SlurmJob) -> None:
        job.phase = JobState.RUNNING
        job.runs.append(Run(job.trial, job.attempt, job.restart, job.id))

    @precondition(lambda self: self._jobs(JobState.RUNNING))
    @rule(data=st.data(), ghost=st.booleans(), end=st.sampled_from(("requeued", "over")))
    def loses_a_job(self, data: st.DataObject, ghost: bool, end: str) -> None:
        """A node fails, or only seems to: then the process goes on beside whatever comes next."""
        job = data.draw(st.sampled_from(self._jobs(JobState.RUNNING)))
        job.runs[-1].alive = ghost
        job.phase = JobState.PENDING if end == "requeued" else JobState.OVER
        job.restart += 1

    @precondition(lambda self: self._jobs(JobState.PENDING))
    @rule(data=st.data())
    def cancels_a_waiting_job(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._jobs(JobState.PENDING))).phase = JobState.OVER

    # ---------------------------------------------------------------- the jobs' processes

    def _runs(self) -> list[Run]:
        return [run for job in self.jobs for run in job.runs if run.alive]

    @precondition(lambda self: self._runs())
    @rule(data=st.data(), state=st.sampled_from(("COMPLETE", "FAIL", "PRUNED")))
    def a_process_goes_on(self, data: st.DataObject, state: str) -> None:
        """Its next step: claim, look for newer claims, commit, end."""
        self._step(data.draw(st.sampled_from(self._runs())), state)

    def _step(self, run: Run, state: str = "COMPLETE") -> None:
        files = self.files[run.trial]
        if run.label is None:
            if not self._claims(run):
                self._end(run)
        elif any((other.attempt, other.restart) > (run.attempt, run.restart) for other in files.claims):
            self._end(run)
        elif not run.saw_nothing_newer:
            run.saw_nothing_newer = True
        else:
            if files.result is None:
                files.result = Outcome(run.trial, state, run.label)
            self._end(run)

    def _claims(self, run: Run) -> bool:
        """The rules of `TrialDir.claim`."""
        files = self.files[run.trial]
        own = [other for other in files.claims if other.attempt == run.attempt]
        newer = any(other.attempt > run.attempt for other in files.claims)
        if files.result or newer or (own and (own[0].job != run.job or own[-1].restart >= run.restart)):
            return False
        run.label = f"{run.attempt}.{run.restart if own else 0}"
        files.claims.append(run)
        return True

    def _end(self, run: Run) -> None:
        run.alive = False
        job = self._job(run.job)
        if job.runs[-1] is run and job.phase is JobState.RUNNING:
            job.phase = JobState.OVER

    @precondition(lambda self: any(run.label for run in self._runs()))
    @rule(data=st.data())
    def a_process_saves(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([run for run in self._runs() if run.label]))
        self.checkpoints += 1
        run.step = self.checkpoints

    # ---------------------------------------------------------------- what holds always

    @invariant()
    def each_trial_is_told_at_most_once_and_what_its_file_says(self) -> None:
        for trial, told in self.told.items():
            assert len(told) <= 1
            assert not told or told[0] == self.files[trial].result

    @invariant()
    def a_result_is_the_trials_own(self) -> None:
        for trial, files in self.files.items():
            if files.result is not None:
                assert files.result.trial == trial
                assert files.result.label is None or files.result.label in {run.label for run in files.claims}

    @invariant()
    def an_attempt_has_one_job(self) -> None:
        for files in self.files.values():
            assert len({(run.attempt, run.job) for run in files.claims}) == len({run.attempt for run in files.claims})

    # ---------------------------------------------------------------- what happens in the end

    @initialize(world=st.sampled_from(("kind", "every run dies", "every job dies before it begins")))
    def becomes_in_the_end(self, world: str) -> None:
        self.ending = world

    def teardown(self) -> None:
        self._is_left_to_itself(self.ending)

    def _is_left_to_itself(self, world: str) -> None:
        """Nothing more goes wrong, or the same always does: each trial ends, after a bounded number of jobs."""
        self.writes_left, self.reachable = None, True
        for files in self.files.values():
            files.verdict = files.verdict and world != "kind"
        for run in self._runs():
            run.alive = run.alive and world == "kind"
        jobs = len(self.jobs)
        for _ in range(200):
            for trial in self.trials:
                self._look(trial)
            for job in self._jobs(JobState.PENDING, JobState.RUNNING):
                self._goes_on(job, world)
            for run in self._runs():
                self._step(run)
        assert all(len(told) == 1 for told in self.told.values())
        assert len(self.jobs) - jobs <= len(self.trials) * (LIMITS.max_retries + LIMITS.max_unclaimed + 2)

    def _goes_on(self, job: SlurmJob, world: str) -> None:
        if world == "every job dies before it begins":
            job.phase = JobState.OVER
            return
        if job.phase is JobState.PENDING:
            self._start(job)
        if world == "every run dies":
            run = job.runs[-1]
            if run.label is None:
                self._claims(run)
            run.alive = False
            job.phase = JobState.OVER


TestWorld = World.TestCase
TestWorld.settings = settings(settings.get_profile("everyday"), max_examples=100, stateful_step_count=40)
