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
"""

import sys

SEEN = ("3.10.0", "3.13.0", "3.15.0", "3.16.0", "3.17.0", "3.17.2")


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
