"""The ingester's own memory: which runs MLflow has, and which bytes of which file were sent to it.

An append-only file of JSON lines in the study's folder, written by the driver alone. Whatever is about to be
sent is noted first; so after a death at any point it is known what *may* have been sent, and sending that
again changes nothing in MLflow. There is no fsync: a tail lost with the machine's power means only that the
same lines are sent once more. A torn last line is cut off when the file is opened.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.tracking import records

Record = dict[str, Any]
COMPACT_BYTES = 32 << 20  # a cursor that has grown by this much is written anew


@dataclass(frozen=True)
class Range:
    """Bytes of one run's metrics.jsonl: whole lines from `start` up to, not including, `end`."""

    run: str
    start: int
    end: int


@dataclass
class Trial:
    """What is known of a trial that is not completely forwarded yet."""

    number: int
    created_at: float  # Unix seconds
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    doubtful: bool = False  # an earlier request to create its run may still be carried out
    unlisted: bool = False  # lines may have been sent that `sent` does not list: only MLflow knows them
    ready: bool = False  # its parameters have arrived
    runs: dict[str, Path] = field(default_factory=dict)  # label → directory
    sent: list[Range] = field(default_factory=list)  # all ranges but the last, neighbours joined
    last: Range | None = None  # the newest range: whether it arrived is not known
    ended: Record | None = None

    def offset(self, run: str) -> int:
        """Where in this run's file the next range starts."""
        if self.last is not None and self.last.run == run:
            return self.last.end
        return max((piece.end for piece in self.sent if piece.run == run), default=0)

    def advance(self, piece: Range) -> None:
        """Takes note of the newest range; the one before it is known to have arrived."""
        if self.last is not None:
            join(self.sent, self.last)
        self.last = piece


def join(pieces: list[Range], piece: Range) -> None:
    """Append `piece`, as one with the last of `pieces` if it goes on where that ends."""
    if pieces and pieces[-1].run == piece.run and pieces[-1].end == piece.start:
        piece = Range(piece.run, pieces.pop().start, piece.end)
    pieces.append(piece)


class NotOurs(Exception):
    """Somebody else forwards the study now: nothing was noted, and nothing may be sent."""


