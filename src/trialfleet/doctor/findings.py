"""What checks say, and how they are run: each within its time, and none in the way of the others."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from trialfleet.errors import ShownError
from trialfleet.trial import secrets

Status = Literal["ok", "note", "FAIL"]

END_SECONDS = 45.0  # how long a check may take to put things back


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: of the check; the same in each report.
        found: what is there.
        fix: what to do about it; empty only where all is well.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name, "ok", found)


def note(name: str, found: str, fix: str) -> Finding:
    return Finding(name, "note", found, fix)


def fail(name: str, found: str, fix: str) -> Finding:
    return Finding(name, "FAIL", found, fix)


@dataclass(frozen=True)
class Check:
    """A question, and how long it may take.

    Attributes:
        look: finds out; it may have nothing to say.
        end: called whatever happened, an interrupt included: puts back what `look` may have left.
    """

    name: str
    look: Callable[[], Iterable[Finding]]
    seconds: float
    end: Callable[[], Iterable[Finding]] | None = None


def examine(checks: Iterable[Check]) -> Generator[Finding]:
    """What all checks find, as they find it. One that raises, or takes too long, has failed, and the next begins."""
    for check in checks:
        try:
            yield from _bounded(check.name, check.look, check.seconds)
        except BaseException:  # nobody listens any more: Ctrl-C, say
            if check.end is not None:
                list(_bounded(check.name, check.end, END_SECONDS))
            raise
        if check.end is not None:
            yield from _bounded(check.name, check.end, END_SECONDS)


def _bounded(name: str, look: Callable[[], Iterable[Finding]], seconds: float) -> Iterator[Finding]:
    """Run on a thread, which is left to itself when its time is over: a file system that hangs holds up nobody."""
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for finding in look():
                found.put(finding)
        except ShownError as error:
            found.put(fail(name, error.message, error.fix))
        except Exception as error:  # noqa: BLE001  # it is the check that failed, not the command
            found.put(fail(name, f"the check itself failed: {_described(error)}", "mend what the error names"))
        found.put(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            finding = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield fail(
                name, f"no answer within {seconds:g} s", "find out what hangs: a file system, a driver, a server"
            )
            return
        if finding is None:
            return
        yield Finding(finding.name, finding.status, _readable(finding.found), _readable(finding.fix))


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def _readable(text: str) -> str:
    """One line that a terminal can show, without passwords."""
    return secrets.masked(" ".join("".join(one if one.isprintable() else " " for one in text).split()))
