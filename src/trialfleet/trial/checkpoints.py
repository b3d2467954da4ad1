"""The one thing the sweep knows of checkpoints: whether a run brought a newer one.

A run's checkpoints are entries of its `checkpoints/` folder whose names end in the step, but for suffixes (`120`,
`step_120`, `step_120.pt`). Of one without a step (`last.pt`) the run's last report tells how far it was.
What is still being written has a name that starts with a dot or ends in `.tmp`.
"""

import contextlib
import re
from pathlib import Path

from trialfleet.trial import metrics, records

TAIL = 1 << 16  # bytes of a metrics.jsonl in which its last report is looked for

_STEP = re.compile(r"(\d+)(\.[A-Za-z]\w*)*$")


def newest_step(run_folder: Path) -> int:
    """The step of a run's newest checkpoint; -1 if there is none."""
    names = whole_entries(run_folder / "checkpoints")
    steps = [int(found.group(1)) for name in names if (found := _STEP.search(name))]
    if names and not steps:
        return _last_reported(run_folder / "metrics.jsonl")
    return max(steps, default=-1)


def whole_entries(checkpoints: Path) -> list[str]:
    """Names in a folder of checkpoints, without those of what is still being written."""
    try:
        return [entry.name for entry in checkpoints.iterdir() if entry.name[0] != "." and entry.suffix != ".tmp"]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _last_reported(path: Path) -> int:
    """The step of the last report in a metrics.jsonl; 0 if there is none."""
    for line in reversed(records.tail(path, TAIL).splitlines() if path.exists() else []):
        with contextlib.suppress(ValueError):
            return metrics.parse(line.encode()).step
    return 0
