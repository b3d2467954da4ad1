"""The command that a study prints for its resumption is run as it is printed."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf

from tests.tasks.forked import QuickStudy
from tests.tasks.studies import PROJECT
from trialfleet.sweep.ui.summary import resume_command, review_command
from trialfleet.tracking.destination import Destination

# What is easily taken for markup by a terminal, for a word's end by a shell, or for the grammar's own by Hydra.
TYPED = {
    "numbers": "[1,2,3]",
    "markup": "'[bold]red[/] [link=x]'",
    "quotes": '"it\'s here"',
    "spaces": "'a  b   c'",
    "dollar": "'cost: \\$HOME'",
    "mapping": "{a:1,b:[x,y]}",
    "empty": "''",
    "brackets": "'a[0]=b'",
}


def test_the_printed_command_resumes_the_study(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study("hydra.sweeper.n_trials=1", *(f"+{name}={text}" for name, text in TYPED.items()))
    said = study.run("++study.fresh=true")
    command = next(line for line in said.splitlines() if line.lstrip().startswith("resume:")).split(":", 1)[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": path}
    done = subprocess.run(["sh", "-c", command], cwd=study.place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert study.numbers() == [0, 1]  # twice as many, and not a fresh study
    first, second = (
        yaml.safe_load((study.trial(number).run_dir("1.0") / ".hydra" / "config.yaml").read_text()) for number in (0, 1)
    )
    assert {name: first[name] for name in TYPED} == {name: second[name] for name in TYPED}
    assert first["markup"] == "[bold]red[/] [link=x]"


def test_a_name_with_the_time_of_day_in_it_is_said_in_the_printed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as it was typed would begin another study."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "-m", "x=1,2"])
    setup_globals()
    hydra = {"sweeper": {"study_name": "grid-${now:%H%M%S%f}"}, "sweep": {"dir": "sweeps/${hydra.sweeper.study_name}"}}
    said = resume_command(OmegaConf.create({"hydra": hydra}))
    name = r"grid-\d{12}"
    found = re.fullmatch(
        rf"python train.py -m x=1,2 hydra.sweeper.study_name=({name}) hydra.sweep.dir=sweeps/({name})", said
    )
    assert found is not None, said
    assert found[1] == found[2]
    hydra["sweeper"]["study_name"] = "grid"
    assert resume_command(OmegaConf.create({"hydra": hydra})) == "python train.py -m x=1,2"


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        (
            "sqlite:////home/me/my results/mlflow.db",
            "trialfleet dashboard 'sqlite:////home/me/my results/mlflow.db'",
        ),
        ("postgresql://me:s3cret@host/db", "trialfleet dashboard 'postgresql://me:***@host/db'"),
        ("https://me:s3cret@host:5000", "https://me:***@host:5000"),
    ],
)
def test_results_are_reviewed_by_a_command_that_the_user_has(uri: str, command: str) -> None:
    """This package's, unless the task's project has one and says so on the task."""

    def task(config: DictConfig) -> float:
        return 1.0

    target = Destination(uri, "experiment")
    assert review_command(task, target) == command
    task.review = "make dashboard"  # type: ignore[attr-defined]
    assert review_command(task, target) == "make dashboard"
    assert review_command(task, None) is None


def test_a_fresh_start_in_a_whole_node_is_not_said_again(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study("hydra.sweeper.n_trials=1")
    said = study.run("study={fresh:true,rebuild:false,allow_changes:[]}")
    assert "study=" not in said.rpartition("resume:")[2]


def test_no_password_of_the_applications_is_shown_or_recorded_and_its_jobs_have_it(
    quick_study: Callable[..., QuickStudy],
) -> None:
    study = quick_study("hydra.sweeper.n_trials=1")
    assert "s3cret" not in study.run("+data=postgresql://me:s3cret@host/db")
    assert "s3cret" not in (study.folder / "study.yaml").read_text()
    assert "study.allow_changes" not in study.run("+data=postgresql://me:0ther@host/db", "hydra.sweeper.n_trials=2")
    config = yaml.safe_load((study.trial(1).run_dir("1.0") / ".hydra" / "config.yaml").read_text())
    assert config["data"] == "postgresql://me:0ther@host/db"
    said = study.run("+data=postgresql://me:***@host/db", "hydra.sweeper.n_trials=3", code=1)  # pasted as it was shown
    assert "data: has *** in the place of a password" in said
