"""Asking the launchers about all jobs at once: often while jobs come and go, seldom when nothing moves."""

from collections.abc import Callable, Collection, Mapping

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.sweeper_settings import Watch

# Slurm's reasons to let a job wait that pass by themselves; any other is shown once.
ORDINARY = ("", "None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit")

Notice = Callable[..., None]


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
        self._next = 0.0
        self._every = 0.0
        self._moved = True

    def moved(self) -> None:
        """A job came, went, or changed its state: ask often for a while."""
        self._moved = True

    def soon(self) -> None:
        """There are new jobs: ask at the next turn."""
        self._moved, self._next = True, 0.0

    def ask(self, now: float, trials: Collection[ActiveTrial], others: Collection[str], others_end: bool) -> bool:
        """Ask each launcher that has jobs, if it is time to.

        Args:
            trials: the unfinished ones.
            others: launchers of jobs besides theirs, whose end is waited for.
            others_end: whether such a job is expected to end soon.

        Returns:
            whether it was time to ask.
        """
        if now < self._next:
            return False
        concerned = {trial.record.launcher for trial in trials if trial.record.submission is not None} | set(others)
        answered = {name: self._fleets[name].refresh() for name in self._fleets if name in concerned}
        for trial in trials:
            if trial.record.submission is not None and trial.record.job is None:
                trial.searches += answered.get(trial.record.launcher, False)
        before, self.silent = self.silent, concerned - {name for name, answer in answered.items() if answer}
        for name in before & self.silent:
            self._notice_once(f"{name} does not answer: its jobs are left as they are until it does")
        for trial in trials:
            self._show_why_it_waits(trial)
        hurry = self._moved or bool(self.silent) or others_end
        self._every = self._watch.jobs if hurry else min(2 * self._every, self._watch.max_jobs)
        self._moved = False
        self._next = now + (self._every if trials else 0.0)  # nobody else is waited for then
        return True

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
