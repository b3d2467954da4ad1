"""The private names of MLflow: which of them are there, and that what is made of them does what it promises."""

import importlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compat.versions import gone, locked
from trialfleet.compat.mlflow import QUICK, SEEN, Point, PointsOfFile, forget_database, latest_revision


def test_the_locked_version_was_seen() -> None:
    assert locked("mlflow") in QUICK, "if all else here passes with it, add it to QUICK in compat/mlflow.py"
    assert locked("mlflow") in SEEN, "if all else here passes with it, add it to SEEN in compat/mlflow.py"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mlflow.store.db.utils", "_initialize_tables"),
        ("mlflow.store.db.utils", "_get_latest_schema_revision"),
        ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._engine_map"),
        ("mlflow.tracking._tracking_service.utils", "_tracking_store_registry._get_store_with_resolved_uri"),
        ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._get_run"),
        ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._check_run_is_active"),
        ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore.sanitize_metric_value"),
        ("mlflow.utils.validation", "_validate_metric"),
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


@pytest.mark.slow
def test_points_that_go_to_a_file_are_the_same_as_mlflows_own(database: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    path = tmp_path / "mlflow.db"
    path.write_bytes(database.read_bytes())
    client = MlflowClient(f"sqlite:///{path}")
    own, quick = (client.create_run(client.create_experiment(name)).info.run_id for name in ("own", "quick"))
    quickly = PointsOfFile.of(client, f"sqlite:///{path}")
    assert quickly is not None
    batches: list[list[Point]] = [
        [("loss", 3.0, 1000, 0), ("loss", 2.0, 2000, 1), ("accuracy", 0.5, 2000, 1)],
        [("loss", 2.0, 2000, 1), ("loss", float("nan"), 3000, 2), ("loss", float("inf"), 3000, 3)],  # one is there
        [("loss", -float("inf"), 500, 1), ("accuracy", 0.25, 100, 0)],  # none of them is the latest
        [("accuracy", 0.75, 2000, 1), ("accuracy", 0.75, 2000, 1)],  # the same step and time, a higher value, twice
    ]
    for batch in batches:
        client.log_batch(own, [Metric(*point) for point in batch])
        quickly.log(quick, batch)

    connection = sqlite3.connect(path)
    try:
        for table in ("metrics", "latest_metrics"):
            found = f"SELECT key, value, timestamp, step, is_nan FROM {table} WHERE run_uuid = ? ORDER BY 1, 2, 3, 4, 5"
            assert connection.execute(found, (quick,)).fetchall() == connection.execute(found, (own,)).fetchall()
        assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (2 * 8,)
    finally:
        connection.close()
    assert client.get_run(quick).data.metrics == client.get_run(own).data.metrics
    client.delete_run(quick)
    for run, points in ((quick, batches[0]), ("0" * 32, batches[0]), (own, [("what?", 1.0, 1, 1)])):
        with pytest.raises(MlflowException):
            quickly.log(run, points)


def test_points_go_to_no_other_database_and_no_server_in_another_way() -> None:
    client: Any = None
    assert PointsOfFile.of(client, "postgresql://host/database") is None
    assert PointsOfFile.of(client, "http://127.0.0.1:5000") is None


def test_nothing_of_mlflow_is_imported_to_forget(tmp_path: Path) -> None:
    code = "import sys; from trialfleet.compat.mlflow import forget_database; forget_database('sqlite:///x.db')"
    check = "; print(sorted(name for name in sys.modules if name.partition('.')[0] == 'mlflow'))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]", done.stderr
