"""One training by `pipelines.train`, in this process: what it logs to MLflow, and what a dry run of it does."""

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from pipelines import cli, train
from tests.training.harness import CONF, SMALL
from trialfleet.config import devices
from trialfleet.errors import UserError
from trialfleet.trial.run import Preempted
from trialfleet.trial.sweep_run import LocalRun


def test_a_dry_run_that_the_sweeper_does_not_hear_of_is_refused() -> None:
    with initialize_config_dir(str(CONF)):
        words = ["hydra/sweeper=trialfleet", "dry_run=true"]
        config = compose("sweep", words, return_hydra_config=True)
    with pytest.raises(UserError, match="dry_run: the sweeper does not hear of it"):
        train.check(config)


@pytest.fixture
def single(tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DictConfig]:
    """The composed config of a training of two steps, as Hydra hands it to its task."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tables, tmp_path / "mlflow.db")
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


def statuses() -> list[tuple[str, int]]:
    with closing(sqlite3.connect("mlflow.db")) as database:
        points = "SELECT count(*) FROM metrics WHERE run_uuid = runs.run_uuid AND key = 'train/loss'"
        return database.execute(f"SELECT status, ({points}) FROM runs").fetchall()


def test_a_training_that_is_stopped_is_killed_in_mlflow_and_says_how_to_go_on(
    single: DictConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "pipelines.train", "+experiment=mine", "hydra.run.dir=other"])
    single.training.report_every, single.training.max_steps = 1, 6
    reported = LocalRun.report

    def report(run: LocalRun, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        reported(run, step, values, steps)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "report", report)
        train.task(single)
    [stopped] = cli._failed
    cli._failed.clear()
    assert isinstance(stopped, Preempted)
    [(status, points)] = statuses()
    assert status == "KILLED"
    assert 1 <= points < 6
    said = (
        f"results: {Path.cwd()}/run\nresume:  python -m pipelines.train +experiment=mine hydra.run.dir={Path.cwd()}/run"
    )
    assert f"{said}\n" in capsys.readouterr().out
    assert train.task(single) is not None  # as that command does
    assert statuses() == [("FINISHED", 6)]
    assert f"{said} training.max_steps=12\n" in capsys.readouterr().out


def test_a_dry_run_trains_nothing(single: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    single.dry_run = True
    assert train.task(single) is None
    assert cli._failed == []
    shown = capsys.readouterr().out
    assert "workload    asr" in shown
    assert "fits        no device to hold it against" in shown
    assert not Path("run/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("memory", "code"),
    [
        pytest.param(10**9, None, marks=pytest.mark.slow),
        (10**5, train.PROBABLY_DOES_NOT),
        pytest.param(10, train.DOES_NOT_FIT, marks=pytest.mark.slow),
    ],
)
def test_a_dry_runs_exit_code_says_whether_it_fits(
    single: DictConfig, monkeypatch: pytest.MonkeyPatch, memory: int, code: int | None
) -> None:
    monkeypatch.setitem(devices.DEVICES, "v5e", devices.DEVICES["v5e"]._replace(memory=memory))
    monkeypatch.setattr(cli, "_exit_codes", [])
    single.dry_run, single.runtime.device = True, "v5e"
    train.task(single)
    assert cli._exit_codes == ([] if code is None else [code])


def test_what_a_trial_needs_is_asked_once_for_all_that_differ_in_numbers(
    single: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(question: str, config: DictConfig) -> str:
        asked.append((question, config.dry_run))
        return json.dumps(devices.Needs("v4", 3, 1, 2)._asdict())

    monkeypatch.setattr(train, "_asked", answer)
    monkeypatch.setattr(train, "_needs", {})
    single.dry_run, single.runtime.device = True, "v4"
    for rate in (0.1, 0.2):
        single.optimizer.learning_rate = rate
        assert train.memory(single) == devices.Needs("v4", 3, 1, 2)
    assert asked == [("estimate", False)]
    single.model.width = 32
    train.memory(single)
    assert len(asked) == 2


def test_memory_cannot_be_checked_for_no_device(single: DictConfig) -> None:
    with open_dict(single):
        single.hydra = {"sweeper": {"check_memory": True}, "launcher": {}}
    with pytest.raises(UserError, match=r"hydra\.sweeper\.check_memory"):
        train.check(single)


@pytest.mark.slow
def test_another_process_says_what_a_training_needs_or_what_is_wrong(single: DictConfig) -> None:
    single.runtime.device = "l4"
    needs = devices.Needs(**json.loads(train._asked("estimate", single)))
    assert needs.state < (needs.peak or 0) < needs.memory == devices.DEVICES["l4"].memory
    assert train._asked("check", single) == ""
    single.training.global_batch = 10**6
    with pytest.raises(UserError, match="does not fill one batch"):
        train._asked("check", single)


def test_a_name_that_no_preset_has_is_tried_out_though_it_begins_as_ours_do() -> None:
    ours = train._of_presets()
    assert "trialfleet.workloads.asr.Asr" in ours
    assert "trialfleet.workloads.grpo.rewards.answer" in ours
    assert "trialfleet.workloads.grpo.rewards.anwser" not in ours
