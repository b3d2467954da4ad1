"""Asking the launchers about all jobs at once: where files have fallen silent, and no more often than it helps.

Whether a job lives is told by its trial's files as long as something new comes into them. The launcher, whose
controller serves a whole site, is asked about jobs of which nothing has been heard for longer than is usual in this
study, be it that they should have begun or said something, and about those that it has said to be ending.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.sweeper_settings import Watch

# Slurm's reasons to let a job wait that pass by themselves; any other is shown once.
ORDINARY = ("", "None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit")
PAUSES = 64  # newest pauses between two words of a trial's files, of which the longest is the usual one
UNUSUAL = 2.0  # a silence is so many times as long as that
SOON = 0.1  # seconds between two looks at processes of this machine that are to leave, where one is heard to have ended
PART = 0.5  # of a silence, after which the launcher is asked again


class Notice(Protocol):
    """Tells the user something, unless it was said."""

    def __call__(self, message: str, about: str = ...) -> None: ...


@dataclass
class _Job:
    """What is heard of an unfinished trial's job.

    Attributes:
        run: the label of its present attempt's run; empty before it has begun.
        files: what its files said at the last look, besides.
        word: the launcher's.
        at: when anything of that was new.
        by_files: whether the files said so.
    """

    run: str
    files: tuple[Any, ...]
    word: JobState
    at: float
    by_files: bool


class LauncherPolling:
    """When to ask which launcher, and which of them did not answer.

    Args:
        fleets: by launcher's name.
        notice_once: tells the user something, unless it was said: (message, about).

    Attributes:
        silent: launchers that did not answer when last asked.
    """

    def __init__(self, fleets: Mapping[str, Fleet], watch: Watch, notice_once: Notice) -> None:
        self._fleets = fleets
        self._watch = watch
        self._notice_once = notice_once
        self.silent: set[str] = set()
        self._asked: dict[str, float] = {}  # when each launcher was
        self._in_vain: dict[str, int] = {}  # answers in a row that did not come
        self._jobs: dict[int, _Job] = {}
        self._pauses: dict[bool, deque[float]] = {begun: deque(maxlen=PAUSES) for begun in (False, True)}
        self._left_since: float | None = None  # when nothing was waited for any more but jobs that are to leave

    # ---------------------------------------------------------------- what files say

    def look(self, trial: ActiveTrial, now: float) -> None:
        """A trial was looked at: note whether anything of it is new."""
        known = self._jobs.get(trial.number)
        files = (trial.record.submission, sum(trial.offsets.values()))
        if known is None or (trial.run, files) != (known.run, known.files):
            if known is None or known.files:
                self._note_pause(known, now)
            self._jobs[trial.number] = _Job(trial.run, files, trial.phase, now, by_files=True)
        elif trial.phase is not known.word:
            self._jobs[trial.number] = replace(known, word=trial.phase, at=now, by_files=False)

    def ended(self, trial: ActiveTrial, now: float) -> None:
        """A trial has ended."""
        self._note_pause(self._jobs.pop(trial.number, None), now)

    def _note_pause(self, job: _Job | None, now: float) -> None:
        if job is not None and job.by_files:
            self._pauses[bool(job.run)].append(now - job.at)

    # ---------------------------------------------------------------- asking

    def ask(self, now: float, trials: Collection[ActiveTrial], others: Mapping[str, float], nothing_else: bool) -> bool:
        """Ask each launcher that has jobs, if it is time to.

        Args:
            trials: the unfinished ones.
            others: launchers of jobs besides theirs, and when these are to be looked at.
            nothing_else: whether only such jobs are waited for.

        Returns:
            whether any was asked.
        """
        self._left_since = None if not nothing_else else now if self._left_since is None else self._left_since
        submitted: dict[str, list[ActiveTrial]] = {}
        for trial in trials:
            if trial.record.submission is not None:
                submitted.setdefault(trial.record.launcher, []).append(trial)
        concerned = [name for name in self._fleets if name in submitted or name in others]
        due = [name for name in concerned if now >= self._when(name, now, submitted.get(name, ()), others.get(name))]
        self.silent &= set(concerned)  # one that has no jobs is asked by the next submission
        if not due:
            return False
        before = set(self.silent)
        for name in due:
            answered = self._fleets[name].refresh()
            self._asked[name], self._in_vain[name] = now, 0 if answered else self._in_vain.get(name, 0) + 1
            self.silent = self.silent - {name} if answered else self.silent | {name}
            for trial in submitted.get(name, ()):
                trial.searches += answered and trial.record.job is None
                self._show_why_it_waits(trial)
        for name in before & self.silent & set(due):
            self._notice_once(f"{name} does not answer: its jobs are left as they are until it does")
        return True

    def _when(self, name: str, now: float, trials: Collection[ActiveTrial], others: float | None) -> float:
        """The time at which a launcher is to be asked."""
        asked, watch = self._asked.get(name), self._watch
        if asked is None:
            return now
        if self._fleets[name].at_hand:
            soon = self._left_since is not None and self._fleets[name].job_ended()
            return asked + (SOON if soon else watch.jobs)
        if self._in_vain[name]:
            return asked + min(watch.jobs * 2.0 ** (self._in_vain[name] - 1), watch.max_jobs)
        times = [self._when_about(trial, now, asked) for trial in trials]
        if self._left_since is not None:
            times.append(asked + self._paused(PART * (now - self._left_since)))
        elif others is not None:
            times.append(max(others, asked + watch.jobs))
        return min(times)

    def _when_about(self, trial: ActiveTrial, now: float, asked: float) -> float:
        """When a launcher that was last asked at `asked` is to be asked for this trial's job."""
        # One that was not looked at yet was just submitted, or its files cannot be read: it is silent from now on.
        job = self._jobs.setdefault(trial.number, _Job("", (), trial.phase, now, by_files=True))
        usual = self._paused(UNUSUAL * max(self._pauses[bool(job.run)], default=0.0))
        if job.by_files and asked <= job.at:
            return job.at + usual
        runs = bool(job.run) and job.word is JobState.RUNNING
        return asked + max(usual if runs else 0.0, self._paused(PART * (now - job.at)))

    def _paused(self, seconds: float) -> float:
        return max(self._watch.jobs, min(seconds, self._watch.max_jobs))

    def _show_why_it_waits(self, trial: ActiveTrial) -> None:
        """Say, once, what the launcher says of a job that may never start."""
        job = trial.record.job
        fleet = None if job is None else self._fleets.get(job.launcher)
        if job is None or fleet is None or fleet.phase(job) is not JobState.PENDING:
            return
        why = fleet.why(job)
        reason = why.partition(": ")[2]
        if reason not in ORDINARY:
            self._notice_once(f"trial {trial.number} waits: Slurm says of job {job.id}: {why}", reason)
