"""Databases as an Optuna storage: opened, refused with a word that helps, and which of their errors pass.

SQLAlchemy is imported where a database is opened: it takes a quarter of the time that a driver takes to start, and most
studies have no database.
"""

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage, RDBStorage

from trialfleet.errors import UserError
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.trial import secrets, transient

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

# What the module that cannot be imported is called where it is installed from.
_PACKAGES = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "pymysql": "pymysql"}


def open_database(address: str) -> BaseStorage:
    """The storage that a URL of Optuna's names.

    Raises:
        UserError: it cannot be opened: its driver is not installed, its file is damaged, its server does not answer.
            Its cause is the error itself, for `storage_is_transient`.
    """
    from sqlalchemy.engine import make_url

    with refusals_told(address):
        url = make_url(address)
        check_file(url)
        # A connection that the server closed, for a restart say, is made anew instead of failing its next user.
        ping = {"pool_pre_ping": True} if url.get_backend_name() in ("postgresql", "mysql", "mariadb") else {}
        return optuna.storages.get_storage(RDBStorage(address, engine_kwargs=ping))


@contextlib.contextmanager
def refusals_told(address: str) -> Iterator[None]:
    """Errors of opening a database as words that help.

    Raises:
        UserError: its cause is the error itself.
    """
    from sqlalchemy import exc

    shown = f"hydra.sweeper.storage={secrets.masked(address)}"
    try:
        yield
    except ImportError as error:
        raise UserError(f"{shown}: its database driver cannot be imported", _to_install(address, error)) from error
    except RuntimeError as error:  # a schema of another version of Optuna
        raise UserError(f"{shown}: {error}", "do what Optuna says there, or name another storage") from error
    except (exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ValueError, LookupError, OSError) as error:
        raise UserError(
            f"{shown}: cannot be opened: {_reason(error)}",
            "check the URL and that its folder or server can be written, or leave the key out for a journal file",
        ) from error


def would_be_made(address: str) -> bool:
    """Whether opening this database would make a file."""
    from sqlalchemy import exc
    from sqlalchemy.engine import make_url

    try:
        url = make_url(address)
    except exc.ArgumentError:
        return False  # opening it says what is wrong
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith((":", "file:")):
        return False
    path = Path(url.database)
    return not path.exists() and path.absolute().parent.is_dir()


def check_file(url: "URL") -> None:
    """Look through an SQLite file.

    Raises:
        UserError: it is damaged. Optuna would find out in the middle of the study, or never.
    """
    if url.get_backend_name() != "sqlite" or not url.database or not Path(url.database).is_file():
        return
    path = Path(url.database).absolute()
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", timeout=0, uri=True)
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return  # locked, or not to be read: opening it says so
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise UserError(
            f"{path} is damaged: {found.splitlines()[-1]}",
            f"put a copy of it back; or move it away, with what stands beside it under its name ({path.name}*), and "
            "run the same command with hydra.sweeper.study.rebuild=true, which makes the study anew from its folder; "
            "so does the command of each other study that was in it",
        )


def _to_install(address: str, error: ImportError) -> str:
    """What to type when a database's driver is missing."""
    missing = getattr(error.__cause__, "name", None) or getattr(error, "name", None) or ""
    if address.startswith("postgresql") and missing != "psycopg2":
        return "pip install 'trialfleet[postgres]' (the package psycopg)"
    package = _PACKAGES.get(missing.partition(".")[0], missing)
    return f"pip install {package}" if package else f"install the driver that the URL names: {error.__cause__ or error}"


def _reason(error: BaseException) -> str:
    inner = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(getattr(inner, "orig", None) or inner).splitlines()
    return secrets.masked(lines[0] if lines else type(inner).__name__)


# -------------------------------------------------------------------- errors that pass

# PostgreSQL's classes of errors, and single ones, that say nothing about what was asked.
_SQLSTATES = ("08", "40", "53", "57P", "25P03", "55P03", "58030")
# A server that cannot be connected to has no code to say why, and this does not pass.
_REFUSALS = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied", "not permitted")
# MySQL's and MariaDB's: cannot connect, gone, lost, shut down, too many connections, lock waits, network, idle.
_MYSQL = (1040, 1053, 1158, 1159, 1160, 1161, 1205, 1213, 1317, 1927, 2002, 2003, 2006, 2013, 2055, 3024, 4031)
_MYSQL_FULL = (1021, 1114)
_SQLITE = ("is locked", "disk i/o error", "unable to open database file")


def storage_is_transient(error: BaseException) -> bool:
    """Whether an error of a study's storage passes by itself, so that the same call may work in a while.

    That is so of a database that restarts, is locked or cannot be reached, and of a file system's hiccups; not
    of a wrong password, a missing table or a damaged file. A full disk is none of these either.
    """
    if isinstance(error, LeaseLost):
        return False
    return transient.passes(error) or any(_passes(one) for one in _causes(error))


def storage_is_full(error: BaseException) -> bool:
    """Whether a database server says that its disk is full."""
    return any(_sqlstate(one) == "53100" or _mysql_code(one) in _MYSQL_FULL for one in _causes(error))


def storage_failure(error: BaseException) -> str | None:
    """What a database said, in one line, if the error came from one; else None."""
    exc = _sqlalchemy_errors()
    if isinstance(error, optuna.exceptions.StorageInternalError) or (exc and isinstance(error, exc.SQLAlchemyError)):
        return _reason(error)
    return None


def _sqlalchemy_errors() -> Any:
    """SQLAlchemy's errors; None if it was not imported, and no error can be one. Nothing is imported to judge an error:
    the disk that failed may be the one with the packages."""
    return sys.modules.get("sqlalchemy.exc")


def _passes(error: BaseException) -> bool:
    exc = _sqlalchemy_errors()
    if exc and isinstance(error, exc.TimeoutError):  # no connection of the pool was free
        return True
    if exc and isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    if exc and isinstance(error, exc.PendingRollbackError):  # another query was sent over a connection that was lost
        return True
    module = type(error).__module__.partition(".")[0]
    if module == "sqlite3":
        return isinstance(error, sqlite3.OperationalError) and any(text in str(error).lower() for text in _SQLITE)
    if module in ("psycopg", "psycopg2"):
        return _postgresql_passes(error)
    return _mysql_code(error) in (0, *_MYSQL)  # 0: used after it was closed


def _mysql_code(error: BaseException) -> int | None:
    """The code of an error of MySQL's or MariaDB's; None for others."""
    ours = type(error).__module__.partition(".")[0] in ("pymysql", "MySQLdb")
    return error.args[0] if ours and error.args and isinstance(error.args[0], int) else None


def _sqlstate(error: BaseException) -> str | None:
    """The code of an error of PostgreSQL's; None for others, and for those that have none."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return None if code is None else str(code)


def _postgresql_passes(error: BaseException) -> bool:
    code = _sqlstate(error)
    if code is not None:
        return code.startswith(_SQLSTATES) and code != "53100"  # of the 53s, the full disk
    lost = type(error).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")
    return lost and not any(text in str(error) for text in _REFUSALS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and what SQLAlchemy wraps, each once."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, getattr(one, "orig", None)]
