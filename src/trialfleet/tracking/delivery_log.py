"""What was sent to MLflow: an append-only file of JSON lines in the study's folder, written by the driver alone.

What is to be sent is read from the trials' folders; here is only what the folders cannot say: which run of MLflow each
trial has, and which bytes of which metrics.jsonl were sent there. Whatever is about to be sent is noted first. So
after a death at any point it is known what *may* have been sent, and sending that again changes nothing in MLflow.
There is an fsync only before a run is created: if a loss of power takes the end of the file, some lines are sent once
more, but no trial gets a second run.

The lines, by their "event":

    study    the study's run, and what of the study has arrived there, all of it in each line
    create   a run is about to be created for a trial
    created  the trial has this run, with its parameters in it
    range    these bytes of one run's metrics.jsonl are about to be sent
    done     everything of the trial has arrived
    lost     MLflow has nothing of these trials any more

Earlier versions wrote more kinds, which are still read (`DeliveryLog._apply_earlier`).

A torn last line is cut off when the file is opened. A file that is damaged otherwise is set aside, since what is
missing in its middle is not known; what MLflow has is found there again (see `study_export`).
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.trial import records

Event = dict[str, Any]
COMPACT_BYTES = 32 << 20  # a log that has grown by this much is written anew, without what is out of date


@dataclass(frozen=True)
class Range:
    """Bytes of one run's metrics.jsonl: whole lines from `start` up to, not including, `end`."""

    run: str
    start: int
    end: int


@dataclass(frozen=True)
class StudyDelivery:
    """What of the study itself has arrived.

    Attributes:
        run_id: MLflow's run of the study.
        database: the SQLite file that it is in, see `destination.file_identity`.
        state: how the study ended, as the run says; None while it goes on.
        tags: those that were set beyond the ones that the run was created with.
        columns: the parameters that the study's saved view shows.
        best: trials that are marked as the best for sure.
        maybe_best: trials that may be: the process died while it was changing their marks.
        report: tells the file that was sent as the study's report.
        curves: bytes of the study's own curves that have arrived; what comes behind them may have, too.
    """

    experiment_id: str | None = None
    run_id: str | None = None
    database: str | None = None
    state: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    best: Collection[int] = ()
    maybe_best: Collection[int] = ()
    report: str = ""
    curves: int = 0


@dataclass
class TrialDelivery:
    """What of a trial may have been sent; it is not complete yet.

    Attributes:
        created_at: the start of its run in MLflow, Unix seconds.
        doubtful: an earlier request to create its run may still be carried out.
        unlisted: lines may have been sent that `sent` does not list, so that only MLflow knows them.
        has_params: its parameters have arrived.
        sent: all ranges but the last, neighbours joined.
        last: the newest range; whether it arrived is not known.
    """

    number: int
    created_at: float
    run_id: str | None = None
    doubtful: bool = False
    unlisted: bool = False
    has_params: bool = False
    sent: list[Range] = field(default_factory=list)
    last: Range | None = None

    def ranges(self) -> list[Range]:
        """All of them, the newest last."""
        return self.sent if self.last is None else [*self.sent, self.last]

    def offset(self, run: str) -> int:
        """Where in this run's file the next range starts."""
        if self.last is not None and self.last.run == run:
            return self.last.end
        return max((piece.end for piece in self.sent if piece.run == run), default=0)

    def advance(self, piece: Range) -> None:
        """Take note of the newest range; the one before it has arrived."""
        if self.last is not None:
            join(self.sent, self.last)
        self.last = piece


def join(pieces: list[Range], piece: Range) -> None:
    """Append `piece`, as one with the last of `pieces` if it goes on where that ends."""
    if pieces and pieces[-1].run == piece.run and pieces[-1].end == piece.start:
        piece = Range(piece.run, pieces.pop().start, piece.end)
    pieces.append(piece)


class NotOurs(Exception):
    """Another driver has taken over the study: nothing was noted, and nothing may be sent."""


class _Damaged(Exception):
    """The file holds what was not written here."""


