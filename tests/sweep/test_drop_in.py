"""In the place of hydra-optuna-sweeper's class, with that plugin's own schema: what its users rely on.

Each test types a command as that plugin's documentation does, of a program that knows nothing of this project,
with one override more: `hydra.sweeper._target_`.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from tests.tasks.commands import OF_DRIVER, Commands, host_of_commands

pytestmark = pytest.mark.slow

OURS = "hydra.sweeper._target_=trialfleet.sweep.sweeper.OptunaSweeper"

CONFIG = """\
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: tpe
  - _self_
hydra:
  sweeper:
    study_name: sphere
    n_trials: 3
    n_jobs: 2
    params: {}
  sweep:
    dir: multirun
x: 1
y: 1
z: 1
kind: sphere
error: false
"""

PROGRAM = """\
import hydra
from omegaconf import DictConfig


@hydra.main(config_path=".", config_name="config")
def sphere(cfg: DictConfig):
    if cfg.error:
        raise RuntimeError("cfg.error is True")
    value = cfg.x**2 + cfg.y**2
    if cfg.kind == "two":
        return value, (cfg.x - 2) ** 2
    return value


if __name__ == "__main__":
    sphere()
"""

SPACE = """\
from omegaconf import DictConfig
from optuna.trial import Trial


def configure(cfg: DictConfig, trial: Trial) -> None:
    x = trial.params["x"]
    trial.suggest_float("z", x - cfg.y, x + cfg.y)
    trial.suggest_float("+w", 0.0, 1.0)
"""

Sweep = Callable[..., str]


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """Forks a process for each command, which so need not import Hydra and Optuna again."""
    with host_of_commands(*OF_DRIVER) as commands:
        yield commands


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """A folder with the program; the command that starts it there."""
    for name, content in (("config.yaml", CONFIG), ("program.py", PROGRAM), ("spaces.py", SPACE)):
        (tmp_path / name).write_text(content)
    return ["program.py", "--multirun", OURS]


@pytest.fixture
def sweep(tmp_path: Path, program: list[str], commands: Commands) -> Sweep:
    """Types a command; what it printed."""

    def run(*overrides: str, code: int = 0) -> str:
        ended, said = commands.run(*program, *overrides, place=tmp_path, said=tmp_path / "said")
        assert ended == code, said
        return said

    return run


@pytest.fixture
def results(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """optimization_results.yaml of the sweep's folder."""
    return lambda: yaml.safe_load((tmp_path / "multirun" / "optimization_results.yaml").read_text())


Results = Callable[[], dict[str, Any]]


def test_a_space_on_the_command_line(sweep: Sweep, results: Results) -> None:
    sweep("hydra.sweeper.sampler.seed=123", "x=interval(-5.0,5.0)", "y=choice(-5,0,5)")
    found = results()
    assert found["name"] == "optuna"
    assert found["best_params"].keys() == {"x", "y"}
    assert found["best_value"] == found["best_params"]["x"] ** 2 + found["best_params"]["y"] ** 2


def test_a_space_in_the_config_comes_after_the_command_line(sweep: Sweep, results: Results) -> None:
    sweep("++hydra.sweeper.params.x='interval(-5.0,5.0)'", "++hydra.sweeper.params.y='range(-2,3)'", "y=7")
    found = results()
    assert found["best_params"].keys() == {"x"}
    assert found["best_value"] == found["best_params"]["x"] ** 2 + 49


def test_the_grid_sampler_takes_each_point_once(sweep: Sweep, results: Results) -> None:
    grid = ("hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=100")
    sweep(*grid, "hydra.sweeper.storage=sqlite:///grid.db", "x=choice(-1,0,1)", "y=range(0,2)")
    assert results() == {"name": "optuna", "best_params": {"x": 0, "y": 0}, "best_value": 0.0}


def test_several_objectives_give_the_pareto_front(sweep: Sweep, results: Results) -> None:
    sweep("kind=two", "hydra.sweeper.direction=[minimize,minimize]", "x=interval(-5.0,5.0)", "y=interval(-1.0,1.0)")
    front = results()["solutions"]
    assert front
    for one in front:
        assert one["values"] == [one["params"]["x"] ** 2 + one["params"]["y"] ** 2, (one["params"]["x"] - 2) ** 2]
        dominating = [other for other in front if all(map(float.__lt__, other["values"], one["values"]))]
        assert not dominating


