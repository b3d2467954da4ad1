"""`docs/mvfoul.md`: clips are rendered, trained on and judged by the commands of the page."""

import json
import shlex
from pathlib import Path

import pytest

from tests.workloads.mvfoul.rendered import FEW

from .conftest import Run

COMMANDS = (  # as the page has them
    "python -m pipelines.train workload=mvfoul",
    "python -m pipelines.make_collisions fouls",
    "python -m pipelines.train workload=mvfoul dataset=mvfoul dataset.data_dir=fouls dataset.size=32 dataset.frames=8",
)
SHORT = (
    "training.max_steps=1",
    "training.global_batch=8",
    "training.eval_batch=8",
    "training.eval_every=1",
    "model.widths=[8,8]",
    "model.norm_groups=4",
)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_clips_are_made_and_trained_on(run_quickly: Run, here: Path) -> None:
    default, make, train = (shlex.split(command)[2:] for command in COMMANDS)
    assert "val/sev_acc=" in run_quickly(*default, *FEW, *SHORT).stdout
    made = run_quickly(*make, "--train", "16", "--eval", "8", "--size", "32").stdout
    assert "dataset=mvfoul dataset.data_dir=fouls" in made
    assert "is there already" in run_quickly(*make, code=2).stdout
    (here / "outputs").rename(here / "first")
    shown = run_quickly(*train, *SHORT, "training.data_workers=1", "training.evaluate_test=true").stdout
    assert "val/sev_acc=" in shown
    artifacts = next((here / "outputs").rglob("val-worst.png")).parent
    for name in ("confusion-severity.png", "confusion-action.png", "worst.png"):
        assert (artifacts / f"test-{name}").read_bytes().startswith(b"\x89PNG")
    said = json.loads((artifacts / "test-predictions.json").read_text())
    assert said["Set"] == "test"
    assert list(said["Actions"]) == [str(number) for number in range(8)]
    table = (artifacts / "val-classes.csv").read_text().splitlines()
    assert table[0] == "question,class,clips,predicted,hits,precision,recall,f1"
    assert len(table) == 1 + 4 + 8


def test_a_set_that_cannot_be_made_is_refused(run_quickly: Run, here: Path) -> None:
    assert "--size: must be even" in run_quickly("pipelines.make_collisions", "fouls", "--size", "33", code=2).stdout
    assert "--train: must be at least 1" in run_quickly("pipelines.make_collisions", "f", "--train", "0", code=2).stdout
    assert not (here / "fouls").exists()
    assert "annotations.json" in run_quickly("pipelines.make_collisions", "--help").stdout
