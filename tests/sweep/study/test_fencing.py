"""A study in a database: closed to a driver that was overtaken, at whichever moment it was suspended."""

from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.sweep import suspended
from tests.sweep.postgres import Postgres, closed_after, running_or_skip
from trialfleet.sweep.study import fencing
from trialfleet.sweep.study.databases import storage_is_transient
from trialfleet.sweep.study.fencing import TOKEN, database_of
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.storage import StudyStorage, open_storage


def held() -> None:
    """The lease check of a driver that holds it."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_or_skip() as one:
        yield one


@pytest.fixture
def postgresql(server: Postgres) -> str:
    """The address of an empty database."""
    with closed_after(open_storage(server.url, Path("unused"), held)) as storage:
        for study in storage.get_all_studies():
            storage.delete_study(study._study_id)
    return server.url


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db?timeout=0.05"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.fixture
def storage(url: str) -> Iterator[BaseStorage]:
    with closed_after(open_storage(url, Path("unused"), held)) as one:
        yield one


def taken(storage: BaseStorage, token: str = "2:new", check: Callable[[], None] = held) -> StudyStorage:
    """The study as the driver of this token has it."""
    store = StudyStorage(storage, suspended.STUDY, ["minimize"], check, token)
    store.belong("uid", Path("/nowhere"))
    return store


def stored(url: str) -> list[dict[int, float]]:
    with closed_after(open_storage(url, Path("unused"), held)) as storage:
        study = optuna.load_study(study_name=suspended.STUDY, storage=storage)
        return [trial.intermediate_values for trial in study.trials]


# -------------------------------------------------------------------- suspended at a moment


@pytest.mark.slow
def test_suspended_between_check_and_insert(url: str, storage: BaseStorage) -> None:
    with suspended.driver(url, "check") as stale:
        assert stale.says() == "opened"
        stale.report(1)
        stale.wait_until_suspended()
        store = taken(storage)
        store.report(store.create("uid"), 1, 0.25)
        stale.wake()
        assert stale.says() == "lost"
        assert stored(url) == [{}, {1: 0.25}]
        stale.report(2)
        assert stale.says() == "lost"
        store.create("uid")


def test_suspended_between_insert_and_commit_of_sqlite(sqlite: str) -> None:
    """Its successor waits as long as it holds the file's lock; what it commits then comes before the take-over."""
    with (
        suspended.driver(sqlite, "insert") as stale,
        closed_after(open_storage(sqlite, Path("unused"), held)) as storage,
    ):
        assert stale.says() == "opened"
        stale.report(1)
        stale.wait_until_suspended()
        with pytest.raises(optuna.exceptions.StorageInternalError) as locked:
            taken(storage)
        assert storage_is_transient(locked.value)
        stale.wake()
        assert stale.says() == "written"
        store = taken(storage)
        assert [trial.intermediate_values for trial in store.trials()] == [{1: 0.5}]
        stale.report(2)
        assert stale.says() == "lost"
        store.create("uid")
        assert stored(sqlite) == [{1: 0.5}, {}]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["insert", "commit"])
def test_suspended_between_insert_and_commit_of_postgresql(postgresql: str, where: str) -> None:
    """Before it read the token again, or after: then the server ends its transaction, and lets the successor in."""
    with (
        suspended.driver(postgresql, where) as stale,
        closed_after(open_storage(postgresql, Path("unused"), held)) as storage,
    ):
        assert stale.says() == "opened"
        stale.report(1)
        stale.wait_until_suspended()
        store = taken(storage)
        store.report(store.create("uid"), 1, 0.25)
        stale.wake()
        assert stale.says() in ("lost", "passes")  # "passes": the server closed its connection
        assert stored(postgresql) == [{}, {1: 0.25}]
        stale.report(2)
        assert stale.says() == "lost"
        assert stored(postgresql) == [{}, {1: 0.25}]


# -------------------------------------------------------------------- taking