class DeliveryLog:
    """What was sent. `note` changes it and writes it down in one append; opening the file reads it back.

    Attributes:
        study: what of the study itself has arrived.
        trials: trials of which something was, or may have been, sent, and which are not complete.
        finished: trials that have arrived completely → MLflow's run id.
        damage: what was wrong with the file, if it was set aside for that; for the user.

    Args:
        path: the file; its folder must exist.
        ours: tells whether we may still write; asked before each note, and so before all that is sent.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, ours: Callable[[], bool] = lambda: True) -> None:
        self.path = path
        self._ours = ours
        self.damage: str | None = None
        try:
            self._open()
        except _Damaged as error:
            self.close()
            aside = records.set_aside(path)
            self.damage = (
                f"{path} is damaged ({error}) and was put aside as {aside.name}; "
                "nothing is lost: what MLflow has of the study is found again by the study's uid"
            )
            self._open()

    def _open(self) -> None:
        self.study = StudyDelivery()
        self.trials: dict[int, TrialDelivery] = {}
        self.finished: dict[int, str] = {}
        self._descriptor = -1
        self._size = self._compact_at = 0  # bytes
        self._load()

    def note(self, *events: Event) -> None:
        """Apply these events and append them with one write, before anything is done about them.

        Raises:
            OSError: nothing was applied (the disk is full, say).
            NotOurs: nothing was applied.
        """
        if not self._ours():
            raise NotOurs
        self._write(_lines(events))
        for event in events:
            self._apply(event)
        if self._size > self._compact_at:
            self._compact()

    def note_study(self, **changes: Any) -> None:
        """Note that fields of `study` have other values now."""
        self.note(study(replace(self.study, **changes)))

    def sync(self) -> None:
        """Make what was noted survive a loss of power, too."""
        os.fsync(self._descriptor)

    def forget(self) -> None:
        """Start from nothing, keeping the old file aside: what MLflow has is found there."""
        self.close()
        self.path.replace(self.path.with_name(f"{self.path.name}.{uuid4().hex[:8]}.old"))
        self._open()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _write(self, data: bytes) -> None:
        start = self._size
        try:
            while data:
                written = os.write(self._descriptor, data)
                self._size, data = self._size + written, data[written:]
        except OSError:
            os.ftruncate(self._descriptor, start)  # half a line would swallow the next one
            self._size = start
            raise

    def _load(self) -> None:
        if self.path.is_dir():
            raise _Damaged("it is a folder")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        end = len(whole.rstrip(b"\0\n"))  # a power cut leaves zeros where it lost an end
        good, count = 0, 0
        for line in whole.splitlines(keepends=True):
            if good >= end:
                break
            self._take(line, count + 1)
            good += len(line)
            count += 1
        if good < len(data):
            os.ftruncate(self._descriptor, good)
        self._size = good
        self._compact_at = good + COMPACT_BYTES
        if count > 2 * (len(self.finished) + len(self.trials)) + 1000:
            self._compact()

    def _take(self, line: bytes, number: int) -> None:
        try:
            event = json.loads(line)
            _check(event)
            self._apply(event)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _Damaged(f"line {number}: {type(error).__name__} {error}"[:200]) from error

    def _compact(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        data = _lines(self._snapshot())
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self._size = len(data)
        self._compact_at = self._size + COMPACT_BYTES

    def _snapshot(self) -> Iterator[Event]:
        """The events that lead to the present state."""
        yield study(self.study)
        for number, run_id in self.finished.items():
            yield done(number, run_id)
        for trial in self.trials.values():
            yield create(trial.number, trial.created_at)
            if trial.run_id is not None:
                run = created(trial.number, trial.run_id, trial.created_at, trial.doubtful, trial.unlisted)
                yield {**run, "has_params": trial.has_params}
            for piece in trial.ranges():
                yield sending(trial.number, piece)

    def _apply(self, event: Event) -> None:
        match event["event"]:
            case "study":
                known = {"best": self.study.best, "maybe_best": self.study.maybe_best}  # earlier versions did not say
                said = {name: event[name] for name in vars(self.study) if name in event}
                self.study = StudyDelivery(**{**known, **said})
            case "curves":
                self.study = replace(self.study, curves=event["to"])
            case "create":
                self.finished.pop(event["trial"], None)
                self.trials[event["trial"]] = TrialDelivery(event["trial"], event["at"])
            case "created":
                trial = self.trials[event["trial"]]
                trial.run_id, trial.created_at = event["run_id"], event.get("at", trial.created_at)
                trial.doubtful, trial.unlisted = event["doubtful"], event["unlisted"]
                trial.has_params = event.get("has_params", False)
            case "range":
                self.trials[event["trial"]].advance(Range(event["run"], event["from"], event["to"]))
            case "done":
                self.finished[event["trial"]] = event["run_id"]
                self.trials.pop(event["trial"], None)
            case "lost":
                for number in event["trials"]:
                    self.finished.pop(number, None)
                    self.trials.pop(number, None)
            case _:
                self._apply_earlier(event)

    def _apply_earlier(self, event: Event) -> None:
        """Lines that earlier versions wrote. What they said of a trial's files is in its folder, too."""
        match event["event"]:
            case "study_state":
                self.study = replace(self.study, state=event["state"])
            case "study_tags":
                self.study = replace(self.study, tags=event["tags"])
            case "view":
                self.study = replace(self.study, columns=event["params"])
            case "marking":
                self.study = replace(self.study, best=event["best"], maybe_best=event["maybe"])
            case "reopen":
                number = event["trial"]
                run_id = self.finished.pop(number, None) or self.trials[number].run_id
                self.trials[number] = TrialDelivery(
                    number, event.get("at", 0.0), run_id, unlisted=True, has_params=True
                )
            case "ready":
                self.trials[event["trial"]].has_params = True


