"""`docs/asr.md`: real speech is fetched, and a training begins on it."""

import shlex
import shutil
from pathlib import Path

import pytest

from .conftest import Run

COMMANDS = (  # as the page has them
    "python -m jobs.fetch_prompts speech",
    "python -m pipelines.train workload=asr_decoder 'dataset.train=[speech/prompts.jsonl]'",
    "python -m pipelines.evaluate workload=asr_decoder +evaluation=beam",
)
SMALL = (
    "dataset.max_audio_seconds=3",
    "dataset.buckets=[3]",
    "dataset.max_train_samples=24",
    "dataset.max_eval_samples=8",
    "training.eval_batch=8",
)
SHORT = ("training.max_steps=1", "training.global_batch=4", "transcription.max_tokens=8", "dataset.max_text_tokens=40")


@pytest.mark.slow
@pytest.mark.usefixtures("database")
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's apt-get")
def test_real_speech_is_fetched_and_trained_on(run_quickly: Run, here: Path) -> None:
    fetch, train, evaluate = (shlex.split(command)[2:] for command in COMMANDS)
    assert "552 recordings" in run_quickly(*fetch).stdout
    assert (here / "speech" / "copyright").is_file()
    assert "val/wer=" in run_quickly(*train, *SMALL, *SHORT).stdout
    samples = next((here / "outputs").rglob("val-samples.csv")).read_text().splitlines()
    assert len(samples) > 2
    assert "val/wer" in run_quickly(*evaluate, "transcription.beams=2").stdout
    (shown,) = (here / "outputs" / "evaluate").rglob("val-samples.csv")
    assert shown.with_name("val-sample-00.flac").is_file()
