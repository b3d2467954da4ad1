"""Lines of the guides, typed as they stand there, with a few words behind them that make them small."""

from pathlib import Path

import pytest

from .conftest import Run

TINY = ("training.max_steps=2", "training.report_every=1", "training.eval_every=2", "training.limit_eval_batches=1")
FEW = ("dataset.train_clips=64", "dataset.eval_clips=16")


@pytest.mark.slow
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("line", "own", "said"),
    [
        (
            "mvfoul training/train.py --backbone_lr 1e-4 --use_class_balanced_sampler --progressive_class_balancing",
            FEW,
            "val/sev_acc=",
        ),
        ("asr train_hydra.py -m training.learning_rate=1e-5,5e-5", ("model.width=16",), "2 of 2 trials (2 complete)"),
    ],
)
def test_a_line_runs(here: Path, run: Run, line: str, own: tuple[str, ...], said: str) -> None:
    shown = run("pipelines.guide", *line.split(), "--", *TINY, *own).stdout
    assert "python -m pipelines.train " in shown
    assert said in shown


def test_a_line_is_shown_and_one_that_cannot_be_run_says_why(run_quickly: Run) -> None:
    shown = run_quickly("pipelines.guide", "--show", "asr", "hatch", "run", "train-test").stdout
    assert "python -m pipelines.train workload=asr experiment_name=test" in shown
    assert "refused" in run_quickly("pipelines.guide", "--list", "mvfoul").stdout
    refused = run_quickly("pipelines.guide", "grpo", "run_training.py", "+optimizer.schedule_type=linear", code=2)
    assert "scheduler=polynomial" in refused.stdout
