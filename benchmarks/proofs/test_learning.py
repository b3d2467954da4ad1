"""Each workload learns, with its defaults, by the commands that a person types."""

from pathlib import Path

import pytest

from tests.end_to_end.agreement import assert_agreement, load_study
from tests.end_to_end.conftest import Run
from tests.end_to_end.test_learning import GOOD_POINT
from trialfleet.trial import metrics

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.timeout(3600)]


def train(run: Run, folder: Path, *words: str) -> dict[str, list[float]]:
    """Every metric that a training reported, in order."""
    run("pipelines.train", *words, f"hydra.run.dir={folder}")
    found: dict[str, list[float]] = {}
    for line in metrics.read_from(folder / "metrics.jsonl")[0]:
        for name, value in line.values.items():
            found.setdefault(name, []).append(value)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_default_study_learns_to_hear(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a trial of the main job; an untrained model's error rate is near 1."""
    monkeypatch.delenv("XLA_FLAGS")  # it computes more than it compiles
    run(
        "pipelines.sweep",
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=1",
        GOOD_POINT,
        "training.max_steps=500",
    )
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, f"sqlite:///{here}/mlflow.db", 1)
    assert load_study(folder).best_value < 0.5


def test_mvfoul_learns_to_see(here: Path, run: Run) -> None:
    """Better in the mean over classes than a linear classifier of pooled pixels, which reaches .69 and .66."""
    seen = train(run, here / "mvfoul", "workload=mvfoul")
    assert max(seen["val/sev_balanced_acc"]) > 0.69
    assert max(seen["val/action_balanced_acc"]) > 0.7


def test_grpo_raises_the_rewards_of_a_base_that_knows_the_format(here: Path, run: Run) -> None:
    """The base writes the format and is right now and then; its adapters are right more often."""
    base = train(run, here / "base", "workload=grpo_base")
    assert base["val/format_accuracy"][-1] > 0.9
    saved = max(path.parent for path in (here / "base" / "checkpoints").glob("*/manifest.json"))
    policy = train(run, here / "policy", "workload=grpo", f"training.init_from={saved}", "training.max_steps=120")
    worth = policy["train/reward_mean"]
    assert mean(worth[-3:]) > mean(worth[:3]) + 0.7
    assert policy["val/accuracy"][-1] > base["val/accuracy"][-1] + 0.08 > 0.08
