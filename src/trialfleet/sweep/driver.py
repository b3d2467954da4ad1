"""The driver: one loop that looks at every unfinished trial, acts, and keeps the slots filled.

Recovery is no case of its own. A driver starts by tracking every unfinished trial of the study and then does
what it always does; what ended meanwhile is taken in, what still runs is followed, what was lost goes on.
"""

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from trialfleet.sweep import blocking_fleet
from trialfleet.sweep import budget as budgets
from trialfleet.sweep import standings as standings_of
from trialfleet.sweep.casualties import Nodes, mass_cancelled
from trialfleet.sweep.constraints import Constraint
from trialfleet.sweep.dispatch import Dispatch
from trialfleet.sweep.fleet import Fleet, Interrupted
from trialfleet.sweep.kept import KeptCheckpoints, drop_checkpoints
from trialfleet.sweep.lease import LeaseLost
from trialfleet.sweep.proposer import Proposer
from trialfleet.sweep.reconcile import Action, Do, Job, Limits, Seen, reconcile
from trialfleet.sweep.settings import Settings
from trialfleet.sweep.standings import Finished, Standings
from trialfleet.sweep.store import FAILURE, OWNER, StudyStore
from trialfleet.sweep.tracked import Tracked
from trialfleet.tracking import records
from trialfleet.tracking.submission import TrialRecord
from trialfleet.tracking.trial_dir import Result, TrialDir, TrialState

