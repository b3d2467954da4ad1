"""Looks into databases that change nothing: no file and no table comes into being."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trialfleet.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

CONNECT_SECONDS = 8
LOCK_SECONDS = 5.0  # how long a lock of somebody else's is waited for
_CONNECT = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mariadb": "connect_timeout"}


@contextmanager
def connected(address: str) -> Iterator["Connection"]:
    """A connection for the length of a block.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it cannot be had.
        ImportError: the database's driver is not installed.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.pool import NullPool

    url = make_url(address)
    timeout = _CONNECT.get(url.get_backend_name())
    arguments = {timeout: CONNECT_SECONDS} if timeout is not None else {}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    with engine.connect() as connection:
        yield connection


def tables(connection: "Connection") -> set[str]:
    from sqlalchemy import inspect

    return set(inspect(connection).get_table_names())


def value(connection: "Connection", query: str, **named: str) -> str | None:
    """The first column of a query's first row, as text; None if there is no row."""
    from sqlalchemy import text

    row = connection.execute(text(query), named).first()
    return None if row is None else str(row[0])


def read_only(connection: "Connection") -> bool:
    """Whether a server takes no writes: a standby, say."""
    if connection.dialect.name != "postgresql":
        return False
    return value(connection, "SHOW transaction_read_only") == "on"


def sqlite_refusal(path: Path) -> str | None:
    """Why an SQLite file that is there cannot be written, in words; None if it can: its write lock is had."""
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return f"{path} or its folder is not writable"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS, isolation_level=None
        )
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        return f"{path}: {error}"
    return None


def sqlite_file(address: str) -> Path | None:
    """The file that an SQLAlchemy URL names; None if it names none.

    Raises:
        UserError: it is no URL.
    """
    from sqlalchemy import exc
    from sqlalchemy.engine import make_url

    try:
        url = make_url(address)
    except exc.ArgumentError as error:
        raise UserError(
            f"hydra.sweeper.storage={address}: is no URL", "write it as postgresql://USER@HOST/NAME"
        ) from error
    in_memory = not url.database or url.database.startswith((":", "file:"))
    return None if url.get_backend_name() != "sqlite" or in_memory else Path(str(url.database)).absolute()
