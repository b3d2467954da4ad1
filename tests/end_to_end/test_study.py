"""A small study on this machine: real jobs, real training, a real MLflow database."""

from pathlib import Path

import pytest
import yaml

from tests.training.harness import SMALL_MODEL

from .agreement import assert_agreement, load_study
from .conftest import Run

QUICK = ("+experiment=quick_test", *SMALL_MODEL, "hydra.sweeper.study_name=quick")


@pytest.mark.slow
def test_a_study_is_run_and_has_nothing_left_to_do(here: Path, run: Run, run_quickly: Run, database: str) -> None:
    shown = run("pipelines.sweep", "-m", "hydra/sweeper=optuna", *QUICK, "hydra.sweeper.n_trials=1").stdout
    assert "best: trial" in shown
    assert "config: " in shown
    assert_agreement(here / "sweeps" / "quick", database, 1)

    again = run_quickly("pipelines.sweep", "-m", "hydra/sweeper=optuna", *QUICK, "hydra.sweeper.n_trials=1").stdout
    assert "is finished" in again
    assert_agreement(here / "sweeps" / "quick", database, 1)

    changed = run_quickly("pipelines.sweep", *QUICK, "hydra.sweeper.n_trials=2", "training.max_steps=7", code=2).stdout
    assert "training.max_steps: 20 → 7" in changed


def test_a_study_in_a_database_of_the_users_own_is_raised(here: Path, run_quickly: Run, database: str) -> None:
    storage = f"sqlite:///{here}/studies.db"
    folder = here / "sweeps" / "descent"
    for n_trials in (1, 2):
        where = (f"hydra.sweeper.storage={storage}", f"tracking.uri={database}")
        run_quickly("tests.tasks", "-m", f"hydra.sweeper.n_trials={n_trials}", *where)
        assert_agreement(folder, database, n_trials, storage)
    assert load_study(folder, storage).study_name == "descent"
    assert not (folder / "optuna_journal.log").exists()


def test_without_arguments_it_means_the_same(run_quickly: Run) -> None:
    """But for the command line itself, the composed configs are equal."""
    configs = []
    for words in ([], ["hydra/sweeper=optuna"]):
        config = yaml.safe_load(run_quickly("pipelines.sweep", "--cfg", "all", *words).stdout)
        del config["hydra"]["overrides"], config["hydra"]["job"]["override_dirname"]
        configs.append(config)
    assert configs[0] == configs[1]
    assert configs[0]["hydra"]["mode"] == "MULTIRUN"
