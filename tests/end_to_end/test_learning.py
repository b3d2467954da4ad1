"""Each workload is swept by the commands that a person types, and the default study learns."""

from pathlib import Path

import pytest

from .agreement import assert_agreement, load_study
from .conftest import Run

pytestmark = pytest.mark.slow

QUICK = ("+experiment=quick_test", "hydra.sweeper.n_trials=1")


def test_the_default_study_learns_to_hear(here: Path, run: Run) -> None:
    """The main job, half as many trials: the best one's word error rate is under .15; an untrained model's is near 1.

    The seed only makes sure that the few parameters are the same ones each time.
    """
    run("pipelines.sweep", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, f"sqlite:///{here}/mlflow.db", 4)
    assert load_study(folder).best_value < 0.15


@pytest.mark.usefixtures("database")
def test_the_other_workloads_can_be_swept(here: Path, run: Run) -> None:
    """By a search space of their own each; whether they learn, benchmarks/proofs says."""
    run("pipelines.train", "workload=grpo_base", "+experiment=quick_test", f"hydra.run.dir={here / 'base'}")
    saved = max(path.parent for path in (here / "base" / "checkpoints").glob("*/manifest.json"))
    for workload in (("workload=mvfoul",), ("workload=grpo", f"training.init_from={saved}")):
        assert "1 of 1 trials (1 complete)" in run("pipelines.sweep", *workload, *QUICK).stdout
