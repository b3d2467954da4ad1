"""Lines of the guides, typed as they stand there, with a few words behind them that make them small."""

from pathlib import Path

import pytest

from tests.workloads.asr import speech_files

from .conftest import Run

TINY = (
    "training.global_batch=4",
    "dataset.max_audio_seconds=1",
    "dataset.buckets=[1]",
    "transcription.max_tokens=8",
    "dataset.max_text_tokens=30",
    "training.eval_batch=8",
    "training.max_steps=2",
    "training.report_every=1",
    "training.eval_every=2",
    "training.limit_eval_batches=1",
)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_sweep_of_a_guide_runs(run: Run, here: Path) -> None:
    """A single training, and an evaluation, do in test_evaluate.py; benchmarks.guides runs every line."""
    line = "asr train_hydra.py -m training.learning_rate=1e-5,5e-5"
    recordings = speech_files.write(here / "speech", 60)
    shown = run("pipelines.guide", *line.split(), "--", *TINY, f"dataset.train=[{recordings}]").stdout
    assert "python -m pipelines.train -m workload=asr_decoder" in shown
    assert "2 of 2 trials (2 complete)" in shown


def test_a_line_is_shown_and_one_that_cannot_be_run_says_why(run_quickly: Run) -> None:
    shown = run_quickly("pipelines.guide", "--show", "asr", "hatch", "run", "train-test").stdout
    assert shown.startswith("python -m pipelines.train workload=asr_decoder ")
    assert " experiment_name=test " in shown
    assert "refused" in run_quickly("pipelines.guide", "--list", "grpo").stdout
    refused = run_quickly("pipelines.guide", "grpo", "run_training.py", "+optimizer.schedule_type=linear", code=2)
    assert "scheduler=polynomial" in refused.stdout
    wrong = run_quickly("pipelines.guide", "asr", "src/train_hydra.py", "training.learning_rate=abc", code=2).stdout
    assert wrong.splitlines()[-1].startswith("error: ")  # that of the command which took its place
    assert "Traceback" not in wrong


def test_hydras_own_help_is_shown_whatever_is_said_besides(run_quickly: Run) -> None:
    line = ["asr", "python", "src/train_hydra.py", "--cfg", "job", "--hydra-help"]
    assert "== Flags ==" in run_quickly("pipelines.guide", *line).stdout
