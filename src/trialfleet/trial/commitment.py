"""Committing a result whose work is done: it must not be lost to a file system that is away, or full, for a while."""

import time
from collections.abc import Callable
from dataclasses import replace

from trialfleet.trial import records, transient
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import Result

PATIENCE = 600.0  # seconds for which errors that pass are waited for
MAX_NOTES = 1 << 20  # characters of a result's notes; longer ones are left out
FULL_DISK_SECONDS = 5.0  # between two tries to commit to a full disk, which is waited for without an end


def commit(
    trial: TrialDir,
    outcome: Result,
    identity: Identity,
    say: Callable[[str], None],
    give_up: Callable[[], bool] = lambda: False,
    patience: float = PATIENCE,
) -> bool:
    """End the trial with a result, trying again while errors last that pass.

    Args:
        say: is told of a file in the result's place that was no result of this trial, and of notes that are left out.
        give_up: true if there is no time to wait.

    Returns:
        False if the trial has a result already.

    Raises:
        OSError: of another kind than those that are waited for, or there was no time left.
    """
    outcome = _readable(outcome, say)

    def once() -> bool:
        if trial.commit(outcome, identity):
            return True
        if trial.ended(identity):
            return False
        aside = trial.set_result_aside(lambda result: result.identity == identity)
        if aside is not None:
            say(f"{trial.result_json.name} was no result of this trial: renamed to {aside.name}")
        return trial.commit(outcome, identity)

    while True:
        try:
            return transient.patiently(once, patience, give_up)
        except OSError as error:
            if not transient.is_full(error) or give_up():
                raise
            time.sleep(FULL_DISK_SECONDS)


def _readable(outcome: Result, say: Callable[[str], None]) -> Result:
    """The result without notes that are too long to be read back."""
    length = len(records.dumps([outcome.seconds, outcome.notes]))
    if length <= MAX_NOTES:
        return outcome
    say(f"the notes of this run have {length} characters: more than {MAX_NOTES}, they are left out")
    total = {name: value for name, value in outcome.seconds.items() if name == "total"}
    return replace(outcome, seconds=total, notes={})
