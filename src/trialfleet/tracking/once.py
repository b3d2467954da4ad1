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
from typing import NamedTuple

from trialfleet.tracking.metrics import Line, parse

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20


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


class Once:
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
        rows.append(Row(name, value, max(0, int(line.time * 1000)), line.step))

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


def metric_name(name: str) -> str:
    """`name` in the letters that MLflow takes; `objective` itself is kept for the trials' results."""
    clean = re.sub(r"[^/\w.\- :]", "_", name)[:250]
    if normpath(clean) != clean or clean.startswith(("/", "..")) or clean == ".":
        clean = "/".join(part for part in clean.split("/") if part.strip(".")) or "unnamed"
    return f"reported/{clean}"[:250] if clean.split("/")[0] == "objective" else clean


def read_lines(path: Path, start: int, end: int | None = None) -> tuple[list[Line], int]:
    """Whole lines from byte `start` on, at most about a mebibyte of them, none beyond `end`.

    Returns:
        the lines, without those that are no report (a warning says so), and the offset behind the last one.

    Raises:
        OSError: the file is there but can not be read.
    """
    size = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - start)
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
            if len(data) == size and b"\n" not in data:  # one line longer than a chunk
                data += file.readline()
    except FileNotFoundError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    lines = [_parse(raw, path) for raw in whole.splitlines()]
    return [line for line in lines if line is not None], start + len(whole)


def read_range(path: Path, start: int, end: int) -> Iterator[Line]:
    """All whole lines of a range; fewer if the file is shorter than it was."""
    while start < end:
        lines, behind = read_lines(path, start, end)
        if behind == start:
            return
        yield from lines
        start = behind


def _parse(raw: bytes, path: Path) -> Line | None:
    try:
        return parse(raw)
    except ValueError as error:
        log.warning("%s: a line that is no report is left out (%s): %.80r", path, error, raw)
        return None
