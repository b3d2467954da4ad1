"""Databases that cannot be opened say why and what to do; and which of their errors pass by themselves."""

import errno
import os
import sqlite3
import sys
from pathlib import Path

import optuna
import psycopg
import pytest
from psycopg import errors as pg
from sqlalchemy import create_engine, exc, text

from tests.sweep.postgres import closed_after
from trialfleet.errors import UserError
from trialfleet.sweep.study.databases import open_database, storage_is_full, storage_is_transient
from trialfleet.sweep.study.lease import LeaseLost

# -------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/studies.db",
        "postgresql+psycopg://u:secret@127.0.0.1:1/none",
        "oracel://x",
        "not a url",
        "sqlite:///{brace}.db",
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=.*: cannot be opened") as refusal:
        open_database(url)
    assert "secret" not in str(refusal.value)
    assert storage_is_transient(refusal.value) is ("127.0.0.1" in url or "no/such" in url)


def studies(path: Path) -> str:
    """The address of a database that holds a study of some size."""
    url = f"sqlite:///{path}"
    with closed_after(open_database(url)) as storage:
        study = optuna.create_study(study_name="study", storage=storage)
        for number in range(20):
            study.set_user_attr(f"key-{number}", "value" * 200)
    return url


@pytest.mark.parametrize("damage", ["text", "head", "middle", "cut"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    """Damage in the middle, which Optuna would find out about when it comes there."""
    path = tmp_path / "studies.db"
    url = studies(path)
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"this is no database, but a text of some length" * 50)
    elif damage == "head":
        data[:100] = bytes(100)
    elif damage == "middle":
        data[len(data) // 3 : 2 * len(data) // 3] = os.urandom(len(data) // 3)
    else:
        data = data[: len(data) // 2 + 100]
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path} is damaged: .+") as refusal:
        open_database(url)
    assert "move it away" in refusal.value.fix
    assert "study.rebuild=true" in refusal.value.fix
    assert path.read_bytes() == data


def test_a_sound_file_is_opened(tmp_path: Path) -> None:
    with closed_after(open_database(studies(tmp_path / "studies.db"))) as storage:
        assert len(storage.get_all_studies()) == 1


def test_a_file_that_another_process_has_locked_passes(tmp_path: Path) -> None:
    url = studies(tmp_path / "studies.db")
    holder = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match="locked") as refusal:
        open_database(f"{url}?timeout=0")
    assert storage_is_transient(refusal.value)
    holder.close()


def test_a_schema_of_another_version_is_refused(tmp_path: Path) -> None:
    url = studies(tmp_path / "studies.db")
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("update alembic_version set version_num = 'v0.9.0.a'")
    connection.close()
    with pytest.raises(UserError, match="no longer compatible"):
        open_database(url)


@pytest.mark.parametrize(
    ("url", "module", "command"),
    [
        ("postgresql+psycopg://u:secret@host/db", "psycopg", "pip install 'trialfleet[postgres]'"),
        ("postgresql+psycopg2://u:secret@host/db", "psycopg2", "pip install psycopg2-binary"),
        ("mysql+pymysql://u:secret@host/db", "pymysql", "pip install pymysql"),
        ("mysql://u:secret@host/db", "MySQLdb", "pip install mysqlclient"),
        ("mysql+mysqldb://u:secret@host/db", "MySQLdb", "pip install mysqlclient"),
        ("mssql+pyodbc://u:secret@host/db", "pyodbc", "pip install pyodbc"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    url: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    with pytest.raises(UserError, match="its database driver cannot be imported") as refusal:
        open_database(url)
    assert command in refusal.value.fix
    assert "secret" not in str(refusal.value)


# -------------------------------------------------------------------- errors that pass


def wrapped(error: Exception, kind: type[exc.DBAPIError] = exc.OperationalError, lost: bool = False) -> Exception:
    """As SQLAlchemy and then Optuna raise it."""
    outer = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    outer.__cause__ = kind("select 1", None, error, connection_invalidated=lost)
    return outer


def module_error(module: str, *arguments: object) -> Exception:
    kind = type("OperationalError", (Exception,), {"__module__": module})
    error: Exception = kind(*arguments)
    return error


PASSING = {
    "a locked SQLite file": wrapped(sqlite3.OperationalError("database is locked")),
    "a locked table": wrapped(sqlite3.OperationalError("database table is locked: trials")),
    "EIO under SQLite": wrapped(sqlite3.OperationalError("disk I/O error")),
    "SQLite bare": sqlite3.OperationalError("database is locked"),
    "shutdown": wrapped(pg.AdminShutdown("terminating connection due to administrator command")),
    "crash": wrapped(pg.CrashShutdown("terminating connection because of crash")),
    "starting": wrapped(pg.CannotConnectNow("the database system is starting up")),
    "shutdown bare": pg.AdminShutdown("terminating connection"),
    "refused": wrapped(psycopg.OperationalError("connection failed: Connection refused")),
    "closed": wrapped(psycopg.OperationalError("server closed the connection unexpectedly")),
    "used after it was closed": wrapped(psycopg.InterfaceError("the connection is closed"), exc.InterfaceError),
    "idle": wrapped(pg.IdleInTransactionSessionTimeout("terminating connection"), exc.InternalError),
    "deadlock": wrapped(pg.DeadlockDetected("deadlock detected")),
    "serialization": wrapped(pg.SerializationFailure("could not serialize access")),
    "too many": wrapped(pg.TooManyConnections("sorry, too many clients already")),
    "invalidated": wrapped(psycopg.Error("whatever"), exc.DBAPIError, lost=True),
    "pool": exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached"),
    "rollback": exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.", code="8s2b"),
    "MySQL gone": wrapped(module_error("pymysql.err", 2006, "MySQL server has gone away")),
    "MySQL lost": wrapped(module_error("MySQLdb", 2013, "Lost connection")),
    "MySQL lock": wrapped(module_error("pymysql.err", 1205, "Lock wait timeout exceeded")),
    "ESTALE": OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    "EIO": OSError(errno.EIO, os.strerror(errno.EIO)),
}

STAYING = {
    "no table": wrapped(sqlite3.OperationalError("no such table: trials")),
    "read only": wrapped(sqlite3.OperationalError("attempt to write a readonly database")),
    "malformed": wrapped(sqlite3.DatabaseError("database disk image is malformed"), exc.DatabaseError),
    "full under SQLite": wrapped(sqlite3.OperationalError("database or disk is full")),
    "password": wrapped(psycopg.OperationalError('FATAL: password authentication failed for user "u"')),
    "no database": wrapped(psycopg.OperationalError('FATAL: database "x" does not exist')),
    "no column": wrapped(pg.UndefinedColumn("column x does not exist"), exc.ProgrammingError),
    "too long": wrapped(pg.StringDataRightTruncation("value too long"), exc.DataError),
    "full under PostgreSQL": wrapped(pg.DiskFull("could not extend file")),
    "MySQL denied": wrapped(module_error("pymysql.err", 1045, "Access denied")),
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "absent": FileNotFoundError(errno.ENOENT, "no such file"),
    "a bug": KeyError("Record does not exist."),
    "lost": LeaseLost("another driver took the study over"),
    "refused by us": UserError("no"),
}


def test_a_full_disk_of_a_server_is_no_full_disk_here() -> None:
    full = {wrapped(pg.DiskFull("could not extend file")), wrapped(module_error("pymysql.err", 1114, "table is full"))}
    others = {*PASSING.values(), *STAYING.values()} - {STAYING["full under PostgreSQL"]}
    assert all(storage_is_full(error) for error in full)
    assert not any(storage_is_full(error) for error in others)


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_it_passes(error: Exception) -> None:
    assert storage_is_transient(error)


@pytest.mark.parametrize("error", STAYING.values(), ids=STAYING)
def test_it_stays(error: Exception) -> None:
    assert not storage_is_transient(error)


def test_a_lock_that_sqlite_itself_tells_of_passes(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/some.db?timeout=0")
    holder = sqlite3.connect(tmp_path / "some.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with engine.connect() as connection, pytest.raises(exc.OperationalError) as locked:
        connection.execute(text("create table t (x int)"))
    assert storage_is_transient(locked.value)
    holder.close()
    engine.dispose()
