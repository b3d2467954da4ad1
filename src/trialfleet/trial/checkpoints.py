"""The one thing the sweep knows of checkpoints: whether a run brought a newer one.

A run's checkpoints are entries of its `checkpoints/` folder. A name that is a number, or has one behind a word that
stands for steps, says the step (`120`, `step_120.pt`, `epoch=3-step=120.ckpt`). Of any other (`last.pt`) the run's
reports do: the last one before it was written. What is still being written has a name that starts with a dot or ends
in `.tmp`.
"""

import contextlib
import re
from pathlib import Path

from trialfleet.trial import metrics, records

BEHIND = 0.1  # seconds by which a file's time may be behind the clock, or a report behind the saving of its step
TAIL = 1 << 16  # bytes of a metrics.jsonl in which the reports around a checkpoint are looked for
_STEP = re.compile(r"(?:^|step|epoch|iter|iteration|update|checkpoint|ckpt)s?[-_=]?(\d+)(?=$|[-_.])", re.IGNORECASE)


def newest_step(run_folder: Path) -> int:
    """The step of a run's newest checkpoint; -1 if there is none."""
    names = whole_entries(run_folder / "checkpoints")
    steps = [int(found[-1]) for name in names if (found := _STEP.findall(name))]
    if names and not steps:
        written = max(_time_of(run_folder / "checkpoints" / name) for name in names)
        return _reported_before(run_folder / "metrics.jsonl", written)
    return max(steps, default=-1)


def whole_entries(checkpoints: Path) -> list[str]:
    """Names in a folder of checkpoints, without those of what is still being written."""
    try:
        return [entry.name for entry in checkpoints.iterdir() if entry.name[0] != "." and entry.suffix != ".tmp"]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # it was replaced by a newer one
        return 0.0


def _reported_before(path: Path, moment: float) -> int:
    """The last step in a metrics.jsonl that was reported before a moment (Unix seconds); 0 if there is none."""
    newest = 0
    for raw in records.tail(path, TAIL).splitlines():
        with contextlib.suppress(ValueError):
            line = metrics.parse(raw.encode())
            newest = line.step if line.time <= moment + BEHIND else newest
    return newest
