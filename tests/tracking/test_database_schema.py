"""MLflow's tables come into being once and whole, whoever starts at the same time."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from trialfleet.tracking import database_schema


def journal_mode(path: Path) -> str:
    connection = sqlite3.connect(path)
    mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.close()
    return mode


def test_the_database_is_in_wal_mode(tables: Path) -> None:
    assert journal_mode(tables) == "wal"


def test_no_wal_on_a_network_file_system(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(tables, path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    monkeypatch.setattr(database_schema, "on_network_file_system", lambda _path: True)
    database_schema.ensure(path)
    assert journal_mode(path) == "delete"
    monkeypatch.setattr(database_schema, "on_network_file_system", lambda _path: False)
    database_schema.ensure(path)
    assert journal_mode(path) == "wal"


def test_a_failure_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        database_schema, "_BUILD", "import sys; open(sys.argv[1][10:], 'w').write('x'); sys.exit('no luck')"
    )
    with pytest.raises(database_schema.SchemaError, match="no luck"):
        database_schema.ensure(tmp_path / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.db.lock"]


def test_while_the_tables_are_made_there_is_time_for_something_else(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process goes on once that was done here, and whether it fails is of no account."""
    path, sign = tmp_path / "mlflow.db", tmp_path / "sign"
    waits = f"import os, sys, time\nwhile not os.path.exists({str(sign)!r}): time.sleep(0.01)\n"
    copies = f"import shutil; shutil.copyfile({str(tables)!r}, sys.argv[1].removeprefix('sqlite:///'))"
    monkeypatch.setattr(database_schema, "_BUILD", waits + copies)

    def meanwhile() -> None:
        sign.touch()
        raise ImportError("it is tried again where it is needed")

    database_schema.ensure(path, meanwhile)
    assert path.stat().st_size > 0


def test_an_empty_file_and_the_rest_of_a_killed_start_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    (tmp_path / ".mlflow.db.dead.new").write_text("half")
    build = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1][10:]); c.execute('CREATE TABLE t (x)'); c.close()"
    monkeypatch.setattr(database_schema, "_BUILD", build)
    database_schema.ensure(path)
    assert journal_mode(path) == "wal"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.slow
def test_several_drivers_may_start_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    code = (
        "import sys; from pathlib import Path; from trialfleet.tracking import database_schema; "
        "database_schema.ensure(Path(sys.argv[1]))"
    )
    starts = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [start.wait(120) for start in starts] == [0, 0, 0, 0]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    connection.close()
    assert sorted(file.name for file in path.parent.iterdir()) == [".mlflow.db.lock", "mlflow.db"]
