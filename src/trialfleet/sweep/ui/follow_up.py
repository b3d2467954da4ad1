"""What there is to do with a study that has trials, in the words of the command line."""

import contextlib
import shlex
from pathlib import Path

from trialfleet.sweep.study_reports import NAME as REPORT


def follow_up(folder: Path, best: int) -> dict[str, str | None]:
    """Its report, or the command that makes it; and the command that takes its best configs, None if it has none.

    Args:
        folder: the study's.
        best: how many trials are the best: of several objectives the Pareto front's.
    """
    name = shlex.quote(study_name(folder))
    written = folder / REPORT
    report = str(written) if written.is_file() else f"trialfleet report {name}"
    export = f"trialfleet study export {name}{' --front' if best > 1 else ''}"
    return {"report": report, "export": export if best else None}


def study_name(folder: Path) -> str:
    """What commands that are typed here call the study: its name below `sweeps`, or the path of its folder.

    It may have another name than its folder, which was moved or copied; another study may have that name here.
    """
    with contextlib.suppress(ValueError):
        return str(folder.absolute().relative_to(Path("sweeps").absolute()))
    return str(folder)
