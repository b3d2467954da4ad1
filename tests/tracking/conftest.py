"""A real MLflow in SQLite for each test: its tables are made once and copied."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from trialfleet.tracking import database_schema
from trialfleet.tracking.destination import Destination, resolve


@pytest.fixture
def target(tables: Path, tmp_path: Path) -> Destination:
    """An MLflow experiment in a database of its own."""
    shutil.copy(tables, tmp_path / "mlflow.db")
    return resolve("sqlite:///mlflow.db", "trialfleet", tmp_path)


@pytest.fixture
def quick_tables(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's tables are copied, not built, which takes seconds."""
    code = f"import shutil, sys; shutil.copy({str(tables)!r}, sys.argv[1].removeprefix('sqlite:///'))"
    monkeypatch.setattr(database_schema, "_BUILD", code)


Query = Callable[..., list[tuple]]


@pytest.fixture
def query(target: Destination) -> Query:
    """Looks into MLflow's tables without MLflow."""

    def run(statement: str, *values: object) -> list[tuple]:
        connection = sqlite3.connect(target.database)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    return run
