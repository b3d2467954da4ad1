"""The best so far, kept up trial by trial, and optimization_results.yaml in upstream's form."""

from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from trialfleet.sweep.study.progress import Finished, StudyProgress, write_results


def complete(number: int, *values: float) -> Finished:
    return Finished(number, "COMPLETE", list(values), {"x": number})


def test_the_best_of_one_objective() -> None:
    progress = StudyProgress(["minimize"])
    assert progress.add(complete(0, 2.0))
    assert not progress.add(complete(1, 3.0))
    assert progress.add(complete(2, 1.0))
    assert [trial.number for trial in progress.front] == [2]


def test_of_equals_the_lower_number_is_best() -> None:
    progress = StudyProgress(["maximize"])
    progress.add(complete(0, 2.0))
    assert not progress.add(complete(1, 2.0))
    assert [trial.number for trial in progress.front] == [0]
    progress = StudyProgress(["maximize"])
    progress.add(complete(1, 2.0))
    assert progress.add(complete(0, 2.0))
    assert [trial.number for trial in progress.front] == [0]


def test_pruned_and_failed_trials_are_counted_and_never_best() -> None:
    progress = StudyProgress(["minimize"])
    assert not progress.add(Finished(0, "PRUNED", None, {}))
    assert not progress.add(Finished(1, "FAIL", None, {}, "ValueError: no"))
    progress.add(complete(2, 5.0))
    assert (progress.finished, progress.failed) == (3, 1)
    assert [trial.number for trial in progress.front] == [2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12), st.randoms())
def test_the_front_holds_what_nothing_dominates(values: list[tuple[int, int]], random: object) -> None:
    """In any order of arrival; of several objectives, equal points of different trials all count."""
    progress = StudyProgress(["minimize", "maximize"])
    trials = [complete(number, *map(float, pair)) for number, pair in enumerate(values)]
    random.shuffle(trials)  # type: ignore[attr-defined]
    for trial in trials:
        progress.add(trial)

    def dominated(low: int, high: int) -> bool:
        return any((a <= low and b >= high) and (a, b) != (low, high) for a, b in values)

    wanted = [number for number, pair in enumerate(values) if not dominated(*pair)]
    assert sorted(trial.number for trial in progress.front) == wanted


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.sampled_from(["minimize", "maximize"]))
def test_the_best_is_the_best_of_all(values: list[float], direction: str) -> None:
    progress = StudyProgress([direction])
    for number, value in enumerate(values):
        progress.add(complete(number, value))
    best = (min if direction == "minimize" else max)(values)
    assert progress.results()["best_value"] == best


def test_results_of_one_objective(tmp_path: Path) -> None:
    progress = StudyProgress(["minimize"])
    progress.add(Finished(3, "COMPLETE", [0.5], {"optimizer": "adam", "lr": 1e-3, "depth": 3, "loss": None}))
    path = tmp_path / "optimization_results.yaml"
    write_results(path, progress)
    assert yaml.safe_load(path.read_text()) == {
        "name": "optuna",
        "best_params": {"optimizer": "adam", "lr": 1e-3, "depth": 3, "loss": None},
        "best_value": 0.5,
    }
    assert list(tmp_path.iterdir()) == [path]


def test_results_of_several_objectives(tmp_path: Path) -> None:
    progress = StudyProgress(["minimize", "minimize"])
    for number, values in [(4, (1.0, 2.0)), (1, (2.0, 1.0)), (2, (3.0, 3.0))]:
        progress.add(complete(number, *values))
    path = tmp_path / "optimization_results.yaml"
    write_results(path, progress)
    assert yaml.safe_load(path.read_text()) == {
        "name": "optuna",
        "solutions": [{"params": {"x": 1}, "values": [2.0, 1.0]}, {"params": {"x": 4}, "values": [1.0, 2.0]}],
    }


def test_results_of_a_study_without_a_complete_trial(tmp_path: Path) -> None:
    write_results(tmp_path / "results.yaml", StudyProgress(["minimize"]))
    assert yaml.safe_load((tmp_path / "results.yaml").read_text())["best_params"] == {}
    write_results(tmp_path / "results.yaml", StudyProgress(["minimize", "minimize"]))
    assert yaml.safe_load((tmp_path / "results.yaml").read_text())["solutions"] == []


def test_the_mean_follows_the_newest_trials() -> None:
    progress = StudyProgress(["minimize"])
    for number in range(5):
        progress.add(Finished(number, "COMPLETE", [1.0], {}, seconds=10.0))
    assert progress.mean_seconds == 10.0
    for number in range(200):
        progress.add(Finished(number, "FAIL", None, {}, seconds=20.0))
    assert progress.mean_seconds is not None
    assert abs(progress.mean_seconds - 20.0) < 0.1
    progress.add(Finished(300, "FAIL", None, {}))  # never began
    assert abs(progress.mean_seconds - 20.0) < 0.1
