"""The study in its storage: created, told, and never written by a driver that lost it."""

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as State

from trialfleet.errors import UserError
from trialfleet.sweep.lease import LeaseLost
from trialfleet.sweep.store import FAILURE, OWNER, StudyStore, cut_torn_tail, instantiated, mask_password, open_storage
from trialfleet.tracking.trial_dir import Result, TrialState


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


def opened(journal: Path, check: Callable[[], None] = held, directions: tuple[str, ...] = ("minimize",)) -> StudyStore:
    return StudyStore(open_storage(None, journal, check), "study", directions, check, journal)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "study" / "optuna_journal.log"


def ended(state: TrialState, objectives: list[float] | None = None, error: dict[str, str] | None = None) -> Result:
    return Result(state, objectives, error, {}, "1.0", {})


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


def test_two_folders_on_one_storage_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    _on(url).belong("uid-1", ours)
    _on(url).belong("uid-1", ours)  # a resume
    with pytest.raises(UserError, match=r"belongs to the sweep folder .*ours"):
        _on(url).belong("uid-2", theirs)
    assert _on(url).study.user_attrs[OWNER] == "uid-1"


def test_a_moved_folder_takes_its_study_along(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
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


def _on(url: str) -> StudyStore:
    return StudyStore(open_storage(url, Path("unused"), held), "study", ["minimize"], held)


def test_plain_optuna_opens_the_journal(journal: Path) -> None:
    store = opened(journal)
    trial_id = store.create("uid")
    store.trial(trial_id).suggest_float("x", 0, 1)
    store.tell(trial_id, ended(TrialState.COMPLETE, [0.5]))
    study = optuna.load_study(study_name="study", storage=plain(journal))
    assert study.best_value == 0.5
    study.enqueue_trial({"x": 0.125})  # and writes to it
    assert store.trial(store.create("uid")).suggest_float("x", 0, 1) == 0.125


# -------------------------------------------------------------------- the journal of a killed driver


WRITES_AND_DIES = """
import os, sys
from pathlib import Path
from trialfleet.sweep.store import StudyStore, open_storage

journal, left = Path(sys.argv[1]), int(sys.argv[2])
write = os.write

class Torn:
    '''The journal's file, whose driver is killed in the middle of a record.'''
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *failure):
        self.file.close()
    def write(self, data):
        self.file.write(data[:left])
        self.file.flush()
        os.kill(os.getpid(), 9)

store = StudyStore(open_storage(None, journal, lambda: None), "study", ["minimize"], lambda: None)
store.create("uid")
import optuna.storages.journal._file as file
file.open = lambda path, mode: Torn(open(path, mode)) if mode == "ab" else open(path, mode)
store.create("uid")
"""


def test_a_driver_killed_in_the_middle_of_a_record_loses_that_record_only(journal: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITES_AND_DIES, str(journal), "20"], check=False, timeout=60)
    assert not journal.read_bytes().endswith(b"\n")
    store = opened(journal)
    assert [trial.number for trial in store.trials()] == [0]
    assert store.frozen(store.create("uid")).number == 1
    assert len(opened(journal).trials()) == 2


def test_without_the_cut_a_torn_record_breaks_the_study(journal: Path) -> None:
    """Why the cut is there: the next write succeeds, and only then the study can no longer be opened."""
    opened(journal).create("uid")
    with open(journal, "ab") as file:
        file.write(b'{"op_code": 4, "worker_id"')
    torn = optuna.load_study(study_name="study", storage=plain(journal))
    torn.set_user_attr("note", "the first write still succeeds")
    with pytest.raises(json.JSONDecodeError):
        optuna.load_study(study_name="study", storage=plain(journal)).set_user_attr("note", "the second does not")


@given(st.binary(max_size=30), st.integers(0, 200_000), st.booleans())
def test_the_cut_drops_what_follows_the_last_newline(tmp_path: Path, head: bytes, tail: int, ends: bool) -> None:
    path = tmp_path / "journal.log"
    kept = head + b"\n" if ends or not head else head.rpartition(b"\n")[0] + b"\n" * (b"\n" in head)
    torn = b"x" * tail if ends or not head else head.rpartition(b"\n")[2] + b"x" * tail
    path.write_bytes(kept + torn)
    assert cut_torn_tail(path) == len(torn)
    assert path.read_bytes() == kept
    assert cut_torn_tail(path) == 0


def test_no_journal_is_no_torn_journal(tmp_path: Path) -> None:
    assert cut_torn_tail(tmp_path / "absent.log") == 0


def test_half_a_write_on_a_full_disk_is_dropped(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver that saw it goes on: it drops the half before its next write."""
    store = opened(journal)
    store.create("uid")
    with open(journal, "ab") as file:
        file.write(b'{"op_code"')
    store.mend()
    store.create("uid")
    assert len(opened(journal).trials()) == 2


def test_the_journal_is_found_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened(Path("journal.log"))
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    store.create("uid")
    assert len(opened(tmp_path / "journal.log").trials()) == 1


# -------------------------------------------------------------------- a driver that was overtaken


WRITES: dict[str, Callable[[StudyStore, int], Any]] = {
    "ask": lambda store, running: store.create("uid"),
    "suggest": lambda store, running: store.trial(running).suggest_float("x", 0, 1),
    "report": lambda store, running: store.report(running, 1, 0.5),
    "tell": lambda store, running: store.tell(running, ended(TrialState.COMPLETE, [0.5])),
    "attribute": lambda store, running: store.belong("another", Path("elsewhere")),
    "mend": lambda store, running: store.mend(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_woken_driver_writes_nothing_into_the_journal(journal: Path, write: Callable[[StudyStore, int], Any]) -> None:
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


def test_the_lease_is_looked_at_inside_of_the_lock(journal: Path) -> None:
    """Looked at before, it may be lost by the time the lock is had."""
    locks: list[bool] = []
    store = opened(journal, lambda: locks.append(journal.with_name(f"{journal.name}.lock").exists()))
    locks.clear()
    store.storage.set_study_user_attr(store.study._study_id, "note", 1)
    assert locks == [True]


def test_a_woken_driver_writes_nothing_into_a_database(tmp_path: Path) -> None:
    check = Check()
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    store = StudyStore(open_storage(url, Path("unused"), check), "study", ["minimize"], check)
    running = store.create("uid")
    check.lost = True
    for name in ("ask", "report", "tell"):
        with pytest.raises(LeaseLost):
            WRITES[name](store, running)
    assert [trial.state for trial in _on(url).trials()] == [State.RUNNING]


# -------------------------------------------------------------------- the storage


@pytest.mark.parametrize(
    "url",
    ["sqlite:////no/such/folder/studies.db", "postgresql://u:secret@127.0.0.1:1/none", "oracel://x", "not a url"],
)
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=") as refusal:
        open_storage(url, Path("unused"), held)
    assert "secret" not in str(refusal.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("this is no database, but a text of some length" * 50)
    with pytest.raises(UserError, match="cannot be opened"):
        open_storage(f"sqlite:///{tmp_path / 'studies.db'}", Path("unused"), held)


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
        ("sqlite:///studies.db", "sqlite:///studies.db"),
        ("sqlite:////tmp/a b.db", "sqlite:////tmp/a b.db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("not a url", "not a url"),
        (None, "null"),
    ],
)
def test_passwords_are_masked(storage: str | None, shown: str) -> None:
    assert mask_password(storage) == shown
