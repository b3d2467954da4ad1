"""A result that is committed can be read back."""

from pathlib import Path

from trialfleet.trial import commitment
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import Result, TrialState

OURS = Identity("study", "params")


def test_notes_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    trial, said = TrialDir(tmp_path), list[str]()
    claim = trial.claim(1, "local:1", 0, OURS)
    long = Result(TrialState.COMPLETE, [0.5], None, {"total": 1.0}, claim.label, {"text": "x" * commitment.MAX_NOTES})
    assert commitment.commit(trial, long, OURS, said.append)
    ended = trial.result()
    assert ended is not None
    assert (ended.objectives, ended.notes) == ([0.5], {})
    assert "they are left out" in said[0]