SEARCHES = 3  # looks at the launcher for a job whose submission was not confirmed, before it is submitted again
FULL_DISK_PAUSE = 5.0  # seconds between two looks whether there is room again
ROOM = 1 << 16  # bytes that must fit on the disk before a trial's loss is taken for its own fault
# Slurm's reasons to let a job wait that pass by themselves; any other is shown once.
PATIENCE = ("", "None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Observer(Protocol):
    """Who hears what happens to trials: the terminal and MLflow. Calls must return at once."""

    def recovered(self, number: int, directory: TrialDir) -> None: ...  # was told before this driver
    def started(self, trial: Tracked) -> None: ...
    def running(self, trial: Tracked, label: str) -> None: ...
    def retried(self, trial: Tracked, reason: str) -> None: ...
    def ended(self, trial: Tracked, result: Result) -> None: ...
    def best(self, front: Sequence[Finished]) -> None: ...
    def notice(self, message: str) -> None: ...
    def tick(self, driver: "Driver") -> None: ...


@dataclass(frozen=True)
class Study:
    """What the driver works on.

    Attributes:
        folder: `sweeps/<study>`.
        submissions: where submissions, scripts and the launcher's logs go.
        uids: owners whose trials are ours: the study's uid, and those it had before it was copied.
        metric: the objective's name in reports, for pruning; None to look at no reports.
    """

    folder: Path
    submissions: Path
    uids: Sequence[str]
    metric: str | None

    def trial_dir(self, number: int) -> TrialDir:
        return TrialDir(self.folder / "trials" / f"{number:05d}")


@dataclass
class Clock:
    """Time as the driver sees it; replaced in simulations."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Driver:
    """Runs a study to its end, or until it is told to stop.

    Attributes:
        fleets: by launcher's name, for jobs that are there already; `fleet` is where new ones go.
        payload: the file that all jobs share.
        stop_asking: why no more trials are started; empty while they are. `failed` if that is a failure.
        detach: set to leave at once, with `detach_reason` in words.
    """

    study: Study
    store: StudyStore
    proposer: Proposer
    pruner: optuna.pruners.BasePruner | None
    settings: Settings
    limits: Limits
    n_trials: int
    fleets: dict[str, Fleet]
    fleet: Fleet
    payload: Path
    observers: Sequence[Observer]
    standings: Standings
    account: budgets.Account
    constraints: Sequence[Constraint] = ()
    clock: Clock = field(default_factory=Clock)
    tracked: dict[int, Tracked] = field(default_factory=dict)
    stop_asking: str = ""
    failed: str = ""
    detach: bool = False
    detach_reason: str = ""
    _kept: KeptCheckpoints = field(init=False)
    _dispatch: Dispatch = field(init=False)
    _next_refresh: float = 0.0
    _refresh_every: float = 0.0
    _moved: bool = True
    _full: bool = False  # the disk was, at the last write
    _silent: set[str] = field(default_factory=set)  # launchers that did not answer when last asked
    _said_once: set[str] = field(default_factory=set)
    _nodes: Nodes = field(default_factory=Nodes)

    def __post_init__(self) -> None:
        self._kept = KeptCheckpoints(self.settings.keep_checkpoints, self.standings)
        self._dispatch = Dispatch(
            fleet=self.fleet,
            launcher=next(name for name, fleet in self.fleets.items() if fleet is self.fleet),
            payload=self.payload,
            folder=self.study.folder,
            submissions=self.study.submissions,
            n_objectives=len(self.standings.directions),
            look_every=self.settings.watch.verdict,
            check_lease=self.store.check_lease,
            now=lambda: self.clock.now(),  # the clock may be replaced later
            notice=self._notice,
        )

    # ---------------------------------------------------------------- the loop

    def run(self) -> None:
        """Returns when the study is finished, must not go on, or `detach` is set. `recover` comes first."""
        while not self.detach:
            try:
                self.store.check_lease()
                self._look_at_all()
            except LeaseLost:
                self.account.close()
                raise
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # Nothing fails and nothing new starts; what was half done is done again later.
                self._full = True
                self._dispatch.pause(FULL_DISK_PAUSE, f"{error.strerror}: waiting for room in {self.study.folder}")
            for observer in self.observers:
                observer.tick(self)
            if not self.tracked and not self._wanted():
                return
            self.clock.sleep(self.settings.watch.files)

    def _look_at_all(self) -> None:
        if self._full:
            if self._dispatch.paused():
                return
            self._mend()
        if self._refresh() and (cancelled := mass_cancelled(self.tracked.values(), self.fleets)):
            self.detach = True
            self.detach_reason = f"{cancelled} jobs were cancelled from outside: the study pauses"
            return
        now = self.clock.now()
        for trial in list(self.tracked.values()):
            if trial.due(self.fleets, now):
                self._look(trial)
        self._heed_budget()
        self._refill()
        self._submit()

    def recover(self) -> None:
        """Track every unfinished trial of ours and count the finished ones."""
        for trial in self.store.trials():
            if trial.user_attrs.get(OWNER) not in self.study.uids:
                continue
            if trial.state is OptunaState.RUNNING:
                self._track(trial._trial_id, trial.number)
            elif trial.state.is_finished():
                finished = _finished(trial, None)
                self.standings.add(finished)
                self._kept.add(finished)
                for observer in self.observers:
                    observer.recovered(trial.number, self.study.trial_dir(trial.number))
        if self.standings.front:
            self._announce_best()

    def _track(self, trial_id: int, number: int) -> None:
        directory = self.study.trial_dir(number)
        record = TrialRecord.read(directory.trial_json)
        if record is None:  # the driver died between asking and writing
            record = self.proposer.complete(trial_id)
            record.write(directory.trial_json)
        if record.launcher == blocking_fleet.LAUNCHER and record.job is None:
            record = replace(record, submission=None)  # it ran inside a driver that is gone
            record.write(directory.trial_json)
        trial = Tracked(trial_id, record, directory)
        trial.pruned = directory.verdict_json.exists()
        self.tracked[number] = trial
        for observer in self.observers:
            observer.started(trial)

    def _mend(self) -> None:
        """The disk was full: before anything is written, put right what was cut off then."""
        self._make_sure_of_room()
        self.store.mend()
        self._dispatch.queue.clear()
        for trial in self.store.trials():
            ours = trial.user_attrs.get(OWNER) in self.study.uids
            if ours and trial.state is OptunaState.RUNNING and trial.number not in self.tracked:
                self._track(trial._trial_id, trial.number)
        self._full = False

    # ---------------------------------------------------------------- look and act

    def _refresh(self) -> bool:
        """Ask the launchers once for all jobs: often while jobs come and go, seldom when nothing moves.

        Returns:
            whether it was time to ask.
        """
        now = self.clock.now()
        if now < self._next_refresh:
            return False
        concerned = {trial.record.launcher for trial in self.tracked.values() if trial.record.submission is not None}
        answered = {name: self.fleets[name].refresh() for name in self.fleets if name in concerned}
        for trial in self.tracked.values():
            if trial.record.submission is not None and trial.record.job is None:
                trial.searches += answered.get(trial.record.launcher, False)
        before, self._silent = self._silent, concerned - {name for name, answer in answered.items() if answer}
        for name in before & self._silent:
            self._notice_once(f"{name} does not answer: its jobs are left as they are until it does")
        self._show_why_jobs_wait()
        watch = self.settings.watch
        self._refresh_every = (
            watch.jobs if self._moved or self._silent else min(2 * self._refresh_every, watch.max_jobs)
        )
        self._moved = False
        self._next_refresh = now + self._refresh_every
        return True

    def _look(self, trial: Tracked) -> None:
        if trial in self._dispatch.queue:
            return
        before = trial.phase
        seen = trial.see(self.fleets)
        if trial.phase is not before:
            self._moved = True
        if trial.phase is not Job.PENDING:
            self._follow(trial)
        trial.rest(self.clock.now(), self.settings.watch.max_files)
        self._act(trial, reconcile(seen, self.limits), seen)

    def _act(self, trial: Tracked, action: Action, seen: Seen) -> None:
        if action.do is Do.WAIT:
            return
        self.store.check_lease()
        if action.do in (Do.RESUBMIT, Do.SUBMIT_AGAIN, Do.GIVE_UP):
            self._make_sure_of_room()
        match action.do:
            case Do.TELL:
                assert seen.result is not None
                self._finish(trial, seen.result)
            case Do.SUBMIT:
                self._dispatch.queue.append(trial)
            case Do.FIND:
                self._find(trial)
            case Do.SUBMIT_AGAIN:
                trial.write(submission=None, job=None, unclaimed=seen.unclaimed)
                self._retry(trial, action.reason)
            case Do.RESUBMIT:
                self._nodes.died(trial)
                trial.write(
                    attempt=trial.record.attempt + 1,
                    submission=None,
                    job=None,
                    unclaimed=0,
                    timeouts=trial.record.timeouts + trial.timed_out,
                )
                self._retry(trial, action.reason)
            case Do.PRUNE:
                trial.dir.commit(Result(TrialState.PRUNED, None, None, {}, None, {}))
            case Do.GIVE_UP:
                error = {"type": "Lost", "message": action.reason, "traceback": trial.log_tail(self.study.submissions)}
                trial.dir.commit(Result(TrialState.FAIL, None, error, {}, None, {}))
                self._cancel_jobs([trial])

    def _make_sure_of_room(self) -> None:
        """A full disk kills jobs, too: then nothing is counted against them, and nothing started, until there is room.

        Raises:
            OSError: the disk is full.
        """
        probe = self.study.submissions / f".room-{uuid4().hex}"
        try:
            with open(probe, "wb") as file:
                file.write(b"\0" * ROOM)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)

    def _show_why_jobs_wait(self) -> None:
        """Say, once, what the launcher says of a job that may never start."""
        for trial in self.tracked.values():
            job = trial.record.job
            fleet = None if job is None else self.fleets.get(job.launcher)
            if job is None or fleet is None or fleet.phase(job) is not Job.PENDING:
                continue
            why = fleet.why(job)
            reason = why.partition(": ")[2]
            if reason not in PATIENCE:
                self._notice_once(f"trial {trial.number} waits: Slurm says of job {job.id}: {why}", about=reason)

    def _find(self, trial: Tracked) -> None:
        """Look for the job of a submission that the launcher did not confirm to us."""
        assert trial.record.submission is not None
        # The launcher may have been another one when the trial was submitted.
        job = self.fleets[trial.record.launcher].find(trial.record.submission, trial.record.index)
        if job is not None:
            trial.write(job=job)
        elif trial.searches >= SEARCHES:  # an sbatch that was under way when its driver died has come through by now
            trial.searches = 0
            trial.write(submission=None)

    def _retry(self, trial: Tracked, reason: str) -> None:
        trial.searches = 0
        self._moved = True
        for observer in self.observers:
            observer.retried(trial, reason)
        self._dispatch.queue.append(trial)

    def _follow(self, trial: Tracked) -> None:
        """Take in what the trial reported, and let the pruner judge it."""
        known = set(trial.offsets)
        lines = trial.new_lines()
        for label in trial.offsets.keys() - known:
            for observer in self.observers:
                observer.running(trial, label)
        if self.pruner is None or self.study.metric is None:
            return
        for _, line in lines:
            if self.study.metric in line.values and not trial.pruned:
                self._judge(trial, line.step, line.values[self.study.metric])

    def _judge(self, trial: Tracked, step: int, value: float) -> None:
        assert self.pruner is not None
        if not self.store.report(trial.trial_id, step, value):
            return
        if self.pruner.prune(self.store.study, self.store.frozen(trial.trial_id)):
            records.create(trial.dir.verdict_json, {"prune_at": step, "value": value})
            trial.pruned = True

    def _finish(self, trial: Tracked, result: Result) -> None:
        """Project result.json into the study, and tell everybody."""
        self._follow(trial)
        self.store.tell(trial.trial_id, result, self._violations(trial, result))
        del self.tracked[trial.number]
        self._moved = True
        if bad_node := self._nodes.ended(trial):
            self.fleet.exclude(bad_node)
            self._notice(f"node {bad_node}: several trials died there but not elsewhere; it gets no more")
        self.account.trial_over(trial.seconds())
        finished = _finished(self.store.frozen(trial.trial_id), trial.seconds())
        better = self.standings.add(finished)
        for observer in self.observers:
            observer.ended(trial, result)
        if better:
            self._announce_best()
        drop_checkpoints(trial.dir, but_of=[result.run] if result.run else [])
        for number in self._kept.add(finished):
            drop_checkpoints(self.study.trial_dir(number))
        self._consider_stopping(finished)

    def _violations(self, trial: Tracked, result: Result) -> dict[str, float]:
        if result.state is not TrialState.COMPLETE:
            return {}
        return {one.metric: one.violation(trial.latest) for one in self.constraints}

    def _consider_stopping(self, trial: Finished) -> None:
        rate = self.settings.max_failure_rate
        if trial.error is not None and self.standings.failed > rate * self.n_trials:
            self.failed = self.stop_asking = (
                f"{self.standings.failed} trials failed, more than max_failure_rate={rate} of "
                f"n_trials={self.n_trials} allows; the last was trial {trial.number}: {trial.error}"
            )
        self.stop_asking = self.stop_asking or budgets.stagnated(self.settings.budget, self.store)

    def _announce_best(self) -> None:
        standings_of.write_results(self.study.folder / "optimization_results.yaml", self.standings)
        for observer in self.observers:
            observer.best(self.standings.front)

    # ---------------------------------------------------------------- start trials

    def slots(self) -> int:
        """Trials that may be in flight at a time."""
        return min(self.settings.n_jobs, self.fleet.limit)

    def _wanted(self) -> int:
        """Trials still to be asked for."""
        if self.stop_asking:
            return 0
        return max(0, self.n_trials - self.standings.finished - len(self.tracked))

    def _heed_budget(self) -> None:
        self.account.pass_time()
        budget, running = self.settings.budget, 0.0
        if budget.device_hours is not None:
            running = sum(trial.seconds() or 0.0 for trial in self.tracked.values() if trial.phase is Job.RUNNING)
        self.stop_asking = self.stop_asking or budgets.exceeded(budget, self.account, running)

    def _refill(self) -> None:
        if self._dispatch.paused():
            return
        for _ in range(min(self._wanted(), self.slots() - len(self.tracked))):
            trial_id, record = self.proposer.propose(self.standings.finished + len(self.tracked))
            # trial.json comes with the submission; a driver that dies before completes it from the stored parameters.
            trial = Tracked(trial_id, record, self.study.trial_dir(record.number))
            self.tracked[record.number] = trial
            self._dispatch.queue.append(trial)
            for observer in self.observers:
                observer.started(trial)

    def _submit(self) -> None:
        if self._dispatch.launcher in self._silent:
            return
        try:
            submitted = self._dispatch.submit_queued()
        except Interrupted as interruption:
            self.detach, self.detach_reason = True, str(interruption)
            return
        if submitted:
            self._moved = True
            self._next_refresh = 0.0

    def _notice_once(self, message: str, about: str = "") -> None:
        """Say it, unless it was said of another trial."""
        if (about or message) not in self._said_once:
            self._said_once.add(about or message)
            self._notice(message)

    def _notice(self, message: str) -> None:
        for observer in self.observers:
            observer.notice(message)

    # ---------------------------------------------------------------- cancel

    def cancel(self) -> None:
        """End every unfinished trial: committed as failed by us first, so that no job takes it up again."""
        error = {"type": standings_of.CANCELLED, "message": "the study was cancelled", "traceback": ""}
        for trial in self.tracked.values():
            trial.dir.commit(Result(TrialState.FAIL, None, error, {}, None, {}))
        self._dispatch.queue.clear()
        self._cancel_jobs(list(self.tracked.values()))
        self.stop_asking = "the study was cancelled"

    def _cancel_jobs(self, trials: Sequence[Tracked]) -> None:
        jobs = [trial.record.job for trial in trials if trial.record.job is not None]
        for name, fleet in self.fleets.items():
            fleet.cancel([job for job in jobs if job.launcher == name])


def _finished(trial: FrozenTrial, seconds: float | None) -> Finished:
    values = trial.values if trial.state is OptunaState.COMPLETE else None
    feasible = all(violation <= 0 for violation in trial.constraints.values())
    error = trial.user_attrs.get(FAILURE)
    return Finished(trial.number, trial.state.name, values, trial.params, error, seconds, feasible)