def test_a_custom_search_space_suggests_what_depends_on_other_parameters(sweep: Sweep, results: Results) -> None:
    sweep("hydra.sweeper.custom_search_space=spaces.configure", "x=interval(-5.0,5.0)", "y=0.5")
    found = results()["best_params"]
    assert found.keys() == {"x", "z", "+w"}
    assert abs(found["x"] - found["z"]) <= 0.5


def test_a_parameter_both_fixed_and_suggested_is_refused(sweep: Sweep) -> None:
    said = sweep("hydra.sweeper.custom_search_space=spaces.configure", "x=interval(-5.0,5.0)", "z=0.5", code=1)
    assert "z: given a fixed value and searched over, too" in said


@pytest.mark.parametrize(("rate", "code"), [("0.0", 1), ("1.0", 0)])
def test_a_sweep_ends_by_its_failure_rate(sweep: Sweep, rate: str, code: int) -> None:
    said = sweep(f"hydra.sweeper.max_failure_rate={rate}", "error=true", "x=interval(-5.0,5.0)", code=code)
    assert ("more than max_failure_rate" in said) == (code == 1)
    assert "RuntimeError: cfg.error is True" in said  # the error itself, for who only sees the end


def test_a_study_in_sqlite_is_resumed(sweep: Sweep, tmp_path: Path) -> None:
    """Other than upstream, n_trials is the study's total: the listed difference."""
    storage = f"sqlite:///{tmp_path}/study.db"
    sweep(f"hydra.sweeper.storage={storage}", "hydra.sweeper.n_trials=1", "x=interval(-5.0,5.0)")
    sweep(f"hydra.sweeper.storage={storage}", "hydra.sweeper.n_trials=3", "x=interval(-5.0,5.0)")
    study = optuna.load_study(study_name="sphere", storage=storage)
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 3
    assert len({trial.params["x"] for trial in study.get_trials()}) == 3


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsgaii", "qmc"])
def test_upstreams_samplers_with_upstreams_schema(sweep: Sweep, results: Results, sampler: str) -> None:
    sweep(f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.n_trials=2", "x=interval(-5.0,5.0)", "y=interval(0.0,1.0)")
    assert results()["best_params"].keys() == {"x", "y"}


def test_submitits_local_launcher_with_upstreams_schema(sweep: Sweep, results: Results) -> None:
    sweep("hydra/launcher=submitit_local", "hydra.sweeper.n_trials=2", "x=interval(-5.0,5.0)", "y=interval(0.0,1.0)")
    assert results()["best_params"].keys() == {"x", "y"}


def test_each_job_has_its_config_in_a_folder_of_its_own(sweep: Sweep, tmp_path: Path) -> None:
    """Where upstream has 0, 1, 2 …, which a resume would write over, the trials have folders that stay theirs."""
    sweep("hydra.sweeper.n_trials=2", "x=interval(-5.0,5.0)")
    for number in range(2):
        folder = tmp_path / "multirun" / "trials" / f"{number:05d}" / "runs" / "1.0" / ".hydra"
        overrides = yaml.safe_load((folder / "overrides.yaml").read_text())
        assert [text.partition("=")[0] for text in overrides] == ["x"]
        assert yaml.safe_load((folder / "hydra.yaml").read_text())["hydra"]["job"]["num"] == number


def test_the_basic_launcher_can_be_interrupted(program: list[str], tmp_path: Path, results: Results) -> None:
    """SIGINT ends the trial that runs in the driver itself; the next command takes it up again.

    The program is a process of its own here: it finds imported nothing but its own imports.
    """
    (tmp_path / "program.py").write_text(PROGRAM.replace("    value =", "    import time; time.sleep(2)\n    value ="))
    command = [sys.executable, *program, "hydra.sweeper.n_trials=2", "x=interval(-5.0,5.0)"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    for line in driver.stdout:
        if "Launching 1 jobs" in line:
            break
    driver.send_signal(2)
    said, _ = driver.communicate(timeout=120)
    assert "interrupted" in said
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "2 of 2 trials (2 complete)" in done.stdout
    assert results()["best_params"].keys() == {"x"}


def test_an_empty_space_runs_the_same_config_n_trials_times(sweep: Sweep, results: Results) -> None:
    assert "2 of 2 trials (2 complete)" in sweep("hydra.sweeper.n_trials=2")
    assert results() == {"name": "optuna", "best_params": {}, "best_value": 2.0}
