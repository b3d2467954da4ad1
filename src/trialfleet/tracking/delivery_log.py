"""The exporter's own memory: which runs MLflow has, and which bytes of which file were sent to it.

An append-only file of JSON lines in the study's folder, written by the driver alone. Whatever is about to be
sent is noted first; so after a death at any point it is known what *may* have been sent, and sending that
again changes nothing in MLflow. There is an fsync only before a run is made: a tail lost with the machine's
power means that lines are sent once more, and never that a trial gets a second run.

A torn last line is cut off when the file is opened. A file that is damaged otherwise is put aside, since what is
missing in its middle is not known; MLflow then tells what it has (see `forwarder`).
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.trial import records

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
    created_at: float  # Unix seconds; the start of its run in MLflow
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


class _Damaged(Exception):
    """The file holds what was not written here."""


class DeliveryLog:
    """The memory itself. `note` changes it and writes it down in one append; opening one reads it back.

    Attributes:
        damage: what was found to be wrong with the file, if it was put aside for that; for the user.

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
        self.trials: dict[int, Trial] = {}  # those not completely forwarded
        self.finished: dict[int, str] = {}  # the others: number → MLflow's run id
        self.experiment_id: str | None = None
        self.parent: str | None = None  # MLflow's run id of the study
        self.database: str | None = None  # which SQLite file that is in, see `target.file_identity`
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
        self._write(_lines(events))
        for event in events:
            self._apply(event)
        if self._size > self._compact_at:
            self._compact()

    def sync(self) -> None:
        """Whatever was noted survives the loss of the machine's power, too."""
        os.fsync(self._descriptor)

    def forget(self) -> None:
        """Start from nothing, keeping the old file aside: what MLflow has is asked there."""
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

    def _snapshot(self) -> Iterator[Record]:
        if self.parent is not None or self.experiment_id is not None:
            yield study(self.experiment_id, self.parent, self.database)
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
                self.database = event.get("database")
                self.study_state, self.study_tags, self.columns = event.get("state"), {}, []
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
            case "lost":
                for number in event["trials"]:
                    self.finished.pop(number, None)
            case "create":
                number = event["trial"]
                self.finished.pop(number, None)
                self.trials[number] = Trial(number, event["at"], event["params"], event["tags"])
            case "reopen":
                number = event["trial"]
                run_id = self.finished.pop(number, None) or self.trials[number].run_id
                told = (event.get("at", 0.0), event.get("params", {}), event.get("tags", {}))
                self.trials[number] = Trial(number, *told, run_id=run_id, ready=True, unlisted=True)
            case _:
                self._apply_to_trial(self.trials[event["trial"]], event)

    def _apply_to_trial(self, trial: Trial, event: Record) -> None:
        match event["event"]:
            case "created":
                trial.run_id, trial.doubtful = event["run_id"], event["doubtful"]
                trial.unlisted = event["unlisted"]
                trial.created_at = event.get("at", trial.created_at)
            case "ready":
                trial.ready = True
            case "follow":
                trial.runs[event["run"]] = Path(os.path.normpath(self.path.parent / event["directory"]))
            case "range":
                trial.advance(Range(event["run"], event["from"], event["to"]))
            case "ended":
                trial.ended = event


def _lines(events: Iterable[Record]) -> bytes:
    return "".join(records.dumps(event) + "\n" for event in events).encode(errors="replace")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_trials(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, int) for number in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(records.number(number) is not None for number in value.values())


_SHAPES: dict[str, dict[str, Callable[[Any], bool]]] = {
    "study": {"experiment_id": _is_text_or_none, "run_id": _is_text_or_none},
    "study_state": {"state": _is_text_or_none},
    "study_tags": {"tags": _are_texts},
    "view": {"params": _are_names},
    "marking": {"best": _are_trials, "maybe": _are_trials},
    "done": {"trial": _is_whole, "run_id": _is_text},
    "lost": {"trials": _are_trials},
    "create": {"trial": _is_whole, "at": _is_number, "params": _are_texts, "tags": _are_texts},
    "reopen": {"trial": _is_whole},
    "created": {"trial": _is_whole, "run_id": _is_text, "doubtful": _is_whole, "unlisted": _is_whole},
    "ready": {"trial": _is_whole},
    "follow": {"trial": _is_whole, "run": _is_text, "directory": _is_text},
    "range": {"trial": _is_whole, "run": _is_text, "from": _is_whole, "to": _is_whole},
    "ended": {
        "trial": _is_whole,
        "state": lambda state: state in ("COMPLETE", "PRUNED", "FAIL"),
        "at": _is_number,
        "objectives": _are_numbers,
        "error": _is_text_or_none,
        "tags": _are_texts,
        "artifacts": _are_texts,
    },
}  # what each event holds at least


def _check(event: Any) -> None:
    """Raises:
    KeyError, TypeError, ValueError: this is no event that was noted here.
    """
    for name, fits in _SHAPES[event["event"]].items():
        if not fits(event[name]):
            raise TypeError(f"{name} is {event[name]!r}")


def _story(trial: Trial, folder: Path) -> Iterator[Record]:
    """The events that lead to a trial's present state, in order."""
    yield create(trial.number, trial.created_at, trial.params, trial.tags)
    if trial.run_id is not None:
        yield created(trial.number, trial.run_id, trial.created_at, trial.doubtful, trial.unlisted)
    if trial.ready:
        yield {"event": "ready", "trial": trial.number}
    for run, directory in trial.runs.items():
        yield follow(trial.number, run, directory, folder)
    for piece in [*trial.sent, *([trial.last] if trial.last else [])]:
        yield sending(trial.number, piece)
    if trial.ended is not None:
        yield trial.ended


def study(
    experiment_id: str | None, run_id: str | None, database: str | None = None, state: str | None = None
) -> Record:
    """The study has this run, to which nothing more was told yet.

    Args:
        database: the SQLite file that it is in (`target.file_identity`).
        state: how the study ended, by what the run says.
    """
    where = {"experiment_id": experiment_id, "run_id": run_id, "database": database}
    return {"event": "study", **where, "state": state}


def create(number: int, at: float, params: Mapping[str, str], tags: Mapping[str, str]) -> Record:
    """A run for the trial is about to be created, with the start time `at` (Unix seconds)."""
    return {"event": "create", "trial": number, "at": at, "params": dict(params), "tags": dict(tags)}


def created(number: int, run_id: str, at: float, doubtful: bool = False, unlisted: bool = False) -> Record:
    """The trial has this run.

    Args:
        at: the run's start in MLflow, Unix seconds.
        doubtful: a request without an answer may bring another one into being.
        unlisted: the run was found with metrics in it.
    """
    certain = {"event": "created", "trial": number, "run_id": run_id, "at": at}
    return {**certain, "doubtful": doubtful, "unlisted": unlisted}


def reopen(number: int, at: float, params: Mapping[str, str], tags: Mapping[str, str]) -> Record:
    """The trial had ended, and goes on in the run it has; if MLflow has lost that, in one made as by `create`."""
    return {"event": "reopen", "trial": number, "at": at, "params": dict(params), "tags": dict(tags)}


def lost(numbers: Iterable[int]) -> Record:
    """MLflow has nothing of these trials any more, which were there completely."""
    return {"event": "lost", "trials": sorted(numbers)}


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
