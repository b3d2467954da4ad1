"""What an exception that ended a run means for its trial: its end, or another run.

One judgement for the worker and for launchers that only hand exceptions back.
"""

import time
from enum import Enum
from typing import Any

from trialfleet.trial import causes, out_of_memory, records, run, transient
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import OUT_OF_MEMORY, Result, TrialState, described


class Cause(Enum):
    """Why a run ended; in brackets what becomes of the trial."""

    PRUNED = "pruned"  # (it ends, PRUNED)
    LEFT = "left"  # saved, because it was asked to go (another run goes on)
    PEER_LOST = "peer lost"  # another of its processes is gone (another run goes on)
    FULL_DISK = "full disk"  # (another run goes on, after a pause)
    FILE_SYSTEM = "file system"  # an error that passes (another run goes on, after a pause)
    HOST_MEMORY = "host memory"  # (another run goes on, with more memory where the launcher says how much there is)
    TRIAL = "trial"  # its own code, or that it does not fit a device (it ends, FAIL)


# What to say of those ends that the trial is not to blame for and that nobody asked for.
COMMENTS = {
    Cause.FULL_DISK: "a disk is full: that is not the trial's fault, it is tried again for a while",
    Cause.FILE_SYSTEM: "a file system failed: that is not the trial's fault, it is tried again for a while",
    Cause.HOST_MEMORY: "this job ran out of memory",
}


def cause_of(failure: BaseException) -> Cause:
    """Why a run ended, by the exception that its task raised."""
    if isinstance(failure, run.Preempted):
        return Cause.LEFT
    if isinstance(failure, run.PeerLost):
        return Cause.PEER_LOST
    if run.is_pruned(failure):
        return Cause.PRUNED
    if transient.is_full(failure):
        return Cause.FULL_DISK
    if transient.passes(failure):
        return Cause.FILE_SYSTEM
    if out_of_memory.ran_out(failure) == out_of_memory.HOST:
        return Cause.HOST_MEMORY
    return Cause.TRIAL


def end_of_trial(failure: BaseException, label: str, seconds: dict[str, float], notes: dict[str, Any]) -> Result | None:
    """How a failure ends the trial; None if another run goes on."""
    cause = cause_of(failure)
    if cause is Cause.PRUNED:
        return Result(TrialState.PRUNED, None, None, seconds, label, notes)
    if cause is Cause.TRIAL:
        return Result(TrialState.FAIL, None, error_of(failure), seconds, label, notes)
    return None


def error_of(failure: BaseException) -> dict[str, str]:
    """A failure as result.json records it. That of a device's memory has a name of its own: the code is not wrong."""
    error = described(failure)
    if out_of_memory.ran_out(failure) == out_of_memory.DEVICE:
        return {**error, "type": OUT_OF_MEMORY, "message": f"out of memory on the device: {error['message']}"}
    return error


def write_reason(trial: TrialDir, label: str, name: str, **entries: Any) -> None:
    """Tell the driver, by a record in the run's folder, why this run ends without a result."""
    records.write(trial.run_dir(label) / name, {"time": time.time(), **entries})


def write_cause(trial: TrialDir, label: str, failure: BaseException) -> None:
    """Tell the driver what ended this run, if it is a cause that the driver treats in a way of its own."""
    cause = cause_of(failure)
    if cause is Cause.HOST_MEMORY:
        write_reason(trial, label, out_of_memory.RECORD, message=causes.text(failure)[:2000])
    elif cause in (Cause.FULL_DISK, Cause.FILE_SYSTEM):
        write_reason(trial, label, transient.RECORD, **described(failure))


def word_of_file_system(trial: TrialDir, label: str) -> dict[str, str] | None:
    """The error of a full disk or of a file system that ended the run, as result.json would record it.

    Returns:
        None if the run left no such word.
    """
    try:
        word = records.read(trial.run_dir(label) / transient.RECORD)
    except Damaged as damage:
        word = {"message": str(damage)}
    if word is None:
        return None
    unsaid = {"type": "OSError", "message": "a file system failed", "traceback": ""}
    return {key: str(word.get(key, default)) for key, default in unsaid.items()}
