"""What lost its run goes on: the same attempt again, or the next one, and what that says of the node it was lost on."""

from collections.abc import Callable, Mapping

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.file_system_failures import FileSystemFailures
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.memory_growth import MemoryGrowth
from trialfleet.sweep.node_health import Nodes
from trialfleet.trial.submission import JobRef, TrialRecord

SEARCHES = 3  # looks at the launcher for a job whose submission was not confirmed, before it is submitted again


class Retries:
    """Makes trial.json say that a trial is to be submitted again, and hands the trial over for that.

    Args:
        fleet: where new jobs go.
        fleets: by launcher's name, for jobs that are there already.
        now: the driver's clock, in seconds.
        notice: is told what a person should know.
        given_to: the job of the worker that was given a trial; None if none was after all.
        again: takes a trial that is to be submitted, and the reason.
    """

    def __init__(
        self,
        fleet: Fleet,
        fleets: Mapping[str, Fleet],
        memory: MemoryGrowth,
        file_system: FileSystemFailures,
        now: Callable[[], float],
        notice: Callable[[str], None],
        given_to: Callable[[TrialRecord], JobRef | None],
        again: Callable[[ActiveTrial, str], None],
    ) -> None:
        self._fleet, self._fleets, self._memory, self._file_system = fleet, fleets, memory, file_system
        self._now, self._notice, self._given_to, self._again = now, notice, given_to, again
        self._nodes = Nodes(fleet.has_other_nodes)

    # ---------------------------------------------------------------- attempts

    def same_attempt(self, trial: ActiveTrial, reason: str) -> None:
        """The job ended without a claim: its node may be at fault."""
        counts, node = self.counts(trial), self._node(trial)
        self._clear(trial)
        memory = trial.record.memory
        if trial.ran_out_of_memory:
            reason, memory = self._memory.next_run(trial)
        trial.write(submission=None, job=None, unclaimed=trial.record.unclaimed + counts, memory=memory)
        self._count_against(node, trial)  # after what may fail and is then done again
        self._retry(trial, reason if counts else f"{reason}, on node {node}, which is suspected")

    def next_attempt(self, trial: ActiveTrial, reason: str) -> None:
        """A run that had begun was lost: the next one goes on from its checkpoint."""
        node = trial.node()
        self._clear(trial)
        memory = trial.record.memory
        if trial.ran_out_of_memory:
            reason, memory = self._memory.next_run(trial)
        reason = self._file_system.rest(trial, self._now()) or reason
        trial.write(
            attempt=trial.record.attempt + 1,
            submission=None,
            job=None,
            unclaimed=0,
            timeouts=trial.record.timeouts + trial.timed_out,
            memory=memory,
        )
        self._nodes.died(trial.number, node)
        self._retry(trial, reason)

    def find(self, trial: ActiveTrial) -> None:
        """Look for the job of a submission that the launcher did not confirm to us."""
        assert trial.record.submission is not None
        if trial.record.worker is not None:
            if (given := self._given_to(trial.record)) is not None:
                trial.write(job=given)
            else:
                trial.write(submission=None, worker=None)
            return
        # The launcher may have been another one when the trial was submitted.
        job = self._fleets[trial.record.launcher].find(trial.record.submission, trial.record.index)
        if job is not None:
            trial.write(job=job)
        elif trial.searches >= SEARCHES:  # an sbatch that was under way when its driver died has come through by now
            trial.searches = 0
            trial.write(submission=None)

    def _retry(self, trial: ActiveTrial, reason: str) -> None:
        trial.searches = 0
        self._again(trial, reason)

    def _clear(self, trial: ActiveTrial) -> None:
        """Kill the processes that a finished job left behind."""
        job = trial.record.job
        if job is not None and job.launcher in self._fleets:
            self._fleets[job.launcher].clear(job)

    # ---------------------------------------------------------------- nodes

    def counts(self, trial: ActiveTrial) -> bool:
        """Whether the end of a job before its claim counts against its trial, and not against a node."""
        return trial.ran_out_of_memory or self._nodes.counts(self._node(trial), trial.number)

    def claimed(self, trial: ActiveTrial) -> None:
        """A run of the trial has begun: its node starts jobs."""
        self._nodes.claimed(trial.node())

    def died_unclaimed(self, trial: ActiveTrial) -> None:
        """The trial's last job ended before its claim."""
        self._count_against(self._node(trial), trial)

    def ended(self, trial: ActiveTrial, node: str) -> None:
        """The trial has ended. A node where several died that ended well elsewhere gets no more of them."""
        bad = self._nodes.ended(trial.number, node)
        if bad:
            self._fleet.exclude(bad)
            self._notice(f"node {bad}: several trials died there but not elsewhere; this study sends no more there")

    def _count_against(self, node: str, trial: ActiveTrial) -> None:
        """Count a job that ended before its claim. A node with several of them gets no more."""
        if trial.ran_out_of_memory:
            return
        self._nodes.died_unclaimed(node, trial.number)
        for bad in self._nodes.to_exclude():
            self._fleet.exclude(bad)
            self._notice(f"node {bad}: jobs end there before their trials begin; this study sends no more there")

    def _node(self, trial: ActiveTrial) -> str:
        """Where the launcher last saw the trial's job; empty if it did not say."""
        job = trial.record.job
        return "" if job is None or job.launcher not in self._fleets else self._fleets[job.launcher].node(job)
