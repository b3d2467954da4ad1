"""Whose checkpoints stay."""

from pathlib import Path

from trialfleet.sweep.checkpoint_retention import CheckpointRetention, drop_checkpoints
from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.trial.directory import TrialDir


def finished(number: int, values: list[float] | None, state: str = "COMPLETE") -> Finished:
    return Finished(number, state, values, {}, None, 1.0, True)


def dropped(keep: int | None, directions: list[str], *trials: Finished) -> list[list[int]]:
    """After each trial: whose checkpoints may go."""
    progress = StudyProgress(directions)
    kept = CheckpointRetention(keep, progress)
    numbers = []
    for trial in trials:
        progress.add(trial)
        numbers.append(kept.add(trial))
    return numbers


def test_the_best_few_stay() -> None:
    trials = [finished(number, [value]) for number, value in enumerate((3.0, 1.0, 2.0, 4.0, 0.5))]
    assert dropped(2, ["minimize"], *trials) == [[], [], [0], [3], [2]]
    assert dropped(2, ["maximize"], *trials) == [[], [], [1], [2], [4]]


def test_a_trial_without_a_result_keeps_none() -> None:
    assert dropped(2, ["minimize"], finished(0, None, "FAIL"), finished(1, None, "PRUNED")) == [[0], [1]]


def test_all_may_be_kept() -> None:
    assert dropped(None, ["minimize"], finished(0, None, "FAIL"), finished(1, [1.0])) == [[], []]


def test_what_nothing_dominates_stays_until_something_does() -> None:
    front = [finished(0, [0.0, 3.0]), finished(1, [1.0, 2.0]), finished(2, [2.0, 1.0])]
    assert dropped(1, ["minimize", "minimize"], *front) == [[], [], []]
    assert dropped(1, ["minimize", "minimize"], *front, finished(3, [0.5, 0.5]))[-1] == [1, 2]


def test_only_the_checkpoints_of_other_runs_are_deleted(tmp_path: Path) -> None:
    trial = TrialDir(tmp_path)
    for label in ("1.0", "2.0"):
        (trial.run_dir(label) / "checkpoints" / "7").mkdir(parents=True)
        (trial.run_dir(label) / "log").touch()
    drop_checkpoints(trial, but_of=["2.0"])
    left = sorted(str(path.relative_to(trial.runs)) for path in trial.runs.rglob("*"))
    assert left == ["1.0", "1.0/log", "2.0", "2.0/checkpoints", "2.0/checkpoints/7", "2.0/log"]
