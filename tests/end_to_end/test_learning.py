"""The default study learns, and each workload can be swept, by the commands that a person types."""

from pathlib import Path

import pytest

from trialfleet.trial import metrics

from .agreement import assert_agreement
from .conftest import Run

GOOD_POINT = "hydra.sweeper.enqueue=[{optimizer.learning_rate:4e-3,model.dropout:0.05,model.input_noise:0.1}]"


@pytest.mark.slow
def test_the_default_study_learns(here: Path, run: Run) -> None:
    """The first tenth of a trial of the main job, at a good point; that it hears in the end, benchmarks/proofs says."""
    steps = ("training.max_steps=100", "training.report_every=10", "training.limit_eval_batches=1")
    run("pipelines.sweep", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", GOOD_POINT, *steps)
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, f"sqlite:///{here}/mlflow.db", 1)
    (reported,) = folder.glob("trials/00000/runs/*/metrics.jsonl")
    losses = [line.values["train/loss"] for line in metrics.read_from(reported)[0] if "train/loss" in line.values]
    assert losses[-1] < 0.9 * losses[2]  # the first ones only learn how often each digit is said


@pytest.mark.parametrize(
    ("workload", "more"), [("mvfoul", ()), ("grpo_base", ()), ("grpo", ("training.init_from=somewhere",))]
)
def test_a_workload_has_a_space_of_its_own(here: Path, run_quickly: Run, workload: str, more: tuple[str, ...]) -> None:
    """Whether it learns, benchmarks/proofs says."""
    (here / "somewhere").mkdir()
    (here / "somewhere" / "manifest.json").touch()
    shown = run_quickly("pipelines.sweep", f"workload={workload}", *more, "--dry-run").stdout
    assert "optimizer." in shown
    assert "8 trials would be started" in shown
