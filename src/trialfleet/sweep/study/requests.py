"""What people ask of a study while its driver runs: files in `requests/`, which the driver reads and answers.

Whoever asks creates `requests/<id>.json`; the driver, which alone writes the study, creates the answer,
`requests/<id>.answer.json`. Both stay. A new trial bears the request's id from its first moment on, so that a request
is carried out once, whichever driver dies in between.
"""

import getpass
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.trial import records
from trialfleet.trial.records import Damaged

FOLDER = "requests"  # in the study's
STOP, CANCEL, RETRY, ENQUEUE = "stop", "cancel", "retry", "enqueue"
KINDS = (STOP, CANCEL, RETRY, ENQUEUE)

_FILE = re.compile(r"([0-9]{20}-[0-9a-f]{8})\.json")


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        id: in the order of asking.
        study: uid of the study that it was asked of.
        by: who asked, for people.
        jobs: of a stop, what becomes of jobs that run: finish, cancel or leave.
        driver: of a stop, the token of the driver that is to stop: it is not for the next one.
        trial: number of the trial to cancel, or to try again.
        point: parameters to try.
    """

    id: str
    kind: str
    study: str
    by: str
    jobs: str | None = None
    driver: str | None = None
    trial: int | None = None
    point: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """What the driver says to a request: whether it is carried out, and how or why not, in words."""

    accepted: bool
    said: str


def ask(folder: Path, kind: str, study: str, **of_kind: Any) -> Request:
    """Leave a request in the study's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    name = f"{time.time_ns():020d}-{uuid4().hex[:8]}"
    request = Request(name, kind, study, f"{getpass.getuser()} on {socket.gethostname()}", **of_kind)
    record = {key: value for key, value in asdict(request).items() if value is not None and key != "id"}
    records.create(_path(folder, name), record)
    return request


def answer(folder: Path, request: str, accepted: bool, said: str) -> None:
    """The driver's answer, once."""
    records.create(_answer_path(folder, request), {"accepted": accepted, "said": said})


def answer_to(folder: Path, request: str) -> Answer | None:
    """The answer to a request; None while there is none, or none that can be read."""
    try:
        record = records.read(_answer_path(folder, request))
    except Damaged:
        return None
    return None if record is None else Answer(bool(record.get("accepted")), str(record.get("said")))


def names(folder: Path) -> list[str]:
    """The ids of all requests, in order."""
    try:
        there = [path.name for path in (folder / FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found[1] for name in there if (found := _FILE.fullmatch(name)))


def read(folder: Path, name: str) -> Request:
    """Raises:
    Damaged: the file is no request.
    """
    path = _path(folder, name)
    record = records.read(path)
    if record is None:
        raise Damaged(path, "is empty")
    return _checked(path, name, record)


def _checked(path: Path, name: str, record: Mapping[str, Any]) -> Request:
    known = {one.name for one in fields(Request)}
    try:
        request = Request(**{**{key: value for key, value in record.items() if key in known}, "id": name})
    except TypeError as error:
        raise Damaged(path, f"is no request ({error})") from None
    wanted = {CANCEL: isinstance(request.trial, int), RETRY: isinstance(request.trial, int)}
    wanted |= {ENQUEUE: isinstance(request.point, dict), STOP: request.jobs in ("finish", "cancel", "leave")}
    if not wanted.get(request.kind, False):
        raise Damaged(path, "asks for nothing that a driver does")
    return request


def accepted(folder: Path, kinds: tuple[str, ...] = KINDS) -> list[Request]:
    """The requests that a driver has said it carries out, in the order of asking."""
    found = []
    for name in names(folder):
        said = answer_to(folder, name)
        if said is not None and said.accepted:
            try:
                request = read(folder, name)
            except Damaged:  # the driver has named it
                continue
            if request.kind in kinds:
                found.append(request)
    return found


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.json"


def _answer_path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.answer.json"
