"""The scale benchmark in small: its numbers come out, and the study that it simulates is right."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.scale import Shape, measure, run_study, what_is_wrong

SMALL = Shape(trials=50, in_flight=8, reports=5, seconds=10.0)


def ended_in(folder: Path) -> int:
    backend = JournalFileBackend(str(folder / "optuna_journal.log"))
    study = optuna.load_study(study_name="scale", storage=JournalStorage(backend))
    return sum(trial.state.is_finished() for trial in study.trials)


@pytest.mark.slow
def test_a_small_study_is_measured_and_right(tmp_path: Path) -> None:
    report = measure(tmp_path, SMALL)
    assert report.wrong == []
    (row,) = report.rows
    assert row.trials >= SMALL.trials
    assert min(row.optuna, row.pruner, row.events, row.watching, row.share, row.peak, row.yardstick) > 0
    assert report.mlflow is None
    assert report.resume.seconds > 0
    # The driver goes on for a turn behind the row: what the resume knows is what plain Optuna finds in the journal.
    assert report.resume.finished == ended_in(tmp_path) >= row.trials
    assert report.resume.finished + report.resume.active_trials <= SMALL.trials + SMALL.in_flight


@pytest.mark.slow
def test_a_study_that_lost_a_result_is_called_wrong(tmp_path: Path) -> None:
    run_study(tmp_path, SMALL)
    assert what_is_wrong(tmp_path, SMALL) == []
    (tmp_path / "trials" / "00003" / "result.json").unlink()
    assert any("trial 3 " in word for word in what_is_wrong(tmp_path, SMALL))
