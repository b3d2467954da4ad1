"""One training by `pipelines.train`, in this process: what it logs to MLflow, and what a dry run of it does."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from pipelines import cli, train
from tests.tracking.conftest import template
from tests.training.harness import CONF, SMALL

__all__ = ["template"]


@pytest.fixture
def single(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DictConfig]:
    """The composed config of a training of two steps, as Hydra hands it to its task."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(template, tmp_path / "mlflow.db")
    before = HydraConfig.instance().cfg
    short = ("training.max_steps=2", "training.eval_every=2", "experiment_name=mine", "tags=[one]")
    with initialize_config_dir(str(CONF)):
        config = compose("train", [*SMALL, *short, "tracking.uri=sqlite:///mlflow.db"], return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path / "run")
        config.hydra.mode = RunMode.RUN
    (tmp_path / "run").mkdir()
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    yield config
    HydraConfig.instance().cfg = before


def test_a_training_is_logged_with_its_name_and_labels(single: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    value = train.task(single)
    assert cli._failed == []
    assert f"val/wer={value:.6g}" in capsys.readouterr().out
    with closing(sqlite3.connect("mlflow.db")) as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("mine", "FINISHED")]
        assert database.execute("SELECT value FROM tags WHERE key = 'one'").fetchall() == [("true",)]


def test_a_dry_run_trains_nothing(single: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    single.dry_run = True
    assert train.task(single) is None
    assert cli._failed == []
    assert "workload    asr" in capsys.readouterr().out
    assert not Path("run/metrics.jsonl").exists()
