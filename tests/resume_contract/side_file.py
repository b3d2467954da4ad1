"""What the jobs of a sweep said in the side file, and what may be concluded from it."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Parameters = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Said:
    """One line.

    Attributes:
        event: start or end.
        outcome: of an end: well or failed.
        order: of a start, how many there were before; of an end, how many of the same outcome there were before.
        pid: of the process that the job ran in.
        number: Hydra's job number.
        parameters: what was searched over, and what was fixed.
        folder: the job's output folder.
        sweep: the sweep's folder.
    """

    event: str
    outcome: str | None
    order: int
    pid: int
    number: object
    parameters: Parameters
    folder: Path
    sweep: Path


def read(path: Path) -> list[Said]:
    """All whole lines; none while no job has started."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [_said(json.loads(line)) for line in whole.splitlines()]


def _said(line: dict[str, object]) -> Said:
    parameters = line["parameters"]
    assert isinstance(parameters, dict)
    return Said(
        event=str(line["event"]),
        outcome=None if line.get("outcome") is None else str(line["outcome"]),
        order=int(str(line["order"])),
        pid=int(str(line["pid"])),
        number=line["number"],
        parameters=tuple(sorted(parameters.items())),
        folder=Path(str(line["folder"])),
        sweep=Path(str(line["sweep"])),
    )


def starts(lines: Iterable[Said]) -> list[Said]:
    return [line for line in lines if line.event == "start"]


def ends(lines: Iterable[Said], outcome: str | None = None) -> list[Said]:
    """The ends, of one outcome or of all."""
    return [line for line in lines if line.event == "end" and outcome in (None, line.outcome)]


def unfinished(lines: list[Said]) -> list[Said]:
    """The starts of jobs that did not come to their end."""
    ended = {(line.pid, line.folder, line.parameters) for line in ends(lines)}
    return [line for line in starts(lines) if (line.pid, line.folder, line.parameters) not in ended]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for its exit status does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # no /proc, or gone between the two
        return not Path("/proc/self").exists()
    return state not in "ZX"
