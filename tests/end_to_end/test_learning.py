"""The default study learns, and each workload can be swept, by the commands that a person types."""

from pathlib import Path

import pytest

from .agreement import assert_agreement, load_study
from .conftest import Run


@pytest.mark.slow
def test_the_default_study_learns_to_hear(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a trial of the main job, at a good point; an untrained model's error rate is near 1."""
    monkeypatch.delenv("XLA_FLAGS")  # it computes more than it compiles
    point = "hydra.sweeper.enqueue=[{optimizer.learning_rate:4e-3,model.dropout:0.05,model.input_noise:0.1}]"
    run("pipelines.sweep", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", point, "training.max_steps=500")
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, f"sqlite:///{here}/mlflow.db", 1)
    assert load_study(folder).best_value < 0.5


@pytest.mark.parametrize(
    ("workload", "more"), [("mvfoul", ()), ("grpo_base", ()), ("grpo", ("training.init_from=somewhere",))]
)
def test_a_workload_has_a_space_of_its_own(run_quickly: Run, workload: str, more: tuple[str, ...]) -> None:
    """Whether it learns, benchmarks/proofs says."""
    shown = run_quickly("pipelines.sweep", f"workload={workload}", *more, "--dry-run").stdout
    assert "optimizer." in shown
    assert "8 trials would be started" in shown
