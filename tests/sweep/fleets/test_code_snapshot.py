"""Jobs run the code that their study began with, whatever is edited meanwhile."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.studies import PROJECT
from trialfleet.trial import records

PROGRAM = """\
import hydra
from omegaconf import DictConfig

from pipelines import cli
from pipelines.constant import VALUE
from trialfleet.config.location import conf_directory


def task(cfg: DictConfig) -> float:
    return VALUE


if __name__ == "__main__":
    from pipelines.probe import task as named

    cli.main(hydra.main(config_path=str(conf_directory()), config_name="descent")(named))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, to be edited."""
    copy = tmp_path / "project"
    for part in ("conf", "pipelines", "jobs", "src"):
        shutil.copytree(PROJECT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(PROJECT / "pyproject.toml", copy)
    (copy / "pipelines" / "probe.py").write_text(PROGRAM)
    return copy


@pytest.fixture
def sweep(project: Path, tmp_path: Path) -> Callable[..., str]:
    """Types the command of a study; what it printed."""

    def run(*overrides: str) -> str:
        conf = str(PROJECT / "tests" / "tasks" / "conf")
        command = [sys.executable, "-m", "pipelines.probe", "--config-dir", conf, "-m", *overrides]
        path = os.pathsep.join([str(project), str(project / "src")])
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_study_keeps_its_code_until_todays_is_asked_for(
    sweep: Callable[..., str], project: Path, tmp_path: Path
) -> None:
    constant = project / "pipelines" / "constant.py"
    said = []
    for n_trials, value, more in ((1, 1.0, ()), (2, 2.0, ()), (3, 3.0, ("study.allow_changes=[code]",))):
        constant.write_text(f"VALUE = {value}\n")
        said.append(sweep(f"hydra.sweeper.n_trials={n_trials}", *more))
    results = [records.read(tmp_path / f"sweeps/descent/trials/{n:05d}/result.json") for n in range(3)]
    assert [result and result["objectives"] for result in results] == [[1.0], [1.0], [3.0]]
    assert ["the code has changed since this study began" in text for text in said] == [False, True, False]
    assert "): in pipelines/constant.py; its trials go on" in " ".join(said[1].split())


SCRIPT = """\
from pathlib import Path

import hydra


@hydra.main(config_path="conf", config_name="config")
def train(cfg):
    conf = Path(__file__).parent / "conf" / "outputs" / "base.yaml"
    conf.write_text("shift: 1000")  # somebody edits it while the study runs
    return cfg.x + cfg.outputs.shift


if __name__ == "__main__":
    train()
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Types the command of a study of a script whose configs are edited while it runs."""
    conf = tmp_path / "app" / "conf"
    (conf / "outputs").mkdir(parents=True)  # nothing of this name is copied, but for configs
    (conf / "config.yaml").write_text("defaults: [outputs: base, _self_]\nx: 0\n")
    (conf / "outputs" / "base.yaml").write_text("shift: 1")
    (tmp_path / "app" / "train.py").write_text(SCRIPT)

    def run(*overrides: str) -> "subprocess.CompletedProcess[str]":
        sweeper = ["hydra/sweeper=trialfleet", "hydra/launcher=submitit_local", "hydra.sweeper.tracking.uri=null"]
        command = [sys.executable, "app/train.py", "-m", *sweeper, "x=0,0.5", "hydra.sweeper.n_jobs=1", *overrides]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "200"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_a_study_keeps_its_configs_until_todays_are_asked_for(
    script: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    def objectives() -> list[float]:
        results = [records.read(path) for path in sorted(tmp_path.glob("sweeps/train/trials/*/result.json"))]
        return [result["objectives"][0] for result in results if result]

    conf = tmp_path / "app" / "conf"
    done = script("hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(objectives()) == 3
    assert max(objectives()) < 2

    before = (tmp_path / "sweeps/train/study.yaml").read_text()
    done = script("hydra.sweeper.n_trials=4", "hydra.sweeper.study.allow_changes=[outputs]")
    assert done.returncode != 0
    assert "which has other values than today's files:\n    outputs.shift: 1 → 1000" in done.stdout + done.stderr
    assert (tmp_path / "sweeps/train/study.yaml").read_text() == before

    (conf / "outputs" / "base.yaml").write_text("shift: 1")
    settings = (
        "hydra: {sweeper: {n_trials: 4, max_retries: 7}}\n"  # which jobs must not have otherwise than their command
    )
    (conf / "config.yaml").write_text("defaults: [outputs: base, _self_]\nx: 0\n" + settings)
    done = script()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(objectives()) == 4
    assert max(objectives()) < 2

    done = script("hydra.sweeper.n_trials=5", "hydra.sweeper.study.allow_changes=[outputs,code]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert objectives()[4] > 999
