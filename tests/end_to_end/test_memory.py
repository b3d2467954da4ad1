"""Whether it fits, by the commands that a person types."""

import shlex
from pathlib import Path

import pytest

from .conftest import Run

PUBLISHED = (  # as docs/trainer.md has it
    "python -m pipelines.train --dry-run workload=grpo model=gemma3_1b grpo=default generation=default mesh.data=1 "
    "mesh.tp=4 training.remat=full training.per_device_batch=4 runtime.device=h100"
)
SHORT = ("model.blocks=1", "training.max_steps=2", "training.eval_every=2", "runtime.device=h100")


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_sweep_spends_no_job_on_a_trial_that_fits_no_device(run_quickly: Run, here: Path) -> None:
    point = "hydra.sweeper.enqueue=[{model.width:30000}]"
    words = ("model.width=choice(16,30000)", point, "hydra.sweeper.n_trials=1", "hydra.sweeper.study_name=fit")
    shown = run_quickly("pipelines.sweep", *words, *SHORT, "hydra.sweeper.check_memory=true").stdout
    assert "OutOfMemory: the state alone is 97.2 GB on each device, and h100 has 80 GB" in shown
    assert "1 of 1 trials (1 out of memory (OutOfMemory 1))" in shown
    assert not (here / "sweeps" / "fit" / "trials" / "00000" / "runs").exists()


@pytest.mark.slow
def test_a_published_model_on_four_simulated_devices(run_quickly: Run) -> None:
    """Gemma 3 1B as the guide of grpo shards it; nothing of it is allocated, which would be 4 GB."""
    shown = run_quickly(*shlex.split(PUBLISHED)[2:]).stdout
    assert "mesh        data 1 x fsdp 1 x tp 4" in shown
    assert "999,885,952 frozen" in shown  # what is published, and the adapters beside it
    assert "state             1.18 GB  on each device: exact" in shown
    assert "fits        yes" in shown
