"""The driver: one loop that looks at every unfinished trial, acts, and keeps the slots filled.

Recovery is no case of its own. A driver starts by tracking every unfinished trial of the study and then does
what it always does; what ended meanwhile is taken in, what still runs is followed, what was lost goes on.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import optuna
from optuna.trial import TrialState as OptunaState

from trialfleet.errors import UserError
from trialfleet.sweep import standings as standings_of
from trialfleet.sweep.fleet import Busy, Fleet, MaybeSubmitted
from trialfleet.sweep.proposer import Proposer
from trialfleet.sweep.reconcile import Action, Do, Job, Limits, reconcile
from trialfleet.sweep.settings import Settings
from trialfleet.sweep.standings import Finished, Standings
from trialfleet.sweep.store import FAILURE, OWNER, StudyStore
from trialfleet.sweep.tracked import Tracked
from trialfleet.tracking import records
from trialfleet.tracking.submission import Assignment, Submission, TrialRecord
from trialfleet.tracking.trial_dir import Result, TrialDir, TrialState

MAX_ARRAY = 1000  # elements of one job array; Slurm's own default limit is 1001


class Observer(Protocol):
    """Who hears what happens to trials: the terminal and MLflow. Calls must return at once."""

    def started(self, trial: Tracked) -> None: ...
    def running(self, trial: Tracked, label: str) -> None: ...
    def retried(self, trial: Tracked, reason: str) -> None: ...
    def ended(self, trial: Tracked, result: Result) -> None: ...
    def best(self, front: Sequence[Finished]) -> None: ...
    def notice(self, message: str) -> None: ...
    def tick(self, driver: "Driver") -> None: ...


@dataclass(frozen=True)
class Study:
    """What the driver works on: the study's folder and names.

    Attributes:
        folder: `sweeps/<study>`.
        submissions: where submissions, scripts and the launcher's logs go.
        uids: owners whose trials are ours; the first is the study's present uid.
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
        stop_asking: set to start no more trials; `detach` to leave at once.
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
    clock: Clock = field(default_factory=Clock)
    tracked: dict[int, Tracked] = field(default_factory=dict)
    stop_asking: str = ""
    detach: bool = False
    paused_until: float = 0.0
    pause_reason: str = ""
    _queue: list[Tracked] = field(default_factory=list)
    _next_refresh: float = 0.0
    _refresh_every: float = 0.0
    _moved: bool = True

    # ---------------------------------------------------------------- the loop

    def run(self) -> None:
        """Returns when the study is finished, must not go on, or `detach` is set."""
        self._recover()
        while not self.detach:
            self._refresh()
            for trial in list(self.tracked.values()):
                self._look(trial)
            self._refill()
            self._submit_queued()
            for observer in self.observers:
                observer.tick(self)
            if not self.tracked and not self._wanted():
                return
            self.clock.sleep(self.settings.watch.files)

    def _recover(self) -> None:
        """Track every unfinished trial of ours and count the finished ones."""
        for trial in self.store.trials():
            if trial.user_attrs.get(OWNER) not in self.study.uids:
                continue
            if trial.state is OptunaState.RUNNING:
                self._track(trial._trial_id, trial.number)
            elif trial.state.is_finished():
                values = trial.values if trial.state is OptunaState.COMPLETE else None
                error = trial.user_attrs.get(FAILURE)
                self.standings.add(Finished(trial.number, trial.state.name, values, trial.params, error))
        if self.standings.front:
            self._announce_best()

    def _track(self, trial_id: int, number: int) -> None:
        directory = self.study.trial_dir(number)
        record = TrialRecord.read(directory.trial_json)
        if record is None:  # the driver died between asking and writing
            record = self.proposer.complete(trial_id)
            record.write(directory.trial_json)
        trial = Tracked(trial_id, record, directory)
        trial.pruned = directory.verdict_json.exists()
        self.tracked[number] = trial
        self._tell_observers_of(trial)

    def _tell_observers_of(self, trial: Tracked) -> None:
        for observer in self.observers:
            observer.started(trial)

    # ---------------------------------------------------------------- look and act

    def _refresh(self) -> None:
        """Ask the launchers once for all jobs: often while jobs come and go, seldom when nothing moves."""
        now = self.clock.now()
        if now < self._next_refresh:
            return
        answered = [fleet.refresh() for fleet in self.fleets.values()]
        if all(answered):
            for trial in self.tracked.values():
                if trial.record.submission is not None and trial.record.job is None:
                    trial.searches += 1
        watch = self.settings.watch
        self._refresh_every = watch.jobs if self._moved else min(2 * self._refresh_every, watch.max_jobs)
        self._moved = False
        self._next_refresh = now + self._refresh_every

    def _look(self, trial: Tracked) -> None:
        before = trial.phase
        if trial in self._queue:
            return
        seen = trial.see(self.fleets, self.fleet)
        if trial.phase is not before:
            self._moved = True
        if trial.phase is not Job.PENDING:
            self._follow(trial)
        self._act(trial, reconcile(seen, self.limits), seen.result)

    def _act(self, trial: Tracked, action: Action, result: Result | None) -> None:
        record = trial.record
        match action.do:
            case Do.WAIT:
                return
            case Do.TELL:
                assert result is not None
                self._finish(trial, result)
            case Do.SUBMIT:
                self._queue.append(trial)
            case Do.FIND:
                self._find(trial)
            case Do.SUBMIT_AGAIN:
                trial.write(submission=None, job=None, unclaimed=record.unclaimed + 1)
                self._retry(trial, action.reason)
            case Do.RESUBMIT:
                seen = trial.see(self.fleets, self.fleet)
                trial.write(
                    attempt=record.attempt + 1,
                    submission=None,
                    job=None,
                    unclaimed=0,
                    fruitless=seen.fruitless,
                    timeouts=seen.timeouts,
                )
                self._retry(trial, action.reason)
            case Do.GIVE_UP:
                error = {"type": "Lost", "message": action.reason, "traceback": _tail(trial, self.study)}
                trial.dir.commit(Result(TrialState.FAIL, None, error, {}, None, {}))

    def _find(self, trial: Tracked) -> None:
        """Look for the job of a submission that the launcher did not confirm to us."""
        assert trial.record.submission is not None
        job = self.fleet.find(trial.record.submission, trial.record.index)
        if job is not None:
            trial.write(job=job)
        elif trial.searches >= 3:  # an sbatch that was under way when its driver died has come through by now
            trial.searches = 0
            trial.write(submission=None)

    def _retry(self, trial: Tracked, reason: str) -> None:
        trial.searches = 0
        self._moved = True
        for observer in self.observers:
            observer.retried(trial, reason)
        self._queue.append(trial)

    def _follow(self, trial: Tracked) -> None:
        """Take in what the trial reported, and let the pruner judge it."""
        known = set(trial.offsets)
        lines = trial.new_lines()
        for label in set(trial.offsets) - known:
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
        self.store.tell(trial.trial_id, result)
        del self.tracked[trial.number]
        self._moved = True
        told = self.store.frozen(trial.trial_id)
        error = None if result.error is None else f"{result.error['type']}: {result.error['message']}"
        values = told.values if told.state is OptunaState.COMPLETE else None
        finished = Finished(trial.number, told.state.name, values, told.params, error, trial.seconds())
        better = self.standings.add(finished)
        for observer in self.observers:
            observer.ended(trial, result)
        if better:
            self._announce_best()
        allowed = self.settings.max_failure_rate * self.n_trials
        if self.standings.failed > allowed:
            self.stop_asking = (
                f"{self.standings.failed} trials failed, more than max_failure_rate="
                f"{self.settings.max_failure_rate} of n_trials={self.n_trials} allows"
            )

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

    def _refill(self) -> None:
        if self.clock.now() < self.paused_until:
            return
        for _ in range(min(self._wanted(), self.slots() - len(self.tracked))):
            trial_id, record = self.proposer.propose(self.standings.finished + len(self.tracked))
            directory = self.study.trial_dir(record.number)
            record.write(directory.trial_json)
            trial = Tracked(trial_id, record, directory)
            self.tracked[record.number] = trial
            self._queue.append(trial)
            self._tell_observers_of(trial)

    def _submit_queued(self) -> None:
        """Submit what is due: as one array where several start at once, singly otherwise."""
        if self.clock.now() < self.paused_until:
            return
        while self._queue and not self.detach:
            batch, self._queue = self._queue[:MAX_ARRAY], self._queue[MAX_ARRAY:]
            try:
                self._submit(batch)
            except Busy as busy:
                self._queue = batch + self._queue
                self.pause(30.0, f"the launcher takes no more jobs now: {busy}")
                return
            except MaybeSubmitted as silence:
                self.pause(5.0, f"the launcher did not answer: {silence}")
                return

    def _submit(self, batch: Sequence[Tracked]) -> None:
        uuid = uuid4().hex
        assignments = [Assignment(t.number, t.record.attempt, str(t.dir.path)) for t in batch]
        submission = Submission(
            uuid,
            str(self.payload),
            str(self.study.folder),
            len(self.standings.directions),
            self.settings.watch.verdict,
            assignments,
        )
        path = self.study.submissions / f"{uuid}.json"
        submission.write(path)
        for index, trial in enumerate(batch):
            trial.write(submission=uuid, index=index, job=None)
            trial.searches = 0
        try:
            jobs = self.fleet.submit(path, uuid, len(batch))
        except (Busy, UserError):
            for trial in batch:
                trial.write(submission=None)
            raise
        for trial, job in zip(batch, jobs, strict=True):
            trial.write(job=job)
        self._moved = True
        self._next_refresh = 0.0

    def pause(self, seconds: float, reason: str) -> None:
        """Start nothing for a while; say why, once."""
        self.paused_until = self.clock.now() + seconds
        if reason != self.pause_reason:
            self.pause_reason = reason
            for observer in self.observers:
                observer.notice(reason)

    # ---------------------------------------------------------------- cancel

    def cancel(self) -> None:
        """End every unfinished trial: committed as failed by us first, so that no job takes it up again."""
        error = {"type": "Cancelled", "message": "the study was cancelled", "traceback": ""}
        for trial in self.tracked.values():
            trial.dir.commit(Result(TrialState.FAIL, None, error, {}, None, {}))
        for name, fleet in self.fleets.items():
            fleet.cancel([t.record.job for t in self.tracked.values() if t.record.job and t.record.job.launcher == name])
        self.stop_asking = "the study was cancelled"


def _tail(trial: Tracked, study: Study, size: int = 4000) -> str:
    """The end of the newest log of a trial that never said how it ended."""
    logs = [trial.dir.run_dir(label) / "log" for label in trial.run_labels()]
    if trial.record.submission is not None:
        logs = [*sorted((study.submissions / trial.record.submission).glob("*.err")), *logs]
    for log in reversed(logs):
        if log.exists() and log.stat().st_size:
            return log.read_text(errors="replace")[-size:]
    return ""


def forget(folder: Path) -> None:
    """Put a study's folder aside for a fresh start: renamed, never deleted."""
    if folder.exists():
        stamp = time.strftime("%Y%m%d-%H%M%S")
        shutil.move(folder, folder.with_name(f"{folder.name}.before-{stamp}"))
