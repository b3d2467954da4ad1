"""From trials that are due to jobs that run: one submission for all that start at the same time.

What is about to happen is on the disk before the launcher is asked, so that a driver which dies in between, or gets no
answer, finds the job by the submission's uuid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from trialfleet.errors import UserError
from trialfleet.sweep.fleet import Busy, Fleet, Interrupted, MaybeSubmitted
from trialfleet.sweep.tracked import Tracked
from trialfleet.tracking.submission import Assignment, Submission

MAX_ARRAY = 1000  # elements of one job array; Slurm's own default limit is 1001
BUSY_PAUSE = 30.0  # seconds, when the launcher takes no more jobs
SILENCE_PAUSE = 5.0  # seconds, when it did not answer


@dataclass
class Dispatch:
    """The trials that wait to be submitted, and the way there.

    Attributes:
        fleet: where jobs are started; `launcher` is its name in trial.json.
        payload: the file that all jobs share.
        folder: the study's; submissions lie in `submissions`.
        look_every: seconds between two looks of a job for its verdict.
        check_lease: raises if the study is no longer ours.
        now: seconds of a clock that never goes back.
        notice: tells the user something, once for each reason to pause.
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
    queue: list[Tracked] = field(default_factory=list)
    _paused_until: float = 0.0
    _pause_reason: str = ""

    def paused(self) -> bool:
        return self.now() < self._paused_until

    def pause(self, seconds: float, reason: str) -> None:
        """Start nothing for a while; say why, once."""
        self._paused_until = self.now() + seconds
        if reason != self._pause_reason:
            self._pause_reason = reason
            self.notice(reason)

    def submit_queued(self) -> bool:
        """Submit what is due: as one array where several start at once, singly otherwise.

        Returns:
            whether there are new jobs.

        Raises:
            Interrupted: by the user, in a launcher that blocks.
            UserError: the launcher refuses the job for a reason that stays.
        """
        if self.paused():
            return False
        self.queue = [trial for trial in self.queue if trial.dir.result() is None]  # cancelled while they waited
        submitted = False
        while self.queue:
            batch, self.queue = self.queue[:MAX_ARRAY], self.queue[MAX_ARRAY:]
            try:
                self._submit(batch)
                submitted = True
            except Busy as busy:
                self.queue = batch + self.queue
                self.pause(BUSY_PAUSE, f"the launcher takes no more jobs now: {busy}")
                break
            except MaybeSubmitted as silence:
                self.pause(SILENCE_PAUSE, f"the launcher did not answer: {silence}")
                break
        return submitted

    def _submit(self, batch: Sequence[Tracked]) -> None:
        uuid = uuid4().hex
        trials = [Assignment(trial.number, trial.record.attempt, str(trial.dir.path)) for trial in batch]
        submission = Submission(uuid, str(self.payload), str(self.folder), self.n_objectives, self.look_every, trials)
        path = self.submissions / f"{uuid}.json"
        self.check_lease()
        submission.write(path)
        for index, trial in enumerate(batch):
            # Of a first attempt nothing need outlast a power cut before the job is known: all else is in the study.
            first = trial.record.attempt == 1
            trial.write(submission=uuid, launcher=self.launcher, index=index, job=None, synced=not first)
            trial.searches = 0
        self.check_lease()
        try:
            jobs = self.fleet.submit(path, uuid, len(batch))
        except (Busy, Interrupted, UserError):
            for trial in batch:
                trial.write(submission=None)
            raise
        for trial, job in zip(batch, jobs, strict=True):
            trial.write(job=job)
        self._pause_reason = ""
