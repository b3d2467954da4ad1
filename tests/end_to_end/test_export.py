"""`python -m pipelines.export`: what a training has saved, as others read it."""

import json
import shlex
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from .conftest import Run

COMMANDS = (  # as docs/exporting.md has them
    "python -m pipelines.export workload=grpo_base checkpoint=latest to=exported/sums",
    "python -m pipelines.export workload=grpo checkpoint=latest to=exported/adapter form=adapter",
)
SMALL = (
    "model.width=16",
    "model.hidden=16",
    "generation.max_generation_steps=4",
    "training.global_batch=8",
    "mesh.data=1",
)
SHORT = (
    *SMALL,
    "dataset.train_problems=16",
    "dataset.eval_problems=8",
    "training.max_steps=1",
    "training.eval_batch=8",
)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_training_is_exported_by_the_commands_of_the_page(run_quickly: Run, here: Path) -> None:
    """The base is exported, and an adapter is trained on the folder that was written, and exported."""
    merged, adapter = (shlex.split(command)[2:] for command in COMMANDS)
    run_quickly("pipelines.train", "workload=grpo_base", "stages.next_token_epochs=9", *SHORT)
    shown = run_quickly(*merged).stdout
    assert f"merged, float32: 1 file of weights in {here / 'exported' / 'sums'}" in shown
    weights = load_file(here / "exported" / "sums" / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape == (512, 16)
    assert "to: " in run_quickly(*merged, code=2).stdout

    run_quickly("pipelines.train", "workload=grpo", f"model.weights={here / 'exported' / 'sums'}", *SHORT)
    run_quickly(*adapter)
    settings = json.loads((here / "exported" / "adapter" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["r"]) == (str(here / "exported" / "sums"), 8)
