"""MLflow's tables in a SQLite file, made once and whole, whoever else starts at the same moment.

MLflow builds its tables by some fifty migrations, in seconds, with log lines, and with a lock that holds on
one machine only. So a process of its own builds them in a file beside, and link(2) puts that in place: the
database is there complete or not at all, also if everybody is killed meanwhile.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from uuid import uuid4

from trialfleet.tracking.destination import DamagedDatabase, damage, on_network_file_system, sidecars

log = logging.getLogger(__name__)

_BUILD = "import sys; from trialfleet.compat.mlflow import make_tables; make_tables(sys.argv[1])"
BUILD_SECONDS = 600.0  # far beyond the 2-6 s it takes: for machines that are busy beyond measure


class SchemaError(Exception):
    """MLflow could not make its tables."""


def ensure(database: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Make the database with MLflow's tables if there is none, and switch on WAL where that is safe.

    Args:
        meanwhile: what there is to do while another process makes the tables; whether it fails is of no account here.

    Raises:
        SchemaError: MLflow's own tool failed; the message holds its last lines.
        DamagedDatabase: there is something else in its place.
        OSError: the folder can not be made or written.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if not _filled(database):
        with _lock(database):
            if not _filled(database):
                _build(database, meanwhile)
    wrong = damage(database)
    if wrong is not None:
        raise DamagedDatabase(database, wrong)
    if not on_network_file_system(database.parent):
        _use_wal(database)


def _filled(database: Path) -> bool:
    return database.exists() and (database.is_dir() or database.stat().st_size > 0)


def _build(database: Path, meanwhile: Callable[[], object]) -> None:
    for stale in database.parent.glob(f".{database.name}.*.new*"):
        stale.unlink(missing_ok=True)
    temporary = database.with_name(f".{database.name}.{uuid4().hex}.new")
    command = [sys.executable, "-c", _BUILD, f"sqlite:///{temporary}"]
    try:
        # a session of its own: Ctrl-C in the terminal is for the sweep, which decides what becomes of it
        process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
        with process:
            try:
                with contextlib.suppress(Exception):
                    meanwhile()
                _, said = process.communicate(timeout=BUILD_SECONDS)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise SchemaError("MLflow could not make its tables: " + "\n".join(said.splitlines()[-5:]))
        if database.exists() and not _filled(database):
            database.unlink()  # an empty file, as `touch` leaves one
        for rest in sidecars(database):  # of a file that was moved away: SQLite would play them into the new one
            rest.rename(rest.with_name(f"{rest.name}.{uuid4().hex[:8]}.old"))
        with contextlib.suppress(FileExistsError):  # another machine was quicker: theirs is as good
            os.link(temporary, database)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(database: Path) -> Iterator[None]:
    """Spares the work of building twice. Where a file system knows no locks, link(2) still decides."""
    with database.with_name(f".{database.name}.lock").open("a", encoding="utf-8") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _use_wal(database: Path) -> None:
    """WAL more than doubles the rate when the dashboard reads meanwhile. It is a property of the file."""
    connection = sqlite3.connect(database, timeout=2)
    try:
        if connection.execute("PRAGMA journal_mode").fetchone()[0].lower() != "wal":
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.DatabaseError as error:  # in use: works without, the next start tries again
        log.debug("no WAL for %s yet: %s", database, error)
    finally:
        connection.close()
