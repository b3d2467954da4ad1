"""From trials that are due to jobs that run: one submission for all that start at the same time.

What is about to happen is on the disk before the launcher is asked, so that a driver which dies in between, or gets no
answer, finds the job by the submission's uuid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from trialfleet.errors import UserError
from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Busy, Fleet, Interrupted, MaybeSubmitted, TooMuchMemory
from trialfleet.sweep.memory_check import MemoryCheck, Verdict
from trialfleet.sweep.workers import Workers
from trialfleet.trial.submission import Assignment, Submission

MAX_ARRAY = 1000  # elements of one job array; Slurm's own default limit is 1001
BUSY_PAUSE = 30.0  # seconds, when the launcher takes no more jobs
SILENCE_PAUSE = 5.0  # seconds, when it did not answer
REFUSED_PAUSE = 1.0  # seconds after a refusal that may pass; each further one in a row takes twice as long


@dataclass
class Dispatch:
    """The trials that wait to be submitted, and the way there.

    Attributes:
        fleet: where jobs are started; `launcher` is its name in trial.json.
        payload: the file that all jobs share.
        folder: the study's; submissions lie in `submissions`.
        look_every: seconds between a job's checks of its verdict.json.
        check_lease: raises if the study is no longer ours.
        now: seconds of a clock that never goes back.
        notice: tells the user something, once for each reason to pause.
        study: the study's uid.
        patience: seconds for which refusals that may pass are tried again.
        no_memory: ends a trial that the launcher refuses since it asks for more memory than the first time.
        memory: whether trials fit their devices; None if nobody is to be asked.
        too_large: ends a trial that does not.
        workers: jobs that may wait for another trial.
        signature: of the programs of a trial with these overrides; None if nobody can tell.
    """

    fleet: Fleet
    launcher: str
    payload: Path
    folder: Path
    submissions: Path
    n_objectives: int
    look_every: float
    check_lease: Callable[[], None]
    now: Callable[[], float]
    notice: Callable[[str], None]
    study: str
    patience: float
    no_memory: Callable[[ActiveTrial, str], None]
    memory: MemoryCheck | None
    too_large: Callable[[ActiveTrial, str], None]
    workers: Workers
    signature: Callable[[Sequence[str]], str | None]
    queue: list[ActiveTrial] = field(default_factory=list)
    _paused_until: float = 0.0
    _pause_reason: str = ""
    _refusals: int = 0  # in a row
    _refused_since: float = 0.0

    def paused(self) -> bool:
        return self.now() < self._paused_until

    def pause(self, seconds: float, reason: str) -> None:
        """Start nothing for a while; say why, once."""
        self._paused_until = self.now() + seconds
        if reason != self._pause_reason:
            self._pause_reason = reason
            self.notice(reason)

    def submit_queued(self, answers: bool = True) -> bool:
        """Start what is due: in workers that wait, the others as one array where several start at once.

        Args:
            answers: whether the launcher does. If not it gets no new jobs; workers that wait need it for nothing.

        Returns:
            whether there are new jobs.

        Raises:
            Interrupted: by the user, in a launcher that blocks.
            UserError: the launcher refuses the job for a reason that stays.
        """
        self.queue = [
            trial for trial in self.queue if not trial.dir.result_json.exists()
        ]  # cancelled while they waited
        self._refuse_too_large()
        self._give_to_workers()
        submitted = False
        while answers and not self.paused() and self._due():
            batch = self._next_batch()
            self.queue = [trial for trial in self.queue if trial not in batch]
            try:
                self._submit(batch)
                submitted = True
                self._refusals = 0
            except Busy as busy:
                self.queue = batch + self.queue
                self._wait_for_room(busy)
                break
            except TooMuchMemory as refusal:
                for trial in batch:
                    self.no_memory(trial, str(refusal))
            except MaybeSubmitted as silence:
                self.pause(SILENCE_PAUSE, f"the launcher did not answer: {silence}")
                break
        return submitted

    def _next_batch(self) -> list[ActiveTrial]:
        """Trials that can share a script: those that ask for as much memory as the first one."""
        due = self._due()
        return [trial for trial in due if trial.record.memory == due[0].record.memory][:MAX_ARRAY]

    def _due(self) -> list[ActiveTrial]:
        """The trials in the queue that need a job of their own now: some may wait a moment for one that is there."""
        ready = self._ready()
        held = [trial for trial in ready if _is_new(trial)][: self.workers.expected(self.now())]
        return [trial for trial in ready if trial not in held]

    def _ready(self) -> list[ActiveTrial]:
        """The trials in the queue that need not rest any longer, and fit their devices as far as anybody knows."""
        now = self.now()
        return [trial for trial in self.queue if trial.not_before <= now and self._verdict(trial) is Verdict.FITS]

    def _give_to_workers(self) -> None:
        """Give new trials to workers that wait."""
        given = [trial for trial in self._ready() if _is_new(trial) and self._give(trial)]
        self.queue = [trial for trial in self.queue if trial not in given]

    def _give(self, trial: ActiveTrial) -> bool:
        """Give a trial to a worker, written down first as a submission that nobody has heard of yet."""
        while (name := self.workers.next(lambda: self.signature(trial.record.overrides))) is not None:
            submission = self._submission([trial])
            self.check_lease()
            trial.write(
                submission=submission.uuid, launcher=self.launcher, index=0, job=None, worker=name, synced=False
            )
            trial.searches = 0
            job = self.workers.give(name, trial.number, submission)
            if job is not None:
                trial.write(job=job, synced=False)
                return True
            trial.write(submission=None, worker=None, synced=False)
        return False

    def _verdict(self, trial: ActiveTrial) -> Verdict:
        return Verdict.FITS if self.memory is None else self.memory.verdict(trial)

    def _refuse_too_large(self) -> None:
        """End the trials that no device has room for."""
        for trial in [trial for trial in self.queue if self._verdict(trial) is Verdict.TOO_LARGE]:
            assert self.memory is not None
            self.queue.remove(trial)
            self.too_large(trial, self.memory.described(trial))

    def _wait_for_room(self, busy: Busy) -> None:
        """Raises:
        UserError: the launcher has refused for longer than `patience`.
        """
        if busy.limit:
            self._refusals = 0
            self.pause(BUSY_PAUSE, f"the launcher takes no more jobs now: {busy}")
            return
        if not self._refusals:
            self._refused_since = self.now()
        if self.now() - self._refused_since > self.patience:
            raise UserError(
                f"the launcher has refused jobs for {self.patience:.0f} s (hydra.sweeper.patience): {busy}",
                "see hydra.launcher; the same command goes on once it accepts jobs",
            )
        self._refusals += 1
        pause = min(BUSY_PAUSE, REFUSED_PAUSE * 2.0 ** (self._refusals - 1))
        self.pause(pause, f"the launcher refused a job, which is tried again: {busy}")

    def _submit(self, batch: Sequence[ActiveTrial]) -> None:
        submission = self._submission(batch)
        uuid = submission.uuid
        path = self.submissions / f"{uuid}.json"
        self.check_lease()
        submission.write(path)
        for index, trial in enumerate(batch):
            # A first attempt needs no sync before its job is known: the study has its parameters.
            first = trial.record.attempt == 1
            trial.write(submission=uuid, launcher=self.launcher, index=index, job=None, worker=None, synced=not first)
            trial.searches = 0
        self.check_lease()
        try:
            jobs = self.fleet.submit(path, uuid, len(batch), batch[0].record.memory)
        except (Busy, Interrupted, TooMuchMemory, UserError):
            for trial in batch:
                trial.write(submission=None)
            raise
        for index, (trial, job) in enumerate(zip(batch, jobs, strict=True)):
            trial.write(
                job=job, synced=not self.fleet.blocks
            )  # a job that blocks is over, and its result is on the disk
            self.workers.started(trial, f"{uuid}.{index}", job)
        self._pause_reason = ""

    def _submission(self, batch: Sequence[ActiveTrial]) -> Submission:
        return Submission(
            uuid=uuid4().hex,
            payload=str(self.payload),
            sweep_dir=str(self.folder),
            study=self.study,
            n_objectives=self.n_objectives,
            look_every=self.look_every,
            trials=[_assignment(trial) for trial in batch],
        )


def _is_new(trial: ActiveTrial) -> bool:
    """Whether a job that is there can take it: a trial that was lost, or needs more memory, gets a job of its own."""
    record = trial.record
    return record.attempt == 1 and record.unclaimed == 0 and record.memory == 1.0


def _assignment(trial: ActiveTrial) -> Assignment:
    record = trial.record
    return Assignment(record.number, record.attempt, str(trial.dir.path), str(record.identity.params), record.overrides)
