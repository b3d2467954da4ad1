"""A study, its files and MLflow must say the same of every trial."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trialfleet.trial.directory import TrialDir
from trialfleet.trial.submission import TrialRecord

STATUS = {"COMPLETE": "FINISHED", "FAIL": "FAILED", "PRUNED": "KILLED"}


def load_study(folder: Path, storage: str | None = None) -> optuna.Study:
    """The study of a sweep folder, opened with plain Optuna."""
    name = yaml.safe_load((folder / "study.yaml").read_text())["name"]
    opened = storage or JournalStorage(JournalFileBackend(str(folder / "optuna_journal.log")))
    return optuna.load_study(study_name=name, storage=opened)


def children(folder: Path, tracking_uri: str) -> dict[int, Run]:
    """MLflow's run of each trial, by trial number; also that there is one parent and no doubles."""
    client = MlflowClient(tracking_uri)
    uid = yaml.safe_load((folder / "study.yaml").read_text())["uid"]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`trialfleet.study_uid` = '{uid}'", max_results=1000)
    parents = [run for run in runs if run.data.tags["trialfleet.kind"] == "study"]
    assert len(parents) == 1
    trials = [run for run in runs if run.data.tags["trialfleet.kind"] == "trial"]
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in trials)
    by_number = {int(run.data.tags["trialfleet.trial"]): run for run in trials}
    assert len(by_number) == len(trials)
    return by_number


def assert_shown(params: dict[str, Any], shown: dict[str, str]) -> None:
    """Parameters as MLflow lists them: of floats five digits, of all else what Python writes."""
    assert params.keys() == shown.keys()
    for name, value in params.items():
        if isinstance(value, float):
            assert float(shown[name]) == pytest.approx(value, rel=6e-5)
        else:
            assert shown[name] == str(value)


def assert_agreement(folder: Path, tracking_uri: str, n_trials: int, storage: str | None = None) -> None:
    """Every trial exactly once, with equal parameters, states and objectives in all three."""
    study = load_study(folder, storage)
    runs = children(folder, tracking_uri)
    assert [trial.number for trial in study.trials] == list(range(n_trials))
    assert sorted(runs) == list(range(n_trials))
    assert sorted(path.name for path in (folder / "trials").iterdir()) == [f"{n:05d}" for n in range(n_trials)]
    for trial in study.trials:
        directory = TrialDir(folder / "trials" / f"{trial.number:05d}")
        record, result = TrialRecord.read(directory.trial_json), directory.result()
        assert record is not None
        assert result is not None
        logged = runs[trial.number]
        assert record.params == trial.params
        assert_shown(trial.params, logged.data.params)
        assert result.state.value == trial.state.name == logged.data.tags["trialfleet.state"]
        assert STATUS[trial.state.name] == logged.info.status
        if trial.state.name == "COMPLETE":
            assert list(result.objectives or ()) == trial.values == [logged.data.metrics["objective"]]
    _assert_best(folder, study, runs)


def _assert_best(folder: Path, study: optuna.Study, runs: dict[int, Run]) -> None:
    marked = [number for number, run in runs.items() if run.data.tags.get("trialfleet.best") == "true"]
    assert marked == [study.best_trial.number]
    results: dict[str, Any] = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert results == {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
