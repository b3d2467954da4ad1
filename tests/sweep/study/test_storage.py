"""The study in its storage: created, told, and never written by a driver that lost it."""

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as State

from tests.sweep.postgres import Postgres, closed_after, running_or_skip
from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.fencing import TOKEN
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.projection import told
from trialfleet.sweep.study.storage import (
    FAILURE,
    OWNER,
    StudyStorage,
    Told,
    described,
    instantiated,
    open_storage,
    put_study_aside,
)
from trialfleet.trial.result import Result, TrialState


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


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "study" / "optuna_journal.log"


def ended(state: TrialState, objectives: list[float] | None = None, error: dict[str, str] | None = None) -> Told:
    return told(Result(state, objectives, error, {}, "1.0", {}), takes_constraints=True, violations={})


# -------------------------------------------------------------------- trials


def test_a_trial_bears_our_mark_from_its_first_moment(journal: Path) -> None:
    """One record of the journal makes it RUNNING and ours: no death can leave a trial that nobody owns."""
    store = opened(journal)
    before = journal.read_text().count("\n")
    trial_id = store.create("uid")
    assert journal.read_text().count("\n") == before + 1
    (trial,) = optuna.load_study(study_name="study", storage=plain(journal)).trials
    assert (trial.state, trial.user_attrs) == (State.RUNNING, {OWNER: "uid"})
    assert store.frozen(trial_id).number == 0


def plain(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def test_a_known_point_is_what_the_sampler_gives(journal: Path) -> None:
    store = opened(journal)
    trial = store.trial(store.create("uid", {"x": 0.25}))
    assert trial.suggest_float("x", 0, 1) == 0.25
    assert 0 <= trial.suggest_float("y", 0, 1) <= 1


def test_trials_that_somebody_enqueued_come_first(journal: Path) -> None:
    optuna.create_study(study_name="study", storage=_made(journal)).enqueue_trial({"x": 0.5})
    store = opened(journal)
    trial_id = store.create("uid", {"x": 0.25})
    assert store.trial(trial_id).suggest_float("x", 0, 1) == 0.5
    assert store.frozen(trial_id).user_attrs[OWNER] == "uid"
    assert store.frozen(store.create("uid")).number == 1


def _made(journal: Path) -> JournalStorage:
    journal.parent.mkdir(parents=True, exist_ok=True)
    return plain(journal)


def test_the_first_report_of_a_step_stays(journal: Path) -> None:
    """Lines that are trained again after a resume say the same or are wrong."""
    store = opened(journal)
    trial_id = store.create("uid")
    assert store.report(trial_id, 10, 0.5)
    assert not store.report(trial_id, 10, 0.7)
    assert store.report(trial_id, 20, math.nan)
    assert store.frozen(trial_id).intermediate_values[10] == 0.5


@pytest.mark.parametrize("value", [0.5, math.inf, -math.inf])
def test_complete(journal: Path, value: float) -> None:
    store = opened(journal)
    store.tell(store.create("uid"), ended(TrialState.COMPLETE, [value]))
    (trial,) = opened(journal).trials()
    assert (trial.state, trial.values) == (State.COMPLETE, [value])


def test_several_objectives(journal: Path) -> None:
    store = opened(journal, directions=("minimize", "maximize"))
    store.tell(store.create("uid"), ended(TrialState.COMPLETE, [1.0, 2.0]))
    assert store.trials()[0].values == [1.0, 2.0]


def test_a_pruned_trial_keeps_its_last_report(journal: Path) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    store.report(trial_id, 2, 0.75)
    store.report(trial_id, 1, 0.5)
    store.tell(trial_id, ended(TrialState.PRUNED))
    assert (store.frozen(trial_id).state, store.frozen(trial_id).value) == (State.PRUNED, 0.75)


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_pruned_trial_without_a_value(journal: Path, value: float | None) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    if value is not None:
        store.report(trial_id, 1, value)
    store.tell(trial_id, ended(TrialState.PRUNED))
    assert store.frozen(trial_id).state is State.PRUNED


def test_a_failed_trial_says_why(journal: Path) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    error = {"type": "ValueError", "message": "x" * 9000, "traceback": ""}
    store.tell(trial_id, ended(TrialState.FAIL, None, error))
    trial = store.frozen(trial_id)
    assert (trial.state, trial.values) == (State.FAIL, None)
    assert trial.user_attrs[FAILURE].startswith("ValueError: xxx")
    assert len(trial.user_attrs[FAILURE]) <= 2000


def test_telling_twice_is_harmless(journal: Path) -> None:
    """A driver that died between telling and forgetting tells again; the first word stands."""
    store = opened(journal)
    trial_id = store.create("uid")
    store.tell(trial_id, ended(TrialState.COMPLETE, [1.0]))
    size = journal.stat().st_size
    store.tell(trial_id, ended(TrialState.COMPLETE, [1.0]))
    opened(journal).tell(trial_id, ended(TrialState.FAIL))
    assert journal.stat().st_size == size
    assert store.frozen(trial_id).value == 1.0


def test_a_failure_of_which_only_the_reason_was_stored_is_told_again(journal: Path) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    store.storage.set_trial_user_attr(trial_id, FAILURE, "ValueError: no")
    opened(journal).tell(trial_id, ended(TrialState.FAIL, None, {"type": "ValueError", "message": "no"}))
    assert opened(journal).frozen(trial_id).state is State.FAIL


def test_the_last_point_of_a_grid_is_told_like_any_other(journal: Path) -> None:
    """Optuna's grid sampler asks at this moment to stop an `optimize` that nobody called."""
    store = opened(journal)
    store.study.sampler = optuna.samplers.GridSampler({"x": [1, 2]}, seed=0)
    ids = [store.create("uid") for _ in range(2)]
    for trial_id in ids:
        store.trial(trial_id).suggest_categorical("x", [1, 2])
    for trial_id in ids:
        store.tell(trial_id, ended(TrialState.COMPLETE, [1.0]))
    assert [trial.state for trial in store.trials()] == [State.COMPLETE] * 2


# -------------------------------------------------------------------- the study


def test_a_study_with_another_direction_is_refused(journal: Path) -> None:
    opened(journal)
    with pytest.raises(UserError, match="is there with direction minimize, not maximize"):
        opened(journal, directions=("maximize",))


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


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_or_skip() as one:
        yield one


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


def test_a_study_is_put_aside_with_everything_it_has(storage: optuna.storages.BaseStorage) -> None:
    before = contents(of_every_kind(storage))
    assert len(before[-1]) == len(State)
    put_study_aside(storage, "study", "study-before")
    assert names(storage) == ["study-before"]
    assert contents(optuna.load_study(study_name="study-before", storage=storage)) == before
    put_study_aside(storage, "study", "study-before")  # nothing is left to do
    assert names(storage) == ["study-before"]


@pytest.mark.parametrize("dies_at", ["create_new_study", "set_study_user_attr", "create_new_trial", "delete_study"])
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
