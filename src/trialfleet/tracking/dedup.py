"""Exactly once per (metric, step): what of a trial's lines goes to MLflow, whichever of its runs wrote them.

A trial that was cut and resumed trains some steps again, so that its runs report the same steps. The first
report that was forwarded stands. Steps nearly always rise, so per metric only the highest step is kept in
memory; the values behind it are read from the files again when a step comes back.
"""

import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import BinaryIO, NamedTuple

from trialfleet.trial import metrics
from trialfleet.trial.metrics import Line, parse

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LATEST = 253_402_300_799_000  # milliseconds: the end of the year 9999; later ones SQL stores can not hold
Complain = Callable[[str], None]


class Row(NamedTuple):
    """One point of a metric's curve, as MLflow stores it."""

    name: str
    value: float
    time: int  # milliseconds since 1970, from the line itself: what makes a resend the same row
    step: int


@dataclass(frozen=True)
class Conflict:
    """A step that was reported twice with different values; the first stands."""

    name: str
    step: int
    first: float
    second: float

    def __str__(self) -> str:
        return f"{self.name} at step {self.step} was {self.first!r}, and {self.second!r} when trained again"


class Dedup:
    """Lets each (metric, step) of a trial through once.

    Args:
        earlier: gives all lines that were let through or turned away before, in their order; it is called
            only when a step comes back.
    """

    def __init__(self, earlier: Callable[[], Iterable[Line]]) -> None:
        self._earlier = earlier
        self._highest: dict[str, int] = {}
        self._values: dict[tuple[str, int], float] | None = None
        self._taken: list[tuple[str, int, float]] = []  # of the chunk in work, which `earlier` does not give yet

    def assume(self, rows: Iterable[tuple[str, int, float]]) -> None:
        """Take (name, step, value) as forwarded already, before the first `take`."""
        self._values = self._values or {}
        for name, step, value in rows:
            largest = abs(value) == sys.float_info.max  # how SQL stores keep an infinity
            self._remember(name, step, math.copysign(math.inf, value) if largest else value)

    def take(self, lines: Iterable[Line]) -> tuple[list[Row], list[Conflict]]:
        """The rows of a chunk of lines that are new, and those that contradict what was forwarded."""
        rows: list[Row] = []
        conflicts: list[Conflict] = []
        self._taken = []
        for line in lines:
            for raw_name, value in line.values.items():
                self._take(metric_name(raw_name), value, line, rows, conflicts)
        return rows, conflicts

    def _take(self, name: str, value: float, line: Line, rows: list[Row], conflicts: list[Conflict]) -> None:
        if line.step <= self._highest.get(name, line.step - 1):
            first = self._lookup().get((name, line.step))
            if first is not None:
                if first != value and not (math.isnan(first) and math.isnan(value)):
                    conflicts.append(Conflict(name, line.step, first, value))
                return
        self._remember(name, line.step, value)
        rows.append(Row(name, value, milliseconds(line.time), line.step))

    def _remember(self, name: str, step: int, value: float) -> None:
        self._highest[name] = max(step, self._highest.get(name, step))
        if self._values is None:
            self._taken.append((name, step, value))
        else:
            self._values[name, step] = value

    def _lookup(self) -> dict[tuple[str, int], float]:
        if self._values is None:
            self._values = {}
            for line in self._earlier():
                for name, value in line.values.items():
                    self._values.setdefault((metric_name(name), line.step), value)
            for name, step, value in self._taken:
                self._values.setdefault((name, step), value)
        return self._values


def mlflow_name(name: str) -> str:
    """`name` in the letters that MLflow takes for metrics, parameters and tags, and as short as it wants them."""
    clean = re.sub(r"[^/\w.\- :]", "_", name)[:250]
    if normpath(clean) != clean or clean.startswith(("/", "..")) or clean == ".":
        clean = "/".join(part for part in clean.split("/") if part.strip(".")) or "unnamed"
    return clean


def metric_name(name: str) -> str:
    """`name` in the letters that MLflow takes; `objective` itself is kept for the trials' results."""
    clean = mlflow_name(name)
    return mlflow_name(f"reported/{clean}") if clean.split("/")[0] == "objective" else clean


def milliseconds(seconds: float) -> int:
    """A time as MLflow keeps it, from Unix seconds; what no store can hold becomes the nearest that it can."""
    return int(min(max(0.0, seconds * 1000), LATEST))


def read_lines(
    path: Path, start: int, end: int | None = None, complain: Complain = log.warning
) -> tuple[list[Line], int]:
    """Whole lines from byte `start` on, at most about a mebibyte of them, none beyond `end`.

    Args:
        complain: is told, once a call, of lines that are no report; they are left out.

    Returns:
        the lines, and the offset behind the last one, left out or not.

    Raises:
        OSError: the file is there but can not be read.
    """
    size = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - start)
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
            if len(data) == size and b"\n" not in data:  # one line longer than a chunk
                data += file.readline(metrics.CHUNK)
                if not data.endswith(b"\n") and len(data) > metrics.CHUNK:
                    return [], _behind_endless_line(file, path, start, end, complain)
    except FileNotFoundError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    lines: list[Line] = []
    wrong: list[str] = []
    for raw in whole.splitlines():
        try:
            lines.append(parse(raw))
        except (ValueError, RecursionError) as error:  # the latter: brackets in brackets in brackets
            wrong.append(f"{error}: {raw[:80]!r}")
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        complain(f"{path}: a line{more} that is no report is left out ({wrong[0]})")
    return lines, start + len(whole)


def _behind_endless_line(file: BinaryIO, path: Path, start: int, end: int | None, complain: Complain) -> int:
    """The offset behind a line that is too long for a report, read in pieces; `start` while it has no end."""
    while data := file.readline(CHUNK_BYTES):
        if data.endswith(b"\n"):
            behind = file.tell()
            if end is not None and behind > end:
                return start
            complain(f"{path}: a line of {behind - start} bytes, from byte {start} on, is no report and is left out")
            return behind
    return start


def read_range(path: Path, start: int, end: int, complain: Complain = log.warning) -> Iterator[Line]:
    """All whole lines of a range; fewer if the file is shorter than it was."""
    while start < end:
        lines, behind = read_lines(path, start, end, complain)
        if behind == start:
            return
        yield from lines
        start = behind
