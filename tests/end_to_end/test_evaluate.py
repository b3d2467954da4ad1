"""`python -m pipelines.evaluate`: the scores that the training itself had."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.workloads.asr import speech_files
from trialfleet.trial import metrics

from .conftest import Run


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_checkpoint_gets_the_scores_that_its_training_gave_it(here: Path, run: Run) -> None:
    recordings = speech_files.write(here / "speech", 60)
    sizes = (
        "dataset.max_audio_seconds=1",
        "dataset.buckets=[1]",
        "dataset.max_text_tokens=30",
        "transcription.max_tokens=8",
    )
    small = (f"dataset.train=[{recordings}]", *sizes, "training.global_batch=4", "training.max_steps=10")
    run("pipelines.guide", "asr", "src/train_hydra.py", "--", "+experiment=quick_test", *small)
    (log,) = here.glob("outputs/quick_test/*/*/metrics.jsonl")
    with closing(sqlite3.connect(here / "mlflow.db")) as database:  # the labels of a preset
        assert database.execute("SELECT value FROM tags WHERE key = 'quick'").fetchall() == [("true",)]
    own = {name: value for line in metrics.read_from(log)[0] for name, value in line.values.items() if "val/" in name}

    checkpoint = f"eval_checkpoint={log.parent.relative_to(here)}"
    shown = run("pipelines.guide", "asr", "src/train_hydra.py", checkpoint).stdout
    assert re.search(rf"val/loss +{own['val/loss']:.6g}", shown)
    (written,) = here.glob("outputs/evaluate/*/*/evaluation.json")
    record = json.loads(written.read_text())
    assert record["metrics"] == own
    assert (record["workload"], record["step"], record["split"]) == ("asr_decoder", 10, "val")
    assert all(Path(name).is_file() for name in record["files"])
