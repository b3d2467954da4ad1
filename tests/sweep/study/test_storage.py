"""The study in its storage: created, told, and never written by a driver that lost it."""

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as State

from tests.sweep.postgres import Postgres, closed_after, running_or_skip
from tests.sweep.study.conformance import NewStorage, StorageConformance, ended
from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.fencing import TOKEN
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.storage import (
    OWNER,
    StudyStorage,
    Told,
    described,
    instantiated,
    open_storage,
    put_study_aside,
)
from trialfleet.trial.result import TrialState


def held() -> None:
    """The lease check of a driver that holds it."""


class Check:
    """The lease check of a driver that may lose the lease, and how often it was asked."""

    def __init__(self) -> None:
        self.lost = False
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.lost:
            raise LeaseLost("another driver took the study over")


def opened(
    journal: Path, check: Callable[[], None] = held, directions: tuple[str, ...] = ("minimize",)
) -> StudyStorage:
    return StudyStorage(open_storage(None, journal, check), "study", directions, check)


def _passed_on(name: str) -> Callable[..., Any]:
    return lambda self, *given, **named: getattr(self.inner, name)(*given, **named)


class Remote(BaseStorage):
    """A storage behind another one, as Optuna's server of storages is: what it keeps its trials in is not seen."""

    def __init__(self, inner: BaseStorage) -> None:
        self.inner = inner


for _name in BaseStorage.__abstractmethods__:
    setattr(Remote, _name, _passed_on(_name))
