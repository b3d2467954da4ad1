"""The heart of the sweep: from what is seen of a trial to what to do about it.

A pure function. The running loop and the recovery after a crash are the same: look at every unfinished
trial, reconcile, act, look again. Nothing here reads a file, a clock or Slurm.
"""

from dataclasses import dataclass
from enum import Enum

from trialfleet.trial.result import Result


class SubmissionState(Enum):
    """What the driver knows of the submission of the trial's present attempt."""

    NONE = "none"  # trial.json names no submission yet
    MAYBE = "maybe"  # recorded before the launcher was called; whether it came through is not known
    DONE = "done"  # the launcher answered with a job id


class JobState(Enum):
    """What the launcher says of the attempt's job."""

    UNKNOWN = "unknown"  # the launcher cannot be asked now (slurmctld is down): wait
    PENDING = "pending"
    RUNNING = "running"  # includes every state that is not surely an end
    ENDING = "ending"  # looks over, but not for long enough: Slurm may yet requeue, files may yet appear
    OVER = "over"  # ended or gone, and settled


class Memory(Enum):
    """Whether the host's memory sufficed for the run that ended."""

    ENOUGH = "enough"  # or nothing speaks of memory
    SHORT = "short"  # it did not; the next run gets more, or the launcher does not say how much there is
    SPENT = "spent"  # it did not, and was all that a run may have


@dataclass(frozen=True)
class Observation:
    """What is seen of one unfinished trial.

    Attributes:
        result: what result.json says, if the trial has one.
        submission: of the present attempt.
        job: of the present attempt.
        claimed: whether any process claimed the present attempt.
        pruned: whether the driver has asked the trial to stop: its verdict is there.
        fruitless: ended runs in a row, up to the newest, that brought no newer checkpoint.
        unclaimed: jobs in a row, up to the present one, that ended without a claim and for no fault of their node's.
        timeouts: runs that ended by their job's time limit.
        memory: of the run that ended.
        forgiven: fruitless runs that do not count: disks or file systems ended them, which may be well again.
        damage: why the file result.json is not the trial's result, though it is there.
    """

    result: Result | None = None
    submission: SubmissionState = SubmissionState.NONE
    job: JobState = JobState.UNKNOWN
    claimed: bool = False
    pruned: bool = False
    fruitless: int = 0
    unclaimed: int = 0
    timeouts: int = 0
    memory: Memory = Memory.ENOUGH
    forgiven: int = 0
    damage: str = ""


@dataclass(frozen=True)
class Limits:
    """How often a trial is started again.

    Attributes:
        max_retries: fruitless runs in a row that are retried, whoever starts the next: we, or Slurm by a requeue.
        max_unclaimed: jobs in a row without a claim that fail the trial.
        max_timeouts: restarts after a time limit; None for as many as bring a newer checkpoint.
    """

    max_retries: int
    max_unclaimed: int
    max_timeouts: int | None


class Do(Enum):
    WAIT = "wait"
    TELL = "tell"  # result.json is the truth: project it into the study and MLflow
    SUBMIT = "submit"  # the present attempt was never submitted
    FIND = "find"  # look for a job of the recorded submission; none: submit it again
    NEXT_ATTEMPT = "next attempt"  # a lost attempt goes on from its checkpoint as the next one
    SAME_ATTEMPT = "same attempt"  # the job ended without a claim: the same attempt, no retry spent
    SET_ASIDE = "set aside"  # a result.json that is none, or another trial's: out of the way, and on with the trial
    PRUNE = "prune"  # lost after its verdict: the driver commits what the run would have
    GIVE_UP = "give up"  # the driver commits a failure


@dataclass(frozen=True)
class Action:
    do: Do
    reason: str = ""  # of a failure or a retry, to show and record
    error: str = "Lost"  # of a failure: the type of the error that the trial's result names


def reconcile(seen: Observation, limits: Limits) -> Action:
    """What to do about an unfinished trial. Total: every combination has an answer."""
    if seen.result is not None:
        return Action(Do.TELL)
    if seen.damage:
        return Action(Do.SET_ASIDE, seen.damage)
    if seen.submission is SubmissionState.NONE:
        return Action(Do.SUBMIT)
    if seen.submission is SubmissionState.MAYBE and not seen.claimed:
        # With a claim the job is known from the claim itself; without one, only the launcher can tell.
        return Action(Do.WAIT) if seen.job is JobState.UNKNOWN else Action(Do.FIND)
    if seen.claimed and not seen.pruned:
        # Whatever the job does now: Slurm may have requeued it, and would again and again.
        if limits.max_timeouts is not None and seen.timeouts > limits.max_timeouts:
            return Action(
                Do.GIVE_UP, f"{seen.timeouts} time limits, more than max_num_timeout={limits.max_timeouts}", "Timeout"
            )
        fruitless = seen.fruitless - seen.forgiven
        if fruitless > limits.max_retries:
            causes = f", {seen.timeouts} of them by the time limit" if seen.timeouts else ""
            return Action(
                Do.GIVE_UP,
                f"lost {fruitless} times in a row without a newer checkpoint{causes} "
                f"(max_retries={limits.max_retries})",
            )
    if seen.job is not JobState.OVER:
        return Action(Do.WAIT)
    if seen.pruned:
        return Action(Do.PRUNE)
    if seen.memory is Memory.SPENT:
        return Action(Do.GIVE_UP, "it had all the memory that hydra.sweeper.max_memory_gb allows")
    if not seen.claimed:
        if seen.unclaimed >= limits.max_unclaimed:
            return Action(Do.GIVE_UP, f"{seen.unclaimed} jobs in a row ended before the trial began", "NeverBegan")
        return Action(Do.SAME_ATTEMPT, "the job ended before the trial began")
    if seen.memory is Memory.SHORT:
        return Action(Do.NEXT_ATTEMPT, "the job ran out of memory")
    return Action(Do.NEXT_ATTEMPT, "the job was lost")
