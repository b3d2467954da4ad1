"""The private names of MLflow: which of them are there, and that what is made of them does what it promises."""

import importlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.versions import gone, locked
from trialfleet.compat.mlflow import SEEN, forget_database, latest_revision


def test_the_locked_version_was_seen() -> None:
    assert locked("mlflow") in SEEN, "if all else here passes with it, add it to SEEN in compat/mlflow.py"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mlflow.store.db.utils", "_initialize_tables"),
        ("mlflow.store.db.utils", "_get_latest_schema_revision"),
        ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._engine_map"),
        ("mlflow.tracking._tracking_service.utils", "_tracking_store_registry._get_store_with_resolved_uri"),
    ],
)
def test_the_private_names_are_there(module: str, name: str) -> None:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), gone("mlflow", f"{module}.{name}", SEEN)
        found = getattr(found, part)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables in it, made in a process of its own: MLflow would leave this one's logging changed."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    code = "import sys; from trialfleet.compat.mlflow import make_tables; make_tables(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_the_tables_are_made_and_nothing_else(database: Path) -> None:
    connection = sqlite3.connect(database)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"experiments", "runs", "metrics", "alembic_version"} <= tables
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (0,)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (latest_revision(),)
    finally:
        connection.close()
    assert [path.name for path in database.parent.iterdir()] == [database.name]


@pytest.mark.slow
def test_a_database_put_in_the_place_of_another_is_seen(database: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"

    def put_anew() -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(database.read_bytes())

    def names() -> set[str]:
        return {experiment.name for experiment in MlflowClient(uri).search_experiments()} - {"Default"}

    put_anew()
    MlflowClient(uri).create_experiment("old", artifact_location=str(tmp_path))
    put_anew()
    assert names() == {"old"}, "MLflow sees by itself that the file is another: forget_database has nothing to do"
    forget_database(uri)
    assert names() == set()
    forget_database(uri)
    forget_database("sqlite:///never-used.db")


def test_nothing_of_mlflow_is_imported_to_forget(tmp_path: Path) -> None:
    code = "import sys; from trialfleet.compat.mlflow import forget_database; forget_database('sqlite:///x.db')"
    check = "; print(sorted(name for name in sys.modules if name.partition('.')[0] == 'mlflow'))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr
