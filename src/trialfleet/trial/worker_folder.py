"""A worker's folder in its study's: where a job that runs one trial after another meets the driver between two of them.

    workers/<submission>.<element>/job.json     the job, as its launcher knows it; by the driver
                                   0001.ready   the worker waits for the trial after its first; by the worker
                                   0001.json    that trial, or that no more come: linked into being once

The worker and the driver may both want to say what comes next: whoever links first is the truth.
"""

import contextlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trialfleet.trial import records
from trialfleet.trial.records import Damaged
from trialfleet.trial.submission import JobRef, Submission

FOLDER = "workers"  # in the study's
_ORDER = re.compile(r"([0-9]{4,})\.(ready|json)")


@dataclass(frozen=True)
class Order:
    """What a worker is to do next.

    Attributes:
        submission: of one trial; None if nothing more comes.
        reason: why nothing does.
    """

    submission: Submission | None
    reason: str = ""


@dataclass(frozen=True)
class Waiting:
    """A worker waits for its order.

    Attributes:
        number: of the order.
        known: signatures of the programs that it has compiled.
    """

    number: int
    known: frozenset[str]


@dataclass(frozen=True)
class Employed:
    """The job of a worker, as the driver that started it recorded it.

    Attributes:
        kind: the same of two jobs that could take each other's trials: of one code, and alike to the launcher.
    """

    job: JobRef
    kind: str


class WorkerFolder:
    """The files of one worker. To construct it creates nothing on the disk.

    Args:
        study: the study's folder.
        name: of the worker: its submission's uuid and its element there.
    """

    def __init__(self, study: Path, name: str) -> None:
        self.name = name
        self.path = study / FOLDER / name
        self._newest = 0  # number that was seen; those below it are not looked for again

    # ---------------------------------------------------------------- the driver's side

    def employ(self, employed: Employed) -> None:
        """Record the job, for drivers that come later."""
        records.write(self.path / "job.json", {"job": asdict(employed.job), "kind": employed.kind}, synced=False)

    def employed(self) -> Employed | None:
        """The job; None if nobody recorded it, or it cannot be read."""
        try:
            record = records.read(self.path / "job.json")
            return None if record is None else Employed(JobRef(**record["job"]), str(record["kind"]))
        except (Damaged, KeyError, TypeError):
            return None

    def waiting(self) -> Waiting | None:
        """The order that the worker waits for now, if it does."""
        last, kinds = self._last()
        if kinds != {"ready"}:
            return None
        try:
            record = records.read(self._file(last, "ready")) or {}
        except Damaged:
            record = {}
        known = record.get("known")
        return Waiting(last, frozenset(map(str, known if isinstance(known, list) else ())))

    def closed(self) -> bool:
        """Whether no more trials come, by the word of either side."""
        last, kinds = self._last()
        return "json" in kinds and self.order(last).submission is None

    def given(self, uuid: str) -> Submission | None:
        """The submission of this uuid, if one of the orders is it."""
        orders = (self.order(number).submission for number, kind in self._entries() if kind == "json")
        return next((one for one in orders if one is not None and one.uuid == uuid), None)

    def assign(self, number: int, submission: Submission) -> bool:
        """Give the worker a trial. False if it, or another driver, was first: then the trial is not given."""
        return self._say(number, {"submission": asdict(submission)})

    # ---------------------------------------------------------------- the worker's side

    def wait_for(self, number: int, known: frozenset[str]) -> None:
        """Tell the driver that an order is waited for."""
        records.write(self._file(number, "ready"), {"known": sorted(known)}, synced=False)

    def is_there(self, number: int) -> bool:
        """Whether the order has come."""
        return os.access(self._file(number, "json"), os.F_OK)

    def look_anew(self) -> None:
        """Forget what a network file system has told of files that are not there, which it may believe for long.

        A client of NFS asks the server again when the folder is opened and read.
        """
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            next(entries, None)

    def order(self, number: int) -> Order:
        """An order that has come. One that cannot be read is none: the worker leaves, and its trial goes elsewhere."""
        try:
            record: dict[str, Any] = records.read(self._file(number, "json")) or {}
            if "submission" in record:
                return Order(Submission.from_json(record["submission"]))
            return Order(None, str(record.get("closed", "")))
        except (Damaged, KeyError, TypeError) as error:
            return Order(None, f"{self._file(number, 'json')} cannot be read: {error}")

    def last_order(self) -> int:
        """The number of the newest order; 0 if there was none: what the job was submitted for comes first."""
        return max((number for number, kind in self._entries() if kind == "json"), default=0)

    # ---------------------------------------------------------------- either side

    def close(self, number: int, reason: str) -> bool:
        """Say that no more trials come. False if the next one is there already."""
        return self._say(number, {"closed": reason})

    def _say(self, number: int, record: dict[str, Any]) -> bool:
        return records.create(self._file(number, "json"), record, synced=False)

    def _file(self, number: int, kind: str) -> Path:
        return self.path / f"{number:04d}.{kind}"

    def _entries(self) -> list[tuple[int, str]]:
        try:
            names = os.listdir(self.path)  # noqa: PTH208  # asked often
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [match for name in names if (match := _ORDER.fullmatch(name))]
        return [(int(match[1]), match[2]) for match in found]

    def _last(self) -> tuple[int, set[str]]:
        """The highest number, and the kinds of its files: one follows the other."""
        if self._newest == 0:
            self._newest = max((number for number, _ in self._entries()), default=0)
        else:
            self.look_anew()
        while self._kinds(self._newest + 1):
            self._newest += 1
        return self._newest, self._kinds(self._newest)

    def _kinds(self, number: int) -> set[str]:
        return {kind for kind in ("ready", "json") if os.access(self._file(number, kind), os.F_OK)}
