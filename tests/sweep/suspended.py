"""A driver that is suspended at a chosen moment of a write, as a process of its own.

`python -m tests.sweep.suspended STORAGE WHERE` opens the study, makes a trial, and for each line on its standard
input reports a value; it says how each step went. WHERE it is stopped (SIGSTOP) says which moment of the first
report, or of the opening itself.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import event

from jobs.cluster.processes import wait_until
from trialfleet.sweep.study import fencing
from trialfleet.sweep.study.databases import storage_is_transient
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.storage import StudyStorage, open_storage

PATIENCE = 60.0  # seconds; only a hang takes so long, however busy the machine is
STUDY = "study"


class Driver:
    """The suspended driver, as the test sees it."""

    def __init__(self, storage: str, where: str) -> None:
        command = [sys.executable, "-m", "tests.sweep.suspended", storage, where]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def report(self, step: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()

    def wait_until_suspended(self) -> None:
        status = psutil.Process(self.process.pid).status
        assert wait_until(lambda: status() == psutil.STATUS_STOPPED, PATIENCE), status()

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def driver(storage: str | Path, where: str) -> Iterator[Driver]:
    """A driver that is ended with the block."""
    one = Driver(str(storage), where)
    with one.process:
        try:
            yield one
        finally:
            one.process.kill()


# -------------------------------------------------------------------- in the process


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class _Moment:
    """Stops the process when it comes to a place, once, after it was armed."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.armed = where in ("copy", "replace")

    def at(self, place: str) -> None:
        if self.armed and place == self.where:
            self.armed = False
            _stop()


def _hook(storage: str, moment: _Moment) -> Any:
    """The lease check, which finds a lease lost that a file beside the journal says is; it tells the moment, too."""
    journal = Path(storage)

    def check() -> None:
        if journal.with_name("taken").exists():
            raise LeaseLost("another driver took the study over")
        if any(journal.parent.glob(f".{journal.name}.*")):
            moment.at("copy")
        if journal.with_name(f"{journal.name}.lock").exists():
            moment.at("append")
        if "://" in storage:
            moment.at("check")

    replace = os.replace

    def stopping_replace(source: Any, target: Any) -> None:
        moment.at("replace")
        replace(source, target)

    os.replace = stopping_replace  # type: ignore[assignment]
    return check


def _hook_statements(one: StudyStorage, moment: _Moment) -> None:
    """Tell the moment when a row was written, and when the token was read again."""
    written = False

    def after(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        nonlocal written
        if moment.armed and statement.startswith("INSERT"):
            written = True
            moment.at("insert")
        elif written and "study_user_attributes" in statement:
            moment.at("commit")

    event.listen(one.storage._backend.engine, "after_cursor_execute", after)  # type: ignore[attr-defined]


def main(storage: str, where: str) -> None:
    moment = _Moment(where)
    check = _hook(storage, moment)
    fencing._LIMITS["postgresql"] = "SET idle_in_transaction_session_timeout = 300"  # milliseconds
    try:
        opened = open_storage(storage if "://" in storage else None, Path(storage), check)
    except LeaseLost:
        print("lost", flush=True)
        return
    one = StudyStorage(opened, STUDY, ["minimize"], check, "1:suspended")
    one.belong("uid", Path("/nowhere"))
    trial = one.create("uid")
    if "://" in storage:
        _hook_statements(one, moment)
    print("opened", flush=True)
    moment.armed = True
    for line in sys.stdin:
        try:
            one.report(trial, int(line), 0.5)
        except LeaseLost:
            print("lost", flush=True)
        except Exception as error:  # noqa: BLE001
            print("passes" if storage_is_transient(error) else repr(error), flush=True)
        else:
            print("written", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
