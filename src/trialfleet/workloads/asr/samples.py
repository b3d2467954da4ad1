"""Recordings shown with an evaluation: what was said, what was read, where they differ, and the sound itself."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import soundfile

from trialfleet.training.workload import artifact_name
from trialfleet.workloads.asr import features

if TYPE_CHECKING:
    from jiwer.process import AlignmentChunk

NOTHING = "-"  # stands where a word is missing
COLUMNS = ("recording", "audio", "said", "read", "errors", "wrong")


class Sample(NamedTuple):
    """A recording and what became of it.

    Attributes:
        said, read: in the form in which they are compared.
        alignment: jiwer's, of the words of both.
    """

    path: Path
    said: str
    read: str
    alignment: "Sequence[AlignmentChunk]"


def files(samples: Sequence[Sample], split: str) -> dict[str, bytes]:
    """A table of the samples, and each that can still be read as FLAC, by the name that it has in the table.

    There that is the one among the artifacts, where the files of a `Summary` are named after their split.
    """
    text, found = io.StringIO(), dict[str, bytes]()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, one in enumerate(samples):
        sound, name = _flac(one.path), ""
        if sound is not None:
            name = f"sample-{number:02d}.flac"
            found[name] = sound
            name = artifact_name(name, split)
        wrong = _wrong(one)
        writer.writerow([one.path, name, one.said, one.read, len(wrong), ", ".join(wrong)])
    return {"samples.csv": text.getvalue().encode(), **found}


def _wrong(one: Sample) -> list[str]:
    """Each wrong word, as 'said → read'."""
    said, read, found = one.said.split(), one.read.split(), []
    for chunk in one.alignment:
        if chunk.type != "equal":
            pairs = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for n in range(pairs):
                left = said[chunk.ref_start_idx + n] if chunk.ref_start_idx + n < chunk.ref_end_idx else NOTHING
                right = read[chunk.hyp_start_idx + n] if chunk.hyp_start_idx + n < chunk.hyp_end_idx else NOTHING
                found.append(f"{left} → {right}")
    return found


def _flac(path: Path) -> bytes | None:
    """What the encoder hears of a recording, as a file; None if it cannot be read."""
    try:
        samples = features.read(path)
    except features.UnreadableAudio:
        return None
    content = io.BytesIO()
    soundfile.write(content, samples, features.RATE, format="FLAC")
    return content.getvalue()
