"""Each workload learns, with its defaults, by the commands that a person types."""

from pathlib import Path

import pytest

from trialfleet.trial import metrics

from .agreement import assert_agreement, load_study
from .conftest import Run

pytestmark = pytest.mark.slow


def train(run: Run, folder: Path, *words: str) -> dict[str, list[float]]:
    """Every metric that a training reported, in order."""
    run("pipelines.train", *words, f"hydra.run.dir={folder}")
    found: dict[str, list[float]] = {}
    for line in metrics.read_from(folder / "metrics.jsonl")[0]:
        for name, value in line.values.items():
            found.setdefault(name, []).append(value)
    return found


def sweep(run: Run, *words: str) -> None:
    """A study of one short trial, which also shows that the workload's own search space can be composed."""
    shown = run("pipelines.sweep", *words, "+experiment=quick_test", "hydra.sweeper.n_trials=1").stdout
    assert "1 of 1 trials (1 complete)" in shown


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_default_study_learns_to_hear(here: Path, run: Run) -> None:
    """The main job, half as many trials: the best one's word error rate is under .15; an untrained model's is near 1.

    The seed only makes sure that the few parameters are the same ones each time.
    """
    run("pipelines.sweep", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, f"sqlite:///{here}/mlflow.db", 4)
    assert load_study(folder).best_value < 0.15


@pytest.mark.usefixtures("database")
def test_mvfoul_learns_to_see(here: Path, run: Run) -> None:
    """Twice as good as chance, or better, in the mean over classes: 1 in 6 severities, 1 in 10 actions."""
    seen = train(run, here / "mvfoul", "workload=mvfoul", "training.max_epochs=5")
    assert max(seen["val/sev_balanced_acc"]) > 0.4
    assert max(seen["val/action_balanced_acc"]) > 0.4
    sweep(run, "workload=mvfoul")


@pytest.mark.usefixtures("database")
def test_grpo_raises_the_rewards_of_a_base_that_knows_the_format(here: Path, run: Run) -> None:
    """The base writes the format and is right now and then; its adapters are right more often."""
    base = train(run, here / "base", "workload=grpo_base")
    assert base["val/format_accuracy"][-1] > 0.9
    saved = max(path.parent for path in (here / "base" / "checkpoints").glob("*/manifest.json"))
    grpo = ("workload=grpo", f"training.init_from={saved}")
    policy = train(run, here / "policy", *grpo, "training.max_steps=120")
    worth = policy["train/reward_mean"]
    assert mean(worth[-3:]) > mean(worth[:3]) + 0.7
    assert policy["val/accuracy"][-1] > base["val/accuracy"][-1] + 0.08 > 0.08
    sweep(run, *grpo)
