"""The driver: one loop that looks at every unfinished trial, acts, and keeps the slots filled.

Recovery is no case of its own. A driver starts by tracking every unfinished trial of the study and then does
what it always does; what ended meanwhile is taken in, what still runs is followed, what was lost goes on.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
from optuna.trial import TrialState as OptunaState

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.checkpoint_retention import CheckpointRetention, drop_checkpoints
from trialfleet.sweep.clock import Clock
from trialfleet.sweep.dispatch import Dispatch
from trialfleet.sweep.file_system_failures import FileSystemFailures
from trialfleet.sweep.fleets.base import Fleet, Interrupted
from trialfleet.sweep.forced_ends import ForcedEnds
from trialfleet.sweep.launcher_polling import LauncherPolling
from trialfleet.sweep.lingering_jobs import LingeringJobs
from trialfleet.sweep.memory_check import MemoryCheck
from trialfleet.sweep.memory_growth import MemoryGrowth
from trialfleet.sweep.node_health import mass_cancelled
from trialfleet.sweep.observers import Observers
from trialfleet.sweep.outages import Outages, make_sure_of_room
from trialfleet.sweep.reconcile import Action, Do, JobState, Limits, Observation, reconcile
from trialfleet.sweep.reports import Reports
from trialfleet.sweep.requests import Requests
from trialfleet.sweep.retries import Retries
from trialfleet.sweep.stop_rules import StopRules
from trialfleet.sweep.stopping import Jobs, Stopping
from trialfleet.sweep.study import budget
from trialfleet.sweep.study.constraints import Constraint
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.progress import Finished, StudyProgress, write_results
from trialfleet.sweep.study.projection import told
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.storage import OWNER, StudyStorage
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.sweep.sweeper_settings import Settings
from trialfleet.sweep.unreadable_trials import UnreadableTrials
from trialfleet.sweep.untracked_trials import UntrackedTrials
from trialfleet.sweep.wakes import Wakes
from trialfleet.sweep.workers import Workers
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import JobRef, TrialRecord


def _unknown(overrides: Sequence[str]) -> None:
    """No signature: the application does not tell."""


@dataclass
class Driver:
    """Runs a study to its end, or until it is told to stop.

    Attributes:
        fleets: by launcher's name, for jobs that are there already; `fleet` is where new ones go.
        payload: the file that all jobs share.
        takes_constraints: whether the sampler learns from violated constraints.
        ended_jobs: of trials that had ended before this driver: one that still runs has to leave.
        memory_check: whether trials fit their devices' memory; None if nobody is to be asked.
        stopping: the requests to stop that were made so far.
        token: of the lease, by which people say which driver is to stop.
        wakes: what ends the driver's rest early; None to rest for as long as `watch.files` says.
        signature: of the programs of a trial with these overrides; None if nobody can tell.
        worker_kind: of this driver's jobs, if they run one trial after another (`Employed.kind`).
    """

    study: StudyFolder
    store: StudyStorage
    proposer: Proposer
    pruner: optuna.pruners.BasePruner | None
    settings: Settings
    limits: Limits
    n_trials: int
    fleets: dict[str, Fleet]
    fleet: Fleet
    payload: Path
    observers: Observers
    progress: StudyProgress
    account: budget.Account
    constraints: Sequence[Constraint] = ()
    takes_constraints: bool = False
    ended_jobs: Sequence[tuple[int, JobRef]] = ()
    clock: Clock = field(default_factory=Clock)
    active_trials: dict[int, ActiveTrial] = field(default_factory=dict)
    stopping: Stopping = field(default_factory=Stopping)
    memory_check: MemoryCheck | None = None
    token: str = ""
    wakes: Wakes | None = None
    signature: Callable[[Sequence[str]], str | None] = _unknown
    worker_kind: str | None = None
    _stop_rules: StopRules = field(init=False)
    _workers: Workers = field(init=False)
    _retention: CheckpointRetention = field(init=False)
    _dispatch: Dispatch = field(init=False)
    _reports: Reports = field(init=False)
    _lingering: LingeringJobs = field(init=False)
    _polling: LauncherPolling = field(init=False)
    _outages: Outages = field(init=False)
    _unreadable: UnreadableTrials = field(init=False)
    _untracked: UntrackedTrials = field(init=False)
    _memory: MemoryGrowth = field(init=False)
    _file_system: FileSystemFailures = field(init=False)
    _retries: Retries = field(init=False)
    _ends: ForcedEnds = field(init=False)
    _requests: Requests = field(init=False)
    _best_is_new: bool = False
    _went_on: bool = False  # whether this turn told a trial or started one

    def __post_init__(self) -> None:
        settings = self.settings
        self._stop_rules = StopRules(
            settings,
            self.account,
            self.progress,
            self.store,
            lambda reason, failed: self.request_stop(reason, failed=failed),
        )
        self._memory = MemoryGrowth(self.fleet, settings.memory_growth, settings.max_memory_gb)
        self._ends = ForcedEnds(self.study.uids[0], self.fleets, self._memory)
        self._retention = CheckpointRetention(settings.keep_checkpoints, self.progress)
        self._lingering = LingeringJobs(self.fleets, settings.grace, self.observers.notice)
        self._workers = Workers(self.study.folder, self.fleets, self.worker_kind, settings.grace, self._dismiss)
        self._dispatch = Dispatch(
            fleet=self.fleet,
            launcher=next(name for name, fleet in self.fleets.items() if fleet is self.fleet),
            payload=self.payload,
            folder=self.study.folder,
            submissions=self.study.submissions,
            n_objectives=len(self.progress.directions),
            look_every=settings.watch.verdict,
            check_lease=self.store.check_lease,
            now=self.clock.now,
            notice=self.observers.notice,
            study=self.study.uids[0],
            patience=settings.patience,
            no_memory=self._ends.no_memory,
            memory=self.memory_check,
            too_large=self._ends.too_large,
            workers=self._workers,
            signature=self.signature,
        )
        self._reports = Reports(self.store, self.pruner, self.study.metric, self._run_begun, self.observers.notice)
        self._polling = LauncherPolling(self.fleets, settings.watch, self.observers.notice_once)
        self._outages = Outages(self.study.folder, settings.patience, self.observers.notice_once)
        self._unreadable = UnreadableTrials(self.observers.notice_once)
        self._untracked = UntrackedTrials(
            self.study, self.store, self.proposer, self._unreadable, self._active_trial, self._follow
        )
        self._file_system = FileSystemFailures(settings.patience, self.observers.notice_once)
        self._retries = Retries(
            self.fleet,
            self.fleets,
            self._memory,
            self._file_system,
            self.clock.now,
            self.observers.notice,
            self._workers.job_of,
            self._submit_again,
        )
        self._requests = Requests(
            self.study,
            self.token,
            self.store,
            self.proposer,
            self._ends,
            self.active_trials,
            self._wanted,
            self._one_more,
            self.request_stop,
            self.observers.notice,
        )
        for fleet in self.fleets.values():
            fleet.notice = self.observers.notice
            fleet.reported = self._reported

    # ---------------------------------------------------------------- the loop

    def run(self) -> None:
        """Returns when the study is finished, must not go on, or is to be left. `recover` comes first."""
        while not self.stopping.leaves:
            self._went_on = False
            try:
                if not self._outages.resting(self.clock.now()):
                    with self.store.grouped():
                        self._turn()
            except LeaseLost:
                self.account.close()
                raise
            except Exception as error:  # noqa: BLE001  # raised again unless it passes by itself
                if reason := self._outages.meet(error, self.clock.now()):
                    self.request_stop(reason, Jobs.LEAVE)
            self.observers.tick(self)
            if self._is_over():
                return
            if not (self.fleet.blocks and self._went_on):
                self._rest()

    def _rest(self) -> None:
        """Until something happens that is heard of, for `watch.files` at most."""
        if self.wakes is None:
            self.clock.sleep(self.settings.watch.files)
            return
        handles = [handle for fleet in self.fleets.values() for handle in fleet.handles()]
        for number in self.wakes.wait(self.settings.watch.files, handles):
            if number in self.active_trials:
                self.active_trials[number].wake()

    def _is_over(self) -> bool:
        waits_for = self.active_trials or self._untracked or self._lingering or self._workers or self._outages.cut_off
        return not waits_for and not self._wanted()

    def request_stop(self, reason: str, jobs: Jobs = Jobs.FINISH, failed: bool = False) -> None:
        """Start no more trials. Acted upon at the next turn; may be called at any time, by a signal's handler too.

        Args:
            reason: to show; may be empty.
            jobs: what becomes of those that run.
            failed: whether the study has failed by this.
        """
        self.stopping.ask(reason, jobs, failed)

    def _turn(self) -> None:
        """Look at everything once, and act.

        The order is important. What an earlier turn left half done is put right before anything is written. The
        launchers are asked before the files are read: of a job that is over all files are there. Trials are looked at
        before new ones are asked for, so that the sampler knows of every result. What is written to the study is
        synced once, before the first file that relies on it. The sampler is asked ahead when all else is done.
        """
        self.store.check_lease()
        self._outages.check_room()
        if self._outages.cut_off:
            self._mend()
        if self._ask_launchers():
            if cancelled := mass_cancelled(self.active_trials.values(), self.fleets):
                self.request_stop(f"{cancelled} jobs were cancelled from outside: the study pauses", Jobs.LEAVE)
                return
            self._end_lingering_jobs()
        self._look_at_trials()
        self._requests.take()
        if self.stopping.request is not None and self.stopping.request.jobs is Jobs.CANCEL:
            self._dispatch.queue.clear()
            self._ends.cancel_all(self.active_trials.values(), self._looking)
        self._check_unreadable()
        if self._best_is_new:
            self._announce_best()
        self._stop_rules.time_passed(self.active_trials.values())
        self._workers.look(self.clock.now())
        self._refill()
        self._submit()
        self._workers.close_all_but(min(self._free_slots(), self._wanted()))
        self.store.sync()
        self._ask_ahead()
        self._outages.over()

    def _look_at_trials(self) -> None:
        """Look at each trial that is due, and act."""
        now = self.clock.now()
        self._untracked.look(now)
        for trial in list(self.active_trials.values()):
            if trial.due(self.fleets, now) and not self._unreadable.rests(trial.number, now):
                with self._looking(trial):
                    self._look_at(trial)

    def _looking(self, trial: ActiveTrial) -> AbstractContextManager[object]:
        """A block in which the trial's files may turn out not to be readable."""
        return self._unreadable.look(trial.number, trial.dir.path, self.clock.now())

    def _check_unreadable(self) -> None:
        """Leave if there is nothing to do but to wait for trials whose files cannot be read, and that for long."""
        others = [number for number in self.active_trials if number not in self._unreadable]
        if others or not self.in_flight or (self._wanted() and self._free_slots()):
            return
        if reason := self._unreadable.overdue(self.clock.now(), self.settings.patience):
            self.request_stop(reason, Jobs.LEAVE)

    def _end_lingering_jobs(self) -> None:
        """Jobs whose trials have ended must leave, those that an earlier driver left behind included."""
        now = self.clock.now()
        for number, job in self.ended_jobs:
            if self._workers.has(job) or any(trial.record.job == job for trial in self.active_trials.values()):
                continue  # it has gone on to another trial
            answered = job.launcher in self.fleets and job.launcher not in self._polling.silent
            if answered and self.fleets[job.launcher].lives(job):
                self._lingering.add(job, number, now)
        self.ended_jobs = ()
        self._lingering.look(now)

    def _dismiss(self, job: JobRef, number: int, late: bool) -> None:
        """A worker is to leave.

        Args:
            number: of its last trial.
            late: whether it has had its grace.
        """
        self._lingering.add(job, number, self.clock.now() - (self.settings.grace if late else 0.0))

    def recover(self) -> None:
        """Track every unfinished trial of ours and count the finished ones."""
        for trial in self.store.trials():
            if trial.user_attrs.get(OWNER) not in self.study.uids:
                continue
            if trial.state is OptunaState.RUNNING:
                self._untracked.add(trial)
            elif trial.state.is_finished():
                finished = Finished.of(trial, None)
                self.progress.add(finished)
                self._retention.add(finished)
                self.observers.recovered(trial.number, self.study.trial_dir(trial.number))
        self._requests.take_up()
        self._untracked.look(self.clock.now())
        self._workers.take_up(self.active_trials.values(), self.clock.now())
        self._best_is_new = bool(self.progress.front)
        self._stop_rules.taken_up(self.n_trials)

    def _follow(self, trial: ActiveTrial) -> None:
        self.active_trials[trial.number] = trial
        if self.wakes is not None:
            self.wakes.follow(trial.number, trial.dir.path)
        self.observers.started(trial)

    def _active_trial(self, trial_id: int, record: TrialRecord, directory: TrialDir) -> ActiveTrial:
        objectives = len(self.progress.directions)
        ran = dict(self.account.running.get(record.number, {}))
        return ActiveTrial(trial_id, record, directory, self.study.uids, objectives, self.study.submissions, ran)

    def _mend(self) -> None:
        """A turn was cut off by an error: before anything is written, put right what was half done then."""
        self.store.mend()
        self._dispatch.queue.clear()
        for trial in self.store.trials():
            ours = trial.user_attrs.get(OWNER) in self.study.uids
            if ours and trial.state is OptunaState.RUNNING and trial.number not in self.active_trials:
                self._untracked.add(trial)
        self._outages.mended()

    # ---------------------------------------------------------------- look and act

    def _ask_launchers(self) -> bool:
        """Whether it was time to ask the launchers for all jobs."""
        others = self._lingering.due() | {job.launcher: 0.0 for _, job in self.ended_jobs}
        nothing_else = not (self.active_trials or self._untracked or self._workers or self._wanted())
        return self._polling.ask(self.clock.now(), self.active_trials.values(), others, nothing_else)

    def _look_at(self, trial: ActiveTrial) -> None:
        if trial in self._dispatch.queue:
            return
        seen = trial.see(self.fleets)
        trial.adopt()
        if trial.phase is not JobState.PENDING:
            self._reports.take_in(trial)
        now = self.clock.now()
        self._polling.look(trial, now)
        trial.pass_time(now)
        trial.rest(now, self.settings.watch.files, self.settings.watch.max_files)
        seen = replace(seen, memory=self._memory.judged(trial), forgiven=self._file_system.forgiven(trial, now))
        if seen.job is JobState.OVER and not seen.claimed:
            seen = replace(seen, unclaimed=trial.record.unclaimed + self._retries.counts(trial))
        self._act(trial, reconcile(seen, self.limits), seen)

    def _act(self, trial: ActiveTrial, action: Action, seen: Observation) -> None:
        if action.do is Do.WAIT:
            return
        self.store.check_lease()
        if action.do in (Do.NEXT_ATTEMPT, Do.SAME_ATTEMPT, Do.GIVE_UP):
            make_sure_of_room(self.study.submissions)  # a full disk kills jobs, too, and that is no fault of theirs
        match action.do:
            case Do.TELL:
                assert seen.result is not None
                self._finish(trial, seen.result)
            case Do.SUBMIT:
                self._dispatch.queue.append(trial)
            case Do.FIND:
                self._retries.find(trial)
            case Do.SET_ASIDE:
                aside = trial.dir.set_result_aside(trial.accepts)
                if aside is not None:
                    said = f"{action.reason}: renamed to {aside.name}; trial {trial.number} goes on without it"
                    self.observers.notice(said)
            case Do.SAME_ATTEMPT:
                self._retries.same_attempt(trial, action.reason)
            case Do.NEXT_ATTEMPT:
                self._retries.next_attempt(trial, action.reason)
            case Do.PRUNE:
                self._ends.prune(trial)
            case Do.GIVE_UP:
                self._ends.give_up(trial, action)
                if not seen.claimed:
                    self._retries.died_unclaimed(trial)
                self._ends.cancel_jobs([trial])

    def _submit_again(self, trial: ActiveTrial, reason: str) -> None:
        self._workers.ended(trial.number, self.clock.now())  # one that lives on has lost this trial's result
        trial.wake()
        self.observers.retried(trial, reason)
        self._dispatch.queue.append(trial)

    def _run_begun(self, trial: ActiveTrial, label: str) -> None:
        self._retries.claimed(trial)
        self.observers.running(trial, label)

    def _reported(self, number: int) -> None:
        """A trial that runs in this process has reported."""
        if number in self.active_trials:
            self._reports.take_in_at_once(self.active_trials[number])

    def _finish(self, trial: ActiveTrial, result: Result) -> None:
        """Project result.json into the study, and tell everybody.

        The order is important: what may fail and is safe to repeat comes first, what is counted comes after it. So an
        error on the way (a database that restarts) leaves a trial that is looked at again.
        """
        if said := trial.mend_record():
            self.observers.notice(said)
        self._reports.take_in(trial, all_of_them=True)
        seconds, node = trial.seconds(result), trial.node()
        complete = result.state is TrialState.COMPLETE
        missed = {one.metric: one.violation(trial.latest) for one in self.constraints if complete}
        self.store.tell(trial.trial_id, told(result, self.takes_constraints, missed))
        finished = Finished.of(self.store.frozen(trial.trial_id), seconds)
        self.observers.ended(trial, result)
        self._best_is_new |= self.progress.add(finished)
        superfluous = self._retention.add(finished)
        self.account.trial_over(trial.number, seconds)
        if not self._workers.ended(trial.number, self.clock.now()):
            self._lingering.add(trial.record.job, trial.number, self.clock.now())
        del self.active_trials[trial.number]
        if self.wakes is not None:
            self.wakes.forget(trial.dir.path)
        self._went_on = True
        self._polling.ended(trial, self.clock.now())
        self._stop_rules.trial_ended(finished, self.n_trials)
        self._retries.ended(trial, node)
        drop_checkpoints(trial.dir, but_of=[result.run] if result.run else [])
        for number in superfluous:
            drop_checkpoints(self.study.trial_dir(number))

    def _announce_best(self) -> None:
        if not self.progress.front:
            return
        write_results(self.study.folder / "optimization_results.yaml", self.progress)
        self.observers.best(self.progress.front)
        self._best_is_new = False

    # ---------------------------------------------------------------- start trials

    def slots(self) -> int:
        """Trials that may be in flight at a time."""
        return min(self.settings.n_jobs, self.fleet.limit)

    def _one_more(self) -> None:
        """Somebody asked to try a trial again: the new one is none of those that the study was to have."""
        self.n_trials += 1

    def _wanted(self) -> int:
        """Trials still to be asked for."""
        if self.stopping.request is not None:
            return 0
        return max(0, self.n_trials - self.progress.finished - self.in_flight)

    @property
    def in_flight(self) -> int:
        """Trials that have begun and not ended."""
        return len(self.active_trials) + len(self._untracked)

    def _free_slots(self) -> int:
        return self.slots() - self.in_flight

    def _refill(self) -> None:
        if self._dispatch.paused():
            return
        for _ in range(min(self._wanted(), self._free_slots())):
            trial_id, record = self.proposer.propose()
            # trial.json comes with the submission; a driver that dies before completes it from the stored parameters.
            trial = self._active_trial(trial_id, record, self.study.trial_dir(record.number))
            self._dispatch.queue.append(trial)
            self._follow(trial)

    def _ask_ahead(self) -> None:
        """While all slots are taken, have the next proposals ready."""
        if self._free_slots() <= 0 and not self.fleet.blocks:
            self.proposer.make_ready(self._wanted())

    def _submit(self) -> None:
        self.store.sync()  # the parameters of what begins now: a first attempt's trial.json is not synced
        try:
            submitted = self._dispatch.submit_queued(self._dispatch.launcher not in self._polling.silent)
        except Interrupted as interruption:
            self.request_stop(str(interruption), Jobs.LEAVE)
            return
        self._reports.raise_error()
        self._went_on |= submitted
