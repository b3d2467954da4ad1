"""A small study on this machine: real jobs, real training, a real MLflow database."""

import json
from pathlib import Path

import pytest
import yaml

from tests.training.harness import SMALL_MODEL
from tests.training.lives import arrays_of, values_of
from trialfleet.trial.directory import TrialDir

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


@pytest.mark.slow
def test_a_process_that_trained_before_gives_the_bits_of_a_fresh_one(here: Path, run_quickly: Run) -> None:
    """Metrics and checkpoints of each trial; and a second trial of one signature compiles nothing."""
    words = (*QUICK[:-1], "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.tracking.uri=null")
    space = ("optimizer.learning_rate=tag(log,interval(1e-4,1e-2))", "model.dropout=interval(0.1,0.3)")
    for name in ("fresh", "warm"):
        own = (f"hydra.sweeper.study_name={name}", f"hydra.sweeper.worker.local={str(name == 'warm').lower()}")
        run_quickly(
            "pipelines.sweep", *words, *own, "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1", *space
        )
    runs = {name: [here / f"sweeps/{name}/trials/{number:05d}/runs/1.0" for number in range(2)] for name in NAMES}
    processes = {name: {_process(run) for run in runs[name]} for name in NAMES}
    assert {name: len(found) for name, found in processes.items()} == {"fresh": 2, "warm": 1}
    for fresh, warm in zip(runs["fresh"], runs["warm"], strict=True):
        assert values_of(fresh) == values_of(warm)
        assert arrays_of(fresh) == arrays_of(warm)
    results = [TrialDir(run.parents[1]).result() for run in runs["warm"]]
    assert [sum(result.notes["compilations"].values()) for result in results if result][1:] == [0]


NAMES = ("fresh", "warm")


def _process(run: Path) -> int:
    return int(json.loads((run / "claim").read_text())["process"]["pid"])


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