Remote.__abstractmethods__ = frozenset()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_or_skip() as one:
        yield one


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database for all tests: to make its tables is most of what they would cost."""
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'studies.db'}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "study" / "optuna_journal.log"


# -------------------------------------------------------------------- trials, in any storage


class TestJournal(StorageConformance):
    @pytest.fixture
    def storage(self, journal: Path) -> NewStorage:
        return lambda: open_storage(None, journal, held)


@pytest.mark.slow  # every day the journal; PostgreSQL and SQLite are one implementation
class TestSQLite(StorageConformance):
    @pytest.fixture
    def storage(self, sqlite: str) -> Iterator[NewStorage]:
        yield from opening(sqlite)


class TestPostgreSQL(StorageConformance):
    @pytest.fixture
    def storage(self, server: Postgres) -> Iterator[NewStorage]:
        yield from opening(server.url)


class TestOfTheUsersOwn(StorageConformance):
    """As `_target_` names one: neither our journal nor a database."""

    @pytest.fixture
    def storage(self) -> NewStorage:
        one = InMemoryStorage()
        return lambda: one


def opening(url: str) -> Iterator[NewStorage]:
    """Opens the database, empty at first, again and again, as one driver after the other does."""
    with ExitStack() as stack:
        storage = stack.enter_context(closed_after(open_storage(url, Path("unused"), held)))
        for study in storage.get_all_studies():
            storage.delete_study(study._study_id)
        yield lambda: stack.enter_context(closed_after(open_storage(url, Path("unused"), held)))


def test_a_trial_is_one_record_of_the_journal(journal: Path) -> None:
    """One record makes it RUNNING and ours: no death can leave a trial that nobody owns."""
    store = opened(journal)
    before = journal.read_text().count("\n")
    store.create("uid")
    assert journal.read_text().count("\n") == before + 1
    (trial,) = optuna.load_study(study_name="study", storage=plain(journal)).trials
    assert (trial.state, trial.user_attrs) == (State.RUNNING, {OWNER: "uid"})


def test_what_is_told_twice_is_written_once(journal: Path) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    store.tell(trial_id, Told(State.COMPLETE, [1.0], {}, None))
    size = journal.stat().st_size
    store.tell(trial_id, Told(State.COMPLETE, [1.0], {}, None))
    opened(journal).tell(trial_id, Told(State.FAIL, None, {}, None))
    assert journal.stat().st_size == size


def plain(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


# -------------------------------------------------------------------- the study


def a_study_in(folder: Path, uid: str = "uid-1") -> None:
    """A folder that holds the study of this uid."""
    folder.mkdir()
    record = study_record.create("study", folder, 1, "sampler", "null", {}, {})
    study_record.write(folder / "study.yaml", replace(record, uid=uid))


def test_a_driver_of_another_folder_is_refused_and_the_studys_own_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    a_study_in(ours)
    store = _on(url)
    store.belong("uid-1", ours)
    with pytest.raises(UserError, match="belongs to the sweep folder"):
        _on(url).belong("uid-2", theirs)
    store.create("uid-1")


def test_two_folders_on_one_storage_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    a_study_in(ours)
    theirs.mkdir()
    _on(url).belong("uid-1", ours)
    _on(url).belong("uid-1", ours)  # a resume
    with pytest.raises(UserError, match=r"belongs to the sweep folder .*ours"):
        _on(url).belong("uid-2", theirs)
    assert _on(url).study.user_attrs[OWNER] == "uid-1"


def test_a_moved_folder_takes_its_study_along(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    old, new = tmp_path / "old", tmp_path / "new"
    a_study_in(old)
    _on(url).belong("uid-1", old)
    shutil.move(old, new)
    _on(url).belong("uid-1", new)
    old.mkdir()  # somebody else's, later
    with pytest.raises(UserError, match="new"):
        _on(url).belong("uid-2", old)


def test_a_copied_folder_keeps_its_own_journal(tmp_path: Path, journal: Path) -> None:
    """The journal was copied along: nobody else writes to this copy, although it still names the old folder."""
    opened(journal).belong("uid-1", journal.parent)
    copy = tmp_path / "copy"
    shutil.copytree(journal.parent, copy)
    store = opened(copy / journal.name)
    store.belong("uid-2", copy)
    assert store.study.user_attrs[OWNER] == "uid-2"
    assert opened(journal).study.user_attrs[OWNER] == "uid-1"


def _on(url: str) -> StudyStorage:
    return StudyStorage(open_storage(url, Path("unused"), held), "study", ["minimize"], held)


def test_plain_optuna_opens_the_journal(journal: Path) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    store.trial(trial_id).suggest_float("x", 0, 1)
    store.tell(trial_id, ended(TrialState.COMPLETE, [0.5]))
    study = optuna.load_study(study_name="study", storage=plain(journal))
    assert study.best_value == 0.5
    study.enqueue_trial({"x": 0.125})  # and writes to it
    assert store.trial(store.create("uid")).suggest_float("x", 0, 1) == 0.125


# -------------------------------------------------------------------- a driver that was overtaken


WRITES: dict[str, Callable[[StudyStorage, int], Any]] = {
    "ask": lambda store, running: store.create("uid"),
    "suggest": lambda store, running: store.trial(running).suggest_float("x", 0, 1),
    "report": lambda store, running: store.report(running, 1, 0.5),
    "tell": lambda store, running: store.tell(running, ended(TrialState.COMPLETE, [0.5])),
    "attribute": lambda store, running: store.belong("another", Path("elsewhere")),
    "mend": lambda store, running: store.mend(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_woken_driver_writes_nothing_into_the_journal(
    journal: Path, write: Callable[[StudyStorage, int], Any]
) -> None:
    check = Check()
    store = opened(journal, check)
    running = store.create("uid")
    before = journal.read_bytes()
    check.lost = True
    with pytest.raises(LeaseLost):
        write(store, running)
    assert journal.read_bytes() == before
    assert not list(journal.parent.glob("*.lock*"))  # and does not keep the new driver out
    opened(journal).create("uid")


def test_a_woken_driver_writes_nothing_into_a_database(tmp_path: Path) -> None:
    check = Check()
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    store = StudyStorage(open_storage(url, Path("unused"), check), "study", ["minimize"], check)
    running = store.create("uid")
    check.lost = True
    for name in ("ask", "report", "tell"):
        with pytest.raises(LeaseLost):
            WRITES[name](store, running)
    assert [trial.state for trial in _on(url).trials()] == [State.RUNNING]


# -------------------------------------------------------------------- the storage


def test_a_storage_may_be_built_by_the_config(tmp_path: Path) -> None:
    node = {"_target_": "optuna.storages.RDBStorage", "url": f"sqlite:///{tmp_path / 'studies.db'}"}
    storage = instantiated(node)
    assert open_storage(storage, Path("unused"), held) is storage
    assert sqlite3.connect(tmp_path / "studies.db").execute("select count(*) from studies").fetchone() == (0,)
    assert isinstance(instantiated({"_target_": "optuna.storages.InMemoryStorage"}), InMemoryStorage)
    assert instantiated(None) is None
    assert instantiated("sqlite://") == "sqlite://"


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:s%40cret@host:3306/db", "mysql+pymysql://me:***@host:3306/db"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("https://me:secret@host/path", "https://me:***@host/path"),
        ("sqlite:///studies.db", f"sqlite:///{Path.cwd() / 'studies.db'}"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:////tmp/a b.db", "sqlite:////tmp/a b.db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("not a url", "not a url"),
        (None, "null"),
    ],
)
def test_passwords_are_masked(storage: str | None, shown: str) -> None:
    assert described(storage) == shown


# -------------------------------------------------------------------- putting a study aside


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[optuna.storages.BaseStorage]:
    """An empty storage of each kind."""
    if request.param == "journal":
        yield open_storage(None, tmp_path / "journal.log", held)
        return
    url = f"sqlite:///{tmp_path}/studies.db" if request.param == "sqlite" else request.getfixturevalue("server").url
    with closed_after(open_storage(url, Path("unused"), held)) as empty:
        for study in empty.get_all_studies():
            empty.delete_study(study._study_id)
        yield empty


def of_every_kind(storage: optuna.storages.BaseStorage) -> optuna.Study:
    """A study that has trials of all states, with everything that a trial and a study can have."""
    study = optuna.create_study(study_name="study", storage=storage, directions=["minimize", "maximize"])
    study.set_user_attr("note", {"deep": [1, None]})
    storage.set_study_system_attr(study._study_id, "sampler", [1.5])
    for state in State:
        x = None if state is State.WAITING else {"x": 0.25, "y": "a"}
        trial = optuna.trial.create_trial(
            state=state,
            values=[0.5, math.inf] if state is State.COMPLETE else None,
            params=x,
            distributions=x and {"x": FloatDistribution(0, 1), "y": CategoricalDistribution(["a", "b"])},
            user_attrs={"who": state.name},
            system_attrs={"fixed_params": {"x": 0.5}},
            intermediate_values=x and {1: 0.5, 2: math.inf},
            constraints=x and {"memory": 2.0},
        )
        storage.create_new_trial(study._study_id, template_trial=trial)
    return study


def contents(study: optuna.Study) -> Any:
    attributes = {key: value for key, value in study.user_attrs.items() if key != TOKEN}
    trials = [{**vars(trial), "_trial_id": None} for trial in study.get_trials()]
    return study.directions, attributes, study._storage.get_study_system_attrs(study._study_id), trials


def names(storage: optuna.storages.BaseStorage) -> list[str]:
    return sorted(study.study_name for study in storage.get_all_studies())


def test_what_a_storage_cannot_hold_of_a_report_is_told_once() -> None:
    """Of a storage of the user's own nobody knows what it can hold: as much as any database does."""

    class Small(InMemoryStorage):
        def set_trial_intermediate_value(self, trial_id: int, step: int, value: float) -> None:
            if step >= 2**31:
                raise OverflowError("integer out of range")
            super().set_trial_intermediate_value(trial_id, step, value)

    storage, told = Remote(Small()), []
    store = StudyStorage(storage, "study", ("minimize",), held, shown="grpc://there", notice=told.append)
    trial = store.create("uid")
    assert [store.report(trial, step, 0.5) for step in (1, 3 * 10**9, 2, 2**31)] == [True, False, True, False]
    store.add(optuna.trial.create_trial(state=State.PRUNED, value=9.0, intermediate_values={4: 0.25, 2**40: 9.0}))
    assert [list(one.intermediate_values) for one in store.trials()] == [[1, 2], [4]]
    assert store.trials()[1].value == 0.25
    (notice,) = told
    assert "trial 0 reports step 3000000000, and grpc://there holds steps from -2147483648 to 2147483647" in notice