class Cursor:
    """The memory itself. `note` changes it and writes it down in one append; opening one reads it back.

    Args:
        path: the file; its folder must exist. Trials' directories are kept relative to that folder, so that
            a study can be moved.
        ours: tells whether we may still write; asked before each note, and so before all that is sent.

    Raises:
        OSError: the file can not be read or written.
    """

    def __init__(self, path: Path, ours: Callable[[], bool] = lambda: True) -> None:
        self.path = path
        self._ours = ours
        self._open()

    def _open(self) -> None:
        self.trials: dict[int, Trial] = {}  # those not completely forwarded
        self.finished: dict[int, str] = {}  # the others: number → MLflow's run id
        self.experiment_id: str | None = None
        self.parent: str | None = None  # MLflow's run id of the study
        self.study_state: str | None = None
        self.study_tags: dict[str, str] = {}  # those that were set beyond the study's own
        self.columns: list[str] = []  # the parameters that the study's saved view shows
        self.best: set[int] = set()  # marked for sure
        self.maybe_best: set[int] = set()  # perhaps marked: the process died while it was changing the marks
        self._descriptor = -1
        self._size = self._compact_at = 0  # bytes
        self._load()

    def note(self, *events: Record) -> None:
        """Apply these events and append them with one write, before anything is done about them.

        Raises:
            OSError: nothing was applied (the disk is full, say).
            NotOurs: nothing was applied.
        """
        if not self._ours():
            raise NotOurs
        self._write("".join(records.dumps(event) + "\n" for event in events).encode())
        for event in events:
            self._apply(event)
        if self._size > self._compact_at:
            self._compact()

    def forget(self) -> None:
        """Start from nothing, keeping the old file aside: MLflow does not know these runs any more."""
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
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        data = self.path.read_bytes()
        good = 0
        lines = 0
        for line in data.splitlines(keepends=True):
            event = _parse(line)
            if event is None:  # torn, or, after a power cut, zeros: what follows is sent again
                break
            self._apply(event)
            good += len(line)
            lines += 1
        if good < len(data):
            os.ftruncate(self._descriptor, good)
        self._size = good
        self._compact_at = good + COMPACT_BYTES
        if lines > 2 * (len(self.finished) + len(self.trials)) + 1000:
            self._compact()

    def _compact(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        lines = "".join(records.dumps(event) + "\n" for event in self._snapshot())
        temporary.write_text(lines, encoding="utf-8")
        temporary.replace(self.path)
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self._size = len(lines.encode())
        self._compact_at = self._size + COMPACT_BYTES

    def _snapshot(self) -> Iterator[Record]:
        if self.parent is not None or self.experiment_id is not None:
            yield study(self.experiment_id, self.parent)
        for number, run_id in self.finished.items():
            yield done(number, run_id)
        for trial in self.trials.values():
            yield from _story(trial, self.path.parent)
        if self.best or self.maybe_best:
            yield {"event": "marking", "best": sorted(self.best), "maybe": sorted(self.maybe_best)}
        if self.study_tags:
            yield {"event": "study_tags", "tags": self.study_tags}
        if self.columns:
            yield {"event": "view", "params": self.columns}
        if self.study_state is not None:
            yield {"event": "study_state", "state": self.study_state}

    def _apply(self, event: Record) -> None:
        match event["event"]:
            case "study":
                self.experiment_id, self.parent = event["experiment_id"], event["run_id"]
            case "study_state":
                self.study_state = event["state"]
            case "study_tags":
                self.study_tags = event["tags"]
            case "view":
                self.columns = event["params"]
            case "marking":
                self.best, self.maybe_best = set(event["best"]), set(event["maybe"])
            case "done":
                self.finished[event["trial"]] = event["run_id"]
                self.trials.pop(event["trial"], None)
            case "create":
                number = event["trial"]
                self.trials[number] = Trial(number, event["at"], event["params"], event["tags"])
            case "reopen":
                number = event["trial"]
                run_id = self.finished.pop(number, None) or self.trials[number].run_id
                self.trials[number] = Trial(number, 0.0, run_id=run_id, ready=True, unlisted=True)
            case _:
                self._apply_to_trial(self.trials[event["trial"]], event)

    def _apply_to_trial(self, trial: Trial, event: Record) -> None:
        match event["event"]:
            case "created":
                trial.run_id, trial.doubtful = event["run_id"], event["doubtful"]
                trial.unlisted = event["unlisted"]
            case "ready":
                trial.ready = True
            case "follow":
                trial.runs[event["run"]] = Path(os.path.normpath(self.path.parent / event["directory"]))
            case "range":
                trial.advance(Range(event["run"], event["from"], event["to"]))
            case "ended":
                trial.ended = event


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _story(trial: Trial, folder: Path) -> Iterator[Record]:
    """The events that lead to a trial's present state, in order."""
    yield create(trial.number, trial.created_at, trial.params, trial.tags)
    if trial.run_id is not None:
        yield created(trial.number, trial.run_id, trial.doubtful, trial.unlisted)
    if trial.ready:
        yield {"event": "ready", "trial": trial.number}
    for run, directory in trial.runs.items():
        yield follow(trial.number, run, directory, folder)
    for piece in [*trial.sent, *([trial.last] if trial.last else [])]:
        yield sending(trial.number, piece)
    if trial.ended is not None:
        yield trial.ended


def study(experiment_id: str | None, run_id: str | None) -> Record:
    """The study has this run in this experiment."""
    return {"event": "study", "experiment_id": experiment_id, "run_id": run_id}


def create(number: int, at: float, params: Mapping[str, str], tags: Mapping[str, str]) -> Record:
    """A run for the trial is about to be created, with the start time `at` (Unix seconds)."""
    return {"event": "create", "trial": number, "at": at, "params": dict(params), "tags": dict(tags)}


def created(number: int, run_id: str, doubtful: bool = False, unlisted: bool = False) -> Record:
    """The trial has this run.

    Args:
        doubtful: a request without an answer may bring another one into being.
        unlisted: the run was found with metrics in it.
    """
    return {"event": "created", "trial": number, "run_id": run_id, "doubtful": doubtful, "unlisted": unlisted}


def reopen(number: int) -> Record:
    """The trial had ended, and goes on in the run it has."""
    return {"event": "reopen", "trial": number}


def follow(number: int, run: str, directory: Path, folder: Path) -> Record:
    """The trial's metrics are, also, in this directory; kept relative to the study's `folder`."""
    return {"event": "follow", "trial": number, "run": run, "directory": os.path.relpath(directory, folder)}


def sending(number: int, piece: Range) -> Record:
    """These bytes are about to be sent."""
    return {"event": "range", "trial": number, "run": piece.run, "from": piece.start, "to": piece.end}


def done(number: int, run_id: str) -> Record:
    """Everything there is of the trial has arrived."""
    return {"event": "done", "trial": number, "run_id": run_id}


def marking(best: Iterable[int], maybe: Iterable[int]) -> Record:
    """`best` bear the mark for sure; `maybe` may bear it, or may have lost it."""
    return {"event": "marking", "best": sorted(best), "maybe": sorted(maybe)}
