"""The table of an evaluation, and the sounds beside it."""

import csv
import io
from pathlib import Path

import jiwer
import numpy as np
import soundfile

from tests.workloads.asr import speech_files
from trialfleet.workloads.asr import features, samples
from trialfleet.workloads.asr.samples import Sample


def test_a_recording_is_shown_with_its_errors_and_can_be_heard(tmp_path: Path) -> None:
    speech_files.write(tmp_path, 3)
    said, read = ["the cat sat down", "a dog", "fish"], ["the cow sat", "a big dog", ""]
    words = jiwer.process_words(said, read)
    paths = [tmp_path / f"{n}.wav" for n in range(3)]
    (tmp_path / "2.wav").unlink()
    shown = [Sample(*one) for one in zip(paths, said, read, words.alignments, strict=True)]
    files = samples.files(shown, "val")
    rows = list(csv.DictReader(io.StringIO(files.pop("samples.csv").decode())))
    assert [row["audio"] for row in rows] == ["val-sample-00.flac", "val-sample-01.flac", ""]
    assert [(row["errors"], row["wrong"]) for row in rows] == [
        ("2", "cat → cow, down → -"),
        ("1", "- → big"),
        ("1", "fish → -"),
    ]
    assert sorted(files) == ["sample-00.flac", "sample-01.flac"]
    heard, rate = soundfile.read(io.BytesIO(files["sample-00.flac"]), dtype="float32")
    assert rate == features.RATE
    np.testing.assert_allclose(heard, features.read(paths[0]), atol=1e-4)