def test_a_study_is_put_aside_with_everything_it_has(storage: optuna.storages.BaseStorage) -> None:
    before = contents(of_every_kind(storage))
    assert len(before[-1]) == len(State)
    put_study_aside(storage, "study", "study-before")
    assert names(storage) == ["study-before"]
    assert contents(optuna.load_study(study_name="study-before", storage=storage)) == before
    put_study_aside(storage, "study", "study-before")  # nothing is left to do
    assert names(storage) == ["study-before"]


@pytest.mark.parametrize("dies_at", ["set_study_user_attr", "delete_study"])
def test_putting_aside_is_finished_by_the_next_try(
    storage: optuna.storages.BaseStorage, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it died: after the second of such steps, or before the only one."""
    before = contents(of_every_kind(storage))
    real, calls = getattr(storage, dies_at), []

    def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2 or dies_at == "delete_study":
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(storage, dies_at, dies)
        if dies_at == "create_new_study":  # is called once: dies right after it
            patched.setattr(storage, "set_study_system_attr", None)
            with pytest.raises(TypeError):
                put_study_aside(storage, "study", "study-before")
        else:
            with pytest.raises(KeyboardInterrupt):
                put_study_aside(storage, "study", "study-before")
    assert "study" in names(storage)
    put_study_aside(storage, "study", "study-before")
    assert names(storage) == ["study-before"]
    assert contents(optuna.load_study(study_name="study-before", storage=storage)) == before


def test_a_study_is_not_put_in_anothers_place(storage: optuna.storages.BaseStorage) -> None:
    """One that was put aside earlier, say."""
    of_every_kind(storage)
    put_study_aside(storage, "study", "study-before")
    before = contents(optuna.load_study(study_name="study-before", storage=storage))
    of_every_kind(storage)
    with pytest.raises(UserError, match="there is a study 'study-before' in this storage already"):
        put_study_aside(storage, "study", "study-before")
    assert names(storage) == ["study", "study-before"]
    assert contents(optuna.load_study(study_name="study-before", storage=storage)) == before


def test_a_driver_whose_study_is_put_aside_writes_nothing_more(tmp_path: Path) -> None:
    """Neither into the old study, after it was copied, nor into a new one, whose ids may be the same."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    store = _on(url)
    store.belong("uid", tmp_path)
    trial = store.create("uid")
    put_study_aside(open_storage(url, Path("unused"), held), "study", "study-before")
    fresh = _on(url)
    fresh.belong("uid-2", tmp_path / "absent")
    fresh.create("uid-2")
    for write in (store.create, lambda uid: store.storage.set_trial_user_attr(trial, "note", uid)):
        with pytest.raises((LeaseLost, KeyError)):
            write("uid")
    assert [found.user_attrs for found in fresh.trials()] == [{OWNER: "uid-2"}]


def test_a_storage_of_the_users_own_is_built_or_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_storage.py").write_text(
        "import optuna\n\nclass Storage(optuna.storages.InMemoryStorage):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(instantiated({"_target_": "users_storage.Storage"})).__name__ == "Storage"
    for node in ({"_target_": "users_storage.Nothing"}, {"_target_": "users_storage.Storage", "speed": 3}):
        with pytest.raises(UserError, match=r"hydra\.sweeper\.storage: "):
            instantiated(node)
