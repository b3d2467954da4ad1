"""`docs/grpo.md`: from nothing to a policy, its trials and its scores, as the page's commands say."""

import json
import shlex
from pathlib import Path

import pytest

from .conftest import Run

COMMANDS = (  # as the page has them
    "python -m pipelines.train +experiment=grpo_quick_test",
    "python -m pipelines.sweep -m +experiment=grpo_from_scratch hydra.sweeper.n_trials=8 "
    "'optimizer.learning_rate=tag(log,interval(1e-3,1e-2))'",
    "python -m pipelines.evaluate workload=grpo checkpoint=latest +evaluation=greedy evaluation.num_passes=1",
)
BASE = ("max_epochs=1", "max_steps=1", "global_batch=8", "eval_batch=8")
SMALL = (
    "model.width=16",
    "model.hidden=16",
    "dataset.train_problems=16",
    "dataset.eval_problems=8",
    "training.eval_batch=8",
    "mesh.data=1",
    "++training.base.overrides.mesh.data=1",
    "++training.base.overrides.dataset.eval_problems=8",
    *(f"++training.base.overrides.training.{key}" for key in BASE),
)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_from_nothing_to_a_policy_and_its_scores(run_quickly: Run, here: Path) -> None:
    alone, study, scores = (shlex.split(command)[2:] for command in COMMANDS)
    shown = run_quickly(*alone, *SMALL, "dataset.num_batches=1").stdout
    assert "val/accuracy=" in shown
    (base,) = (here / "outputs" / "bases").iterdir()
    record = json.loads((base / "complete.json").read_text())
    trained = (base / "checkpoints" / record["checkpoint"] / "manifest.json").stat().st_mtime_ns

    # The study's trials have the same base, since what they differ in is none of the base's.
    few = ("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "training.max_steps=1", "training.global_batch=8")
    assert "2 of 2 trials" in run_quickly(*study, *SMALL, *few, "grpo.num_generations=2").stdout
    assert [each.name for each in (here / "outputs" / "bases").iterdir()] == [base.name]
    assert (base / "checkpoints" / record["checkpoint"] / "manifest.json").stat().st_mtime_ns == trained

    shown = run_quickly(*scores, "training.limit_eval_batches=1").stdout
    for name in ("accuracy", "pass_at_k", "majority_at_k", "partial_accuracy", "format_accuracy"):
        assert f"val/{name}" in shown
    samples = next((here / "outputs" / "evaluate").rglob("val-samples.csv")).read_text()
    own = ",".join(f"reward_{name}" for name in ("answer", "format_approximate", "format_exact", "number"))
    assert samples.startswith(f"question,answer,completion,right,{own},reward\n")
