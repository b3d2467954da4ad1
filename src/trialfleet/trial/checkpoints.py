"""The one thing the sweep knows of checkpoints: whether a run brought a newer one.

A run's checkpoints are entries of its `checkpoints/` folder whose names end in the step (`120`, `step_120`).
What is still being written has a name that starts with a dot or ends in `.tmp`, or no step at its end.
"""

import re
from pathlib import Path

_STEP = re.compile(r"(\d+)$")


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint in `folder`; -1 if there is none."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return -1
    steps = [int(found.group(1)) for name in names if name[0] != "." and (found := _STEP.search(name))]
    return max(steps, default=-1)
