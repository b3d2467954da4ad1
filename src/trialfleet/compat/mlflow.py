"""What the export needs of MLflow that has no public name.

`SqlAlchemyStore._engine_map`, `mlflow.tracking._tracking_service.utils._tracking_store_registry` and its
`_get_store_with_resolved_uri`
    MLflow keeps the connections to a database, and the store that uses them, for as long as the process lives. Where a
    database file was moved away and another one put in its place, it would go on with the old one.
`mlflow.store.db.utils._initialize_tables`
    Makes the tables of a new database, and nothing else. The public way is to open a store, which also makes an
    experiment whose artifacts lie wherever the database was at that moment.
`mlflow.store.db.utils._get_latest_schema_revision`
    Which revision of its tables this version works with. The public way to hear that a database has another one is to
    open a store on it, which makes what is missing.
`MlflowClient._tracking_client`, `SqlAlchemyStore._get_run`, `_check_run_is_active` and `sanitize_metric_value`,
`mlflow.utils.validation._validate_metric`, and the tables `metrics` and `latest_metrics`
    MLflow's store makes an object of each point, and keeps account of what is done to it: 80 µs. A study whose trials
    report often has hundreds of thousands of points. To a database file they go in one statement of SQLite's.
"""

import sys
from collections.abc import Collection, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

SEEN = ("3.10.0", "3.13.0", "3.15.0", "3.16.0", "3.17.0", "3.17.2")

QUICK = ("3.17.2",)  # the versions to whose files points are written in one statement
COLUMNS = {
    "metrics": {"key", "value", "timestamp", "step", "is_nan", "run_uuid"},
    "latest_metrics": {"key", "value", "timestamp", "step", "is_nan", "run_uuid"},
}


Point = tuple[str, float, int, int]  # a metric's name, its value, milliseconds since 1970, the step


class PointsOfFile:
    """Writes points into MLflow's tables in an SQLite file, as `MlflowClient.log_batch` does, in a third of the time.

    Use `of`: it tells whether that can be done.
    """

    def __init__(self, store: Any) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
        from sqlalchemy import tuple_
        from sqlalchemy.dialects.sqlite import insert

        self._store = store
        self._insert = insert(SqlMetric.__table__).on_conflict_do_nothing()
        latest = insert(SqlLatestMetric.__table__)
        new, old = latest.excluded, SqlLatestMetric.__table__.c
        self._update = latest.on_conflict_do_update(
            index_elements=["key", "run_uuid"],
            set_={name: new[name] for name in ("value", "timestamp", "step", "is_nan")},
            where=tuple_(new.step, new.timestamp, new.value) > tuple_(old.step, old.timestamp, old.value),
        )

    @classmethod
    def of(cls, client: "MlflowClient", uri: str) -> "PointsOfFile | None":
        """For a client of this database; None for a server, for other databases, and in a version that was not seen."""
        if not uri.startswith("sqlite:") or version("mlflow") not in QUICK:
            return None
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

        tables = {kind.__tablename__: kind.__table__ for kind in (SqlMetric, SqlLatestMetric)}
        known = {name: {column.name for column in table.columns} for name, table in tables.items()} == COLUMNS
        return cls(client._tracking_client.store) if known else None

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        """Add points; those that are there already stay as they are.

        Raises:
            MlflowException: nothing was written; `log_batch` would say the same, mostly in other words.
        """
        from mlflow.utils.validation import _validate_metric

        if not points:
            return
        rows = []
        for name, value, time, step in points:
            _validate_metric(name, value, time, step)  # type: ignore[no-untyped-call]  # MLflow has no types there
            is_nan, stored = self._store.sanitize_metric_value(value)
            entries = {"key": name, "value": stored, "timestamp": time, "step": step}
            rows.append({**entries, "is_nan": is_nan, "run_uuid": run_id})
        with self._store.ManagedSessionMaker(read_only=False) as session:
            self._store._check_run_is_active(self._store._get_run(run_uuid=run_id, session=session))
            session.execute(self._insert, rows)
            session.execute(self._update, _latest(rows))


def _latest(rows: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each metric the row that counts as its value: the one of the highest step, then time, then value."""
    latest: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = latest.setdefault(row["key"], row)
        if (row["step"], row["timestamp"], row["value"]) > (known["step"], known["timestamp"], known["value"]):
            latest[row["key"]] = row
    return list(latest.values())


def forget_database(uri: str) -> None:
    """Close this process's connections to a database. The next call to MLflow opens it anew.

    Of no effect if this process has not used a database yet: nothing of MLflow is imported for it.
    """
    if "mlflow.store.tracking.sqlalchemy_store" not in sys.modules:
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()
    _tracking_store_registry._get_store_with_resolved_uri.cache_clear()


def make_tables(uri: str) -> None:
    """Make MLflow's tables in a database that has none. It takes seconds: the whole history of its schema is run."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine_with_retry

    engine = create_sqlalchemy_engine_with_retry(uri)  # type: ignore[no-untyped-call]  # MLflow has no types there
    _initialize_tables(engine)  # type: ignore[no-untyped-call]
    engine.dispose()


def latest_revision() -> str:
    """The revision of its tables that this version of MLflow works with, as `alembic_version` has it."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())  # type: ignore[no-untyped-call]
