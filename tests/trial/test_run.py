"""What a trial's run hears: the driver's verdict, newer runs of its trial, signals."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from trialfleet.trial import metrics, records, run
from trialfleet.trial.claim import Claim
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.run import Stop
from trialfleet.trial.sweep_run import FollowerRun, LocalRun, SweepRun

OURS = Identity("study", "params")


@dataclass
class Signals:
    came: bool = False

    def __call__(self) -> bool:
        return self.came


@pytest.fixture
def trial(tmp_path: Path) -> TrialDir:
    return TrialDir(tmp_path / "00003")


def started(trial: TrialDir, claim: Claim, look_every: float = 0.0, signals: Signals | None = None) -> SweepRun:
    return SweepRun(trial, claim, signals or Signals(), look_every)


def test_an_undisturbed_run_goes_on(trial: TrialDir) -> None:
    own = started(trial, trial.claim(1, "slurm:7", 0, OURS))
    own.report(1, {"loss": 0.5})
    assert own.stop() is None
    own.close()
    assert own.directory == trial.path / "runs" / "1.0"
    assert [line.step for line in metrics.read_from(own.directory / "metrics.jsonl")[0]] == [1]


def test_a_verdict_prunes(trial: TrialDir) -> None:
    own = started(trial, trial.claim(1, "slurm:7", 0, OURS))
    records.create(trial.verdict_json, {"prune_at": 3, "value": 0.5})
    assert own.stop() is Stop.PRUNE
    own.close()


def test_a_verdict_outlives_the_run_it_was_made_for(trial: TrialDir) -> None:
    """It is a request to the trial: a run that takes the trial over heeds it, too."""
    first = started(trial, trial.claim(1, "slurm:7", 0, OURS))
    records.create(trial.verdict_json, {"prune_at": 3, "value": 0.5})
    first.close()
    second = started(trial, trial.claim(2, "slurm:8", 0, OURS))
    assert second.stop() is Stop.PRUNE
    second.close()


@pytest.mark.parametrize("newer", [(1, "slurm:7", 1), (2, "slurm:8", 0)])
def test_a_newer_run_of_the_trial_stops_the_older(trial: TrialDir, newer: tuple[int, str, int]) -> None:
    old = started(trial, trial.claim(1, "slurm:7", 0, OURS))
    new = started(trial, trial.claim(*newer, OURS))
    assert old.stop() is Stop.SUPERSEDED
    assert new.stop() is None
    old.close()
    new.close()


def test_a_trial_that_ended_stops_its_run(trial: TrialDir) -> None:
    own = started(trial, trial.claim(1, "slurm:7", 0, OURS))
    trial.commit(Result(TrialState.FAIL, None, None, {}, None, {}), OURS)
    assert own.stop() is Stop.SUPERSEDED
    own.close()


def test_a_newer_run_comes_before_a_verdict(trial: TrialDir) -> None:
    """A superseded run must write nothing, so it must not take the verdict for its own."""
    old = started(trial, trial.claim(1, "slurm:7", 0, OURS))
    records.create(trial.verdict_json, {"prune_at": 3, "value": 0.5})
    trial.claim(2, "slurm:8", 0, OURS)
    assert old.stop() is Stop.SUPERSEDED
    old.close()


def test_a_signal_preempts(trial: TrialDir) -> None:
    signals = Signals()
    own = started(trial, trial.claim(1, "slurm:7", 0, OURS), signals=signals)
    assert own.stop() is None
    signals.came = True
    assert own.stop() is Stop.PREEMPT
    own.close()


def test_files_are_looked_at_once_in_a_while_and_after_a_report(trial: TrialDir) -> None:
    own = started(trial, trial.claim(1, "slurm:7", 0, OURS), look_every=3600.0)
    assert own.stop() is None
    records.create(trial.verdict_json, {"prune_at": 1, "value": 0.5})
    assert own.stop() is None  # not looked
    own.report(1, {"loss": 0.5})
    assert own.stop() is Stop.PRUNE
    trial.verdict_json.unlink()
    assert own.stop() is Stop.PRUNE  # once seen it stays
    own.close()


def test_a_run_reads_earlier_checkpoints_newest_run_first(trial: TrialDir) -> None:
    for attempt, job, restart in [(1, "slurm:7", 0), (1, "slurm:7", 2), (2, "slurm:8", 0)]:
        claim = trial.claim(attempt, job, restart, OURS)
    own = started(trial, claim)
    assert own.earlier_checkpoints == [trial.runs / "1.2" / "checkpoints", trial.runs / "1.0" / "checkpoints"]
    assert own.checkpoints == trial.runs / "2.0" / "checkpoints"
    own.close()


def test_notes_are_merged(tmp_path: Path) -> None:
    own = LocalRun(tmp_path)
    own.note(seconds={"compile": 1.0}, device="cpu")
    own.note(seconds={"steps": 2.0}, device="tpu")
    assert own.notes == {"seconds": {"compile": 1.0, "steps": 2.0}, "device": "tpu"}
    own.close()


def test_a_single_training_answers_to_signals_alone(tmp_path: Path) -> None:
    signals = Signals()
    own = LocalRun(tmp_path, signals)
    assert own.stop() is None
    signals.came = True
    assert own.stop() is Stop.PREEMPT
    own.close()


def test_a_follower_writes_nothing_and_hears_all(trial: TrialDir) -> None:
    signals = Signals()
    follower = FollowerRun(trial, trial.claim(1, "slurm:7", 0, OURS), signals, 0.0)
    follower.report(1, {"loss": 0.5})
    follower.note(seconds={"steps": 1.0})
    assert follower.stop() is None
    assert follower.stop_by_files() is None
    signals.came = True
    records.create(trial.verdict_json, {"prune_at": 3, "value": 0.5})
    assert follower.stop() is Stop.PREEMPT  # a trainer hears of verdicts from its process 0
    assert follower.stop_by_files() is Stop.PRUNE
    assert [path.name for path in follower.directory.iterdir()] == ["claim"]


def test_the_current_run_is_that_of_the_block(tmp_path: Path) -> None:
    own = LocalRun(tmp_path)
    with run.entered(own):
        assert run.current() is own
    assert run.current() is None
    own.close()


def test_optunas_own_way_to_say_pruned_is_understood_by_name() -> None:
    class TrialPruned(Exception):
        __module__ = "optuna.exceptions"

    assert run.is_pruned(TrialPruned())
    assert run.is_pruned(run.Pruned())
    assert not run.is_pruned(ValueError())
