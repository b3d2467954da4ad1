"""What the observer says is read from the trials' folders; what cannot be read is named and holds up nothing."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from trialfleet.sweep.mlflow_observer import MlflowObserver
from trialfleet.tracking.destination import Destination
from trialfleet.tracking.exporter import Exporter
from trialfleet.tracking.study_export import ExportedStudy
from trialfleet.trial import records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.metrics import Writer
from trialfleet.trial.submission import TrialRecord

STUDY = ExportedStudy("digits", "f00d", {"val/wer": "minimize"})
RESULT = {"state": "COMPLETE", "error": None, "seconds": {"train": 2}, "run": "1.0", "notes": {}}


@pytest.fixture
def trials(tmp_path: Path) -> list[TrialDir]:
    """Three trials that an earlier driver told."""
    found = []
    for number in range(3):
        trial = TrialDir(tmp_path / "study" / "trials" / f"{number:05d}")
        writer = Writer(trial.run_dir("1.0") / "metrics.jsonl")
        writer.append(1, {"x": float(number)})
        writer.close()
        TrialRecord(number, [], {"lr": 0.1 * number}).write(trial.trial_json)
        records.write(trial.result_json, {**RESULT, "objectives": [float(number)]}, form=1)
        found.append(trial)
    return found


def recovered(exporter: Exporter, trials: list[TrialDir]) -> MlflowObserver:
    """What a driver does that finds these trials ended."""
    mlflow = MlflowObserver(exporter, ["val/wer"], "again")
    for number, trial in enumerate(trials):
        mlflow.recovered(number, trial)
    return mlflow


def runs(target: Destination) -> list[tuple[str, int]]:
    connection = sqlite3.connect(target.database)
    points = "SELECT count(*) FROM metrics WHERE metrics.run_uuid = runs.run_uuid"
    found = connection.execute(f"SELECT name, ({points}) FROM runs WHERE lifecycle_stage = 'active' ORDER BY name")
    rows = found.fetchall()
    connection.close()
    return rows


def everything(target: Destination) -> None:
    client = MlflowClient(f"sqlite:///{target.database}")
    connection = sqlite3.connect(target.database)
    names = [run for (run,) in connection.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")]
    connection.close()
    for run_id in names:
        client.delete_run(run_id)


def nothing(target: Destination) -> None:
    pass


WHOLE = [("digits", 0), ("trial 00000", 2), ("trial 00001", 2), ("trial 00002", 2)]


@pytest.mark.parametrize("deletion", [nothing, everything])
def test_what_is_lost_is_sent_again_as_the_driver_ends(
    deletion: Callable[[Destination], None], target: Destination, trials: list[TrialDir], tmp_path: Path
) -> None:
    for _ in range(2):
        with Exporter(tmp_path / "study", target, STUDY, poll_interval=0.02) as exporter:
            mlflow = MlflowObserver(exporter, ["val/wer"], "again")
            for number, trial in enumerate(trials):
                mlflow.recovered(number, trial)
            assert exporter.flush(60)
            deletion(target)
            assert mlflow.finish("COMPLETE", 60)
        assert mlflow.problem() is None
        assert runs(target) == WHOLE


SPOILT = {"half": b'{"state": "COMP', "empty": b"", "a list": b"[]", "no result": b"{}"}


@pytest.mark.parametrize("content", SPOILT.values(), ids=list(SPOILT))
def test_a_damaged_record_is_named_and_holds_up_no_other_trial(
    content: bytes, target: Destination, trials: list[TrialDir], tmp_path: Path
) -> None:
    trials[1].result_json.write_bytes(content)
    with Exporter(tmp_path / "study", target, STUDY, poll_interval=0.02) as exporter:
        mlflow = recovered(exporter, trials)
        assert mlflow.finish("COMPLETE", 60)
        assert f"trial 1 is not sent to MLflow: {trials[1].result_json}" in str(mlflow.problem())
        assert runs(target) == [WHOLE[0], WHOLE[1], WHOLE[3]]
        records.write(trials[1].result_json, {**RESULT, "objectives": [1.0]}, form=1)  # put back
        assert mlflow.finish("COMPLETE", 60)
        assert mlflow.problem() is None
    assert runs(target) == WHOLE


@pytest.mark.parametrize("name", ["trial.json", "result.json"])
def test_a_record_that_is_missing_is_named_and_holds_up_no_other_trial(
    name: str, target: Destination, trials: list[TrialDir], tmp_path: Path
) -> None:
    path = trials[1].path / name
    path.rename(path.with_name("elsewhere"))
    with Exporter(tmp_path / "study", target, STUDY, poll_interval=0.02) as exporter:
        mlflow = recovered(exporter, trials)
        assert mlflow.finish("COMPLETE", 60)
        assert f"trial 1 is not sent to MLflow: {path}: is missing" in str(mlflow.problem())
        assert runs(target) == [WHOLE[0], WHOLE[1], WHOLE[3]]
        path.with_name("elsewhere").rename(path)
        assert mlflow.finish("COMPLETE", 60)
        assert mlflow.problem() is None
    assert runs(target) == WHOLE


def test_a_result_of_other_parameters_is_not_sent(target: Destination, trials: list[TrialDir], tmp_path: Path) -> None:
    foreign = {**RESULT, "objectives": [7.0], "study": "f00d", "params": records.digest({"lr": 9.0})}
    records.write(trials[1].result_json, foreign)
    with Exporter(tmp_path / "study", target, STUDY, poll_interval=0.02) as exporter:
        mlflow = recovered(exporter, trials)
        assert mlflow.finish("COMPLETE", 60)
        assert "is the result of other parameters than trial.json has" in str(mlflow.problem())
    assert runs(target) == [WHOLE[0], WHOLE[1], WHOLE[3]]