def test_each_write_of_a_driver_that_was_overtaken_is_rolled_back(url: str, storage: BaseStorage) -> None:
    """Whoever writes, the sampler for instance, and although its lease check says that all is well."""
    with closed_after(open_storage(url, Path("unused"), held)) as other:
        old = taken(other, "1:old")
        trial, study = old.create("uid"), old.study
        before = stored(url)
        taken(storage)
        writes: list[Callable[[], object]] = [
            lambda: old.create("uid"),
            lambda: old.report(trial, 1, 0.5),
            lambda: old.trial(trial).suggest_float("x", 0, 1),
            lambda: other.set_trial_user_attr(trial, "note", 1),
            lambda: other.set_trial_system_attr(trial, "note", 1),
            lambda: study.set_user_attr("note", 1),
            lambda: other.set_study_system_attr(study._study_id, "note", 1),
            lambda: study.enqueue_trial({"x": 1}),
            lambda: study.tell(0, 1.0),
            lambda: optuna.delete_study(study_name=suspended.STUDY, storage=other),
        ]
        for write in writes:
            with pytest.raises(LeaseLost, match=rf"{TOKEN}=(2:new|None), this driver 1:old"):
                write()
        assert old.frozen(trial).state.name == "RUNNING"  # it may read
    assert stored(url) == before


def test_who_lost_the_lease_does_not_take_the_study(url: str, storage: BaseStorage) -> None:
    """It was suspended between its acquire and its taking; the lease is looked at with the rows locked."""
    new = taken(storage)
    looked: list[int] = []

    def lost() -> None:
        looked.append(1)
        raise LeaseLost("another driver took the study over")

    with closed_after(open_storage(url, Path("unused"), held)) as other:
        with pytest.raises(LeaseLost):
            taken(other, "1:old", lost)
        with pytest.raises(LeaseLost):
            other.set_study_user_attr(new.study._study_id, "note", 1)
    assert looked
    assert new.study.user_attrs[TOKEN] == "2:new"
    new.create("uid")


def test_a_study_that_was_deleted_and_made_anew_is_another(url: str, storage: BaseStorage) -> None:
    """Its ids may be the old one's."""
    with closed_after(open_storage(url, Path("unused"), held)) as other:
        old = taken(other, "1:old")
        trial = old.create("uid")
        optuna.delete_study(study_name=suspended.STUDY, storage=storage)
        taken(storage, "1:fresh").create("uid")
        with pytest.raises((LeaseLost, KeyError)):
            other.set_trial_user_attr(trial, "note", 1)
    assert stored(url) == [{}]


def test_a_driver_may_take_its_own_study_again(url: str, storage: BaseStorage) -> None:
    """After an error that passed, say."""
    taken(storage)
    taken(storage).create("uid")


def test_a_storage_that_the_config_built_is_fenced_too(sqlite: str, storage: BaseStorage) -> None:
    built = RDBStorage(sqlite)
    old = taken(built, "1:old")
    taken(open_storage(sqlite, Path("unused"), held))
    with pytest.raises(LeaseLost):
        old.create("uid")


# -------------------------------------------------------------------- a server's restart and its limits


def test_postgresql_restarts_under_a_driver(server: Postgres, postgresql: str) -> None:
    with closed_after(open_storage(postgresql, Path("unused"), held)) as storage:
        store = taken(storage)
        trial = store.create("uid")
        server.stop()
        with pytest.raises(Exception, match=r".") as down:
            store.report(trial, 1, 0.5)
        assert storage_is_transient(down.value)
        server.start()
        store.report(trial, 1, 0.5)
        assert store.frozen(trial).intermediate_values == {1: 0.5}
        server.stop()
        server.start()
        store.report(trial, 2, 0.25)  # the closed connection is not noticed
    assert stored(postgresql) == [{1: 0.5, 2: 0.25}]


def test_a_transaction_that_the_restart_cut_off_is_an_error_that_passes(server: Postgres, postgresql: str) -> None:
    with closed_after(open_storage(postgresql, Path("unused"), held)) as storage:
        database = database_of(storage)
        assert database is not None
        with database.engine.connect() as connection:
            connection.execute(text("select 1"))
            server.stop()
            server.start()
            with pytest.raises(OperationalError) as cut:
                connection.execute(text("select 1"))
        assert storage_is_transient(cut.value)


def test_an_idle_transaction_ends_by_itself(postgresql: str) -> None:
    with closed_after(open_storage(postgresql, Path("unused"), held)) as storage:
        taken(storage)
        database = database_of(storage)
        assert database is not None
        with database.engine.connect() as connection:
            limit = connection.execute(text("show idle_in_transaction_session_timeout")).scalar()
    assert limit == f"{fencing.IDLE_SECONDS // 60}min"
