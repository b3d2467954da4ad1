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