def _lines(events: Iterable[Event]) -> bytes:
    return "".join(records.dumps(event) + "\n" for event in events).encode(errors="replace")


# What each event holds: the type of each value, [type] for a list, {str: type} for an object; "?" if it may be missing.
_SHAPES: dict[str, dict[str, Any]] = {
    "study": {"experiment_id": str | None, "run_id": str | None, "database?": str | None, "state?": str | None}
    | {"tags?": {str: str}, "columns?": [str], "best?": [int], "maybe_best?": [int], "curves?": int},
    "curves": {"to": int},
    "create": {"trial": int, "at": int | float},
    "created": {"trial": int, "run_id": str, "doubtful": int, "unlisted": int, "at?": int | float, "has_params?": int},
    "range": {"trial": int, "run": str, "from": int, "to": int},
    "done": {"trial": int, "run_id": str},
    "lost": {"trials": [int]},
    # of earlier versions
    "study_state": {"state": str | None},
    "study_tags": {"tags": {str: str}},
    "view": {"params": [str]},
    "marking": {"best": [int], "maybe": [int]},
    "reopen": {"trial": int, "at?": int | float},
    "ready": {"trial": int},
    "follow": {},
    "ended": {},
}


def _check(event: Any) -> None:
    """Raises:
    KeyError, TypeError, ValueError: this is no event that was noted here.
    """
    for name, shape in _SHAPES[event["event"]].items():
        if name.endswith("?") and name[:-1] not in event:
            continue
        if not _fits(event[name.rstrip("?")], shape):
            raise TypeError(f"{name} is {event[name.rstrip('?')]!r}")


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, list):
        return isinstance(value, list) and all(isinstance(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(isinstance(item, shape[str]) for item in value.values())
    return isinstance(value, shape)


def study(delivery: StudyDelivery) -> Event:
    """This is what of the study has arrived."""
    return {"event": "study", **vars(delivery)}


def curves(to: int) -> Event:
    """So many bytes of the study's own curves have arrived, and what comes behind them is about to be sent, if ever."""
    return {"event": "curves", "to": to}


def create(number: int, at: float) -> Event:
    """A run for the trial is about to be created, with the start time `at` (Unix seconds)."""
    return {"event": "create", "trial": number, "at": at}


def created(number: int, run_id: str, at: float, doubtful: bool = False, unlisted: bool = False) -> Event:
    """The trial has this run, and its parameters are there.

    Args:
        at: the run's start in MLflow, Unix seconds.
        doubtful: a request without an answer may bring another one into being.
        unlisted: the run was found with metrics in it.
    """
    certain = {"event": "created", "trial": number, "run_id": run_id, "at": at}
    return {**certain, "doubtful": doubtful, "unlisted": unlisted, "has_params": True}


def sending(number: int, piece: Range) -> Event:
    """These bytes are about to be sent."""
    return {"event": "range", "trial": number, "run": piece.run, "from": piece.start, "to": piece.end}


def done(number: int, run_id: str) -> Event:
    """Everything there is of the trial has arrived."""
    return {"event": "done", "trial": number, "run_id": run_id}


def lost(numbers: Iterable[int]) -> Event:
    """MLflow has nothing of these trials any more: they are sent from the start."""
    return {"event": "lost", "trials": sorted(numbers)}


def run_of(study: Path) -> tuple[str, str] | None:
    """The ids of the experiment and of the study's run, as the log that was written last says; None if there is none.

    It is read by people's commands beside a driver: what cannot be read is as good as not there.
    """
    found = None
    with contextlib.suppress(OSError, ValueError):
        logs = sorted(study.glob("mlflow-*.jsonl"), key=lambda path: path.stat().st_mtime)
        for line in logs[-1].read_text().splitlines() if logs else ():
            if line.startswith('{"event": "study"'):
                event = json.loads(line)
                found = event.get("experiment_id"), event.get("run_id")
    return None if found is None or None in found else (str(found[0]), str(found[1]))
