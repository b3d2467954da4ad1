"""metrics.jsonl: one line a report, appended by the run that owns the file and by nobody else.

A line is {"step": int, "time": float, "values": {name: number}}; `time` is Unix seconds on the run's own clock, and
"steps", if it is there, how many steps there will be. The last line may be torn when its writer was killed: a reader
takes whole lines only.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trialfleet.trial import records

SYSTEM = "system.jsonl"  # in a run's folder: what its processes use, in the same form
SYSTEM_EVERY = "TRIALFLEET_SYSTEM_METRICS"  # in a job's environment: seconds between two of them; absent for none
CURVES = "progress.jsonl"  # in a study's folder: its own curves, in the same form
MAX_STEP = 2**63 - 1
CHUNK = 8 << 20  # bytes that a reader takes at a time; a longer line is no report


@dataclass(frozen=True)
class Line:
    """One report: the values of all metrics that were logged at a step."""

    step: int
    time: float  # Unix seconds
    values: dict[str, float]
    steps: int | None = None  # how many there will be, if the run says so


class Writer:
    """Appends reports to a run's metrics.jsonl, each with one write(2) so that lines are never interleaved."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._torn = False

    def append(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        plain = {name: float(value) for name, value in values.items()}
        total = {} if steps is None else {"steps": int(steps)}
        line = records.dumps({"step": int(step), "time": time.time(), "values": plain, **total})
        data = (line + "\n").encode()
        if self._torn:  # a full disk cut a line short: end it, so that it spoils no other
            data = b"\n" + data
        while data:  # a signal or a nearly full disk may cut a write short
            written = os.write(self._descriptor, data)
            self._torn = written < len(data)
            data = data[written:]

    def close(self) -> None:
        os.close(self._descriptor)


def read_from(path: Path, offset: int = 0) -> tuple[list[Line], int]:
    """Whole lines from byte `offset` on, of about CHUNK bytes at most; what is no report is passed over.

    Returns:
        the lines, and the offset behind the last whole one (where the next call goes on).
    """
    try:
        data = records.read_bytes(path, offset, CHUNK)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return [], offset
    end = data.rfind(b"\n") + 1
    if end == 0 and len(data) >= CHUNK:  # in the middle of something endless: only its end is of interest
        return [], offset + len(data)
    lines = []
    for raw in data[:end].splitlines():
        with contextlib.suppress(ValueError):
            lines.append(parse(raw))
    return lines, offset + end


def parse(raw: bytes) -> Line:
    """A line as reported.

    Raises:
        ValueError: it is no report: a full disk cut it short, or it was not written here.
    """
    try:
        line = json.loads(raw)
        values = {str(name): records.number(value) for name, value in line["values"].items()}
        total = line.get("steps")
        steps = total if type(total) is int and 0 < total <= MAX_STEP else None
        found = Line(int(line["step"]), float(line["time"]), values, steps)
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no report: {error!r}") from error
    if abs(found.step) > MAX_STEP or not math.isfinite(found.time):
        raise ValueError("step or time out of range")
    return found
