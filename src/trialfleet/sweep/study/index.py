"""trials.jsonl: what each ended trial's files say, one line a trial, so that nobody need open thousands of files.

The driver appends a line whenever a trial has ended. The files stay the truth: a line counts only while the trial's
result.json is the file that it was made from, and what has no such line is read from its files. So nothing is wrong
where the index is missing, older than the files, or cut short; it only takes longer.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trialfleet.trial import metrics, records
from trialfleet.trial.directory import TrialDir, trial_dir, trial_numbers
from trialfleet.trial.metrics import Line
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import Result
from trialfleet.trial.submission import TrialRecord

NAME = "trials.jsonl"  # in the study's folder
WAITING, RUNNING = "WAITING", "RUNNING"  # states of trials that have not ended, besides those of a result
ENDED = ("COMPLETE", "PRUNED", "FAIL")

_VERSION = 1  # of the index
_TAIL = 1 << 16  # bytes of a run's reports that are read for the last values


@dataclass(frozen=True)
class TrialRow:
    """One trial, as its files say.

    Attributes:
        state: Optuna's word for one that has ended; else RUNNING if a run of it has begun, and WAITING if none has.
        values: of the objectives, of a complete trial.
        params: what was sampled.
        metrics: the last value that was reported of each, over all runs.
        step: the last that was reported.
        steps: how many there will be, if the trial says so.
        attempt: how many times it was submitted, lost jobs included.
        started: Unix seconds of its first run's claim.
        ended: Unix seconds of its result.
        seconds: that the run which brought the result took.
        parts: where these went, by what the run says of it.
        job: launcher:id of the newest job.
        node: where the newest run is, or was.
        error: type and message, on one line.
        run: label of the run that brought the result; of a trial that goes on, the newest one.
        retry_of: number of the trial whose parameters somebody asked to try again.
        mark: tells the result.json that this was made from.
    """

    number: int
    state: str
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    steps: int | None = None
    attempt: int = 1
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    job: str = ""
    node: str = ""
    error: str | None = None
    run: str | None = None
    retry_of: int | None = None
    mark: list[int] = field(default_factory=list)


_FIELDS = frozenset(one.name for one in fields(TrialRow))


def row_of(directory: TrialDir, number: int, uids: Collection[str], wanted: Collection[str] = ()) -> TrialRow:
    """What a trial's files say now.

    Args:
        uids: of the study: the present one, and those that it had before.
        wanted: metrics whose last value counts (a constraint's), however far back it was reported.
    """
    mark = _mark(directory)
    record = _record(directory)
    result = _result(directory, record, uids)
    claims = directory.claims() if record is None else directory.claims_of(record.identity)
    labels = [claim.label for claim in claims]
    latest, step, steps = last_reports(directory, labels, wanted)
    job = "" if record is None or record.job is None else f"{record.job.launcher}:{record.job.id}"
    row = TrialRow(
        number=number,
        state=RUNNING if claims else WAITING,
        params={} if record is None else {name: _readable(value) for name, value in record.params.items()},
        metrics=latest,
        step=step,
        steps=steps,
        attempt=1 if record is None else record.attempt,
        started=_time(directory.run_dir(labels[0]) / "claim") if labels else None,
        job=job or (claims[-1].job if claims else ""),
        node=claims[-1].node if claims else "",
        run=labels[-1] if labels else None,
        retry_of=None if record is None else record.retry_of,
    )
    return row if result is None else _ended(row, result, directory, mark)


def _one_line(error: str) -> str:
    return " ".join(error.replace("\n  fix: ", "; fix: ").split())


def _ended(row: TrialRow, result: Result, directory: TrialDir, mark: list[int]) -> TrialRow:
    error = None if result.error is None else _one_line(f"{result.error['type']}: {result.error['message']}")
    known = vars(row) | {
        "state": result.state.value,
        "values": None if result.objectives is None else list(result.objectives),
        "ended": _time(directory.result_json),
        "seconds": result.seconds.get("total"),
        "parts": {name: value for name, value in result.seconds.items() if name != "total"},
        "error": None if error is None else error[:500],
        "run": result.run,
        "mark": mark,
    }
    return TrialRow(**known)


def last_reports(
    directory: TrialDir, labels: Sequence[str], wanted: Collection[str] = ()
) -> tuple[dict[str, float], int | None, int | None]:
    """The last value of each metric over these runs, oldest first, the last step, and how many there will be.

    Of a long file only the end is read, unless a metric of `wanted` is not in there.
    """
    for whole in (False, True):
        latest: dict[str, float] = {}
        step = steps = None
        for label in labels:
            for line in _lines(directory.run_dir(label) / "metrics.jsonl", whole):
                latest.update(line.values)
                step, steps = line.step, line.steps or steps
        if whole or set(wanted) <= latest.keys():
            break
    return latest, step, steps


def _lines(path: Path, whole: bool) -> list[Line]:
    if not whole:
        found = []
        for raw in records.tail(path, _TAIL).encode().splitlines():
            with contextlib.suppress(ValueError):  # the first one is cut, mostly
                found.append(metrics.parse(raw))
        return found
    lines, offset = metrics.read_from(path)
    while True:
        more, end = metrics.read_from(path, offset)
        lines += more
        if end == offset:
            return lines
        offset = end


def _record(directory: TrialDir) -> TrialRecord | None:
    try:
        return TrialRecord.read(directory.trial_json)
    except Damaged:
        return None


def _result(directory: TrialDir, record: TrialRecord | None, uids: Collection[str]) -> Result | None:
    try:
        result = directory.result()
    except Damaged:
        return None
    ours = result is None or record is None or result.identity.is_of(record.identity, uids)
    return result if ours else None


def _readable(value: Any) -> Any:
    """A parameter's value; numbers that JSON has no word for are texts in trial.json."""
    return records.number(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _mark(directory: TrialDir) -> list[int]:
    try:
        found = os.stat(directory.result_json)  # noqa: PTH116  # of each of thousands of trials
    except OSError:
        return []
    return [found.st_mtime_ns, found.st_size, found.st_ino]


# -------------------------------------------------------------------- the file


def read(folder: Path, uid: str) -> dict[int, TrialRow]:
    """The lines of the index by trial, the last one of each; none where it is missing, or another study's."""
    try:
        data = records.read_bytes(folder / NAME)
    except OSError:
        return {}
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    if not lines or _parsed(lines[0]) != {"index": _VERSION, "study": uid}:
        return {}
    rows = {}
    for line in lines[1:]:
        found = _parsed(line)
        if isinstance(found, dict) and isinstance(found.get("number"), int) and found.keys() == _FIELDS:
            if found["values"] is not None:
                found["values"] = [records.number(value) for value in found["values"]]
            found["params"] = {name: _readable(value) for name, value in found["params"].items()}
            found["metrics"] = {name: records.number(value) for name, value in found["metrics"].items()}
            rows[found["number"]] = TrialRow(**found)
    return rows


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def rows(folder: Path, uids: Sequence[str], wanted: Collection[str] = ()) -> tuple[list[TrialRow], int]:
    """All trials of a study by number, from the index where it is right and from their files where it is not.

    Args:
        uids: of the study, the present one first.
        wanted: see `row_of`.

    Returns:
        the trials, and how many ended ones the index did not have, or not rightly.
    """
    known = read(folder, uids[0])
    found, anew = [], 0
    for number in trial_numbers(folder):
        directory = trial_dir(folder, number)
        row = known.get(number)
        if row is None or not row.mark or row.mark != _mark(directory):
            row = row_of(directory, number, uids, wanted)
            anew += row.state in ENDED
        found.append(row)
    return found, anew


def write(folder: Path, uid: str, trials: Iterable[TrialRow]) -> None:
    """Put an index in place, whole.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = folder / f".{NAME}.{os.getpid()}"
    try:
        with open(temporary, "w") as file:
            file.write(_line({"index": _VERSION, "study": uid}))
            file.writelines(_line(asdict(row)) for row in trials if row.state in ENDED)
        temporary.replace(folder / NAME)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _line(value: dict[str, Any]) -> str:
    return f"{records.dumps(value)}\n"


class IndexWriter:
    """The driver's way to the index. What cannot be written is left out: whoever reads the study asks the files then.

    Args:
        wanted: see `row_of`.
    """

    def __init__(self, folder: Path, uids: Sequence[str], wanted: Collection[str] = ()) -> None:
        self._folder, self._uids, self._wanted = folder, uids, wanted
        self._descriptor: int | None = None

    def open(self) -> None:
        """Bring the index up to what the files say, and hold it open for what ends from now on."""
        with contextlib.suppress(OSError):
            there, anew = rows(self._folder, self._uids, self._wanted)
            if anew or not (self._folder / NAME).exists():
                write(self._folder, self._uids[0], there)
            self._descriptor = os.open(self._folder / NAME, os.O_WRONLY | os.O_APPEND)

    def ended(self, number: int) -> None:
        """Add a trial that has ended."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            row = row_of(trial_dir(self._folder, number), number, self._uids, self._wanted)
            os.write(self._descriptor, _line(asdict(row)).encode())

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
