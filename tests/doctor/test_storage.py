"""The study's storage: opened where that changes nothing, and only looked at where it would."""

import sqlite3
from pathlib import Path

import optuna
import pytest

from tests.sweep import postgres
from trialfleet.doctor import databases, storage
from trialfleet.doctor.findings import Check, Finding, examine
from trialfleet.sweep.study.journal import open_journal
from trialfleet.sweep.study.storage import JOURNAL

from .conftest import AskedFor

NAME = "hydra.sweeper.study_name=digits"


def looked(asked: AskedFor, *overrides: str) -> Finding:
    (found,) = examine([Check("storage", lambda: storage.look(asked(NAME, *overrides)), 60)])
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(file: Path, name: str = "digits") -> Path:
    """A database with a study in it."""
    with postgres.closed_after(optuna.storages.RDBStorage(f"sqlite:///{file}")) as storage:
        optuna.create_study(study_name=name, storage=storage)
    return file


def test_a_journal_that_is_to_be_made(asked: AskedFor, tmp_path: Path) -> None:
    found = looked(asked)
    assert found.status == "ok"
    assert "to be made" in found.found
    assert contents(tmp_path) == {}


def test_a_journal_for_which_there_is_no_place(asked: AskedFor) -> None:
    found = looked(asked, "hydra.sweep.dir=/proc/sweeps/digits")
    assert found.status == "FAIL"
    assert found.found == "a journal in each study's folder: /proc cannot be written"


def test_a_study_whose_name_only_a_script_would_tell(asked: AskedFor, tmp_path: Path) -> None:
    (found,) = storage.look(asked())
    assert found.found == f"a journal in each study's folder, in {tmp_path}/sweeps"
    file = made(tmp_path / "optuna.db")
    (found,) = storage.look(asked(f"hydra.sweeper.storage=sqlite:///{file}"))
    assert found.found.endswith("1 studies are there")


def test_a_journal_that_is_there_stays_as_it_is(asked: AskedFor, tmp_path: Path) -> None:
    journal = tmp_path / "sweeps" / "digits" / JOURNAL
    study = optuna.create_study(study_name="digits", storage=open_journal(journal, lambda: None))
    study.ask()
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')  # its driver is writing
    before, identity = contents(tmp_path), journal.stat().st_ino
    found = looked(asked)
    assert found.status == "ok"
    assert "study 'digits' is there with 1 trials" in found.found
    assert (contents(tmp_path), journal.stat().st_ino) == (before, identity)


def test_a_damaged_journal(asked: AskedFor, tmp_path: Path) -> None:
    journal = tmp_path / "sweeps" / "digits" / JOURNAL
    journal.parent.mkdir()
    journal.write_text("no journal\n")
    found = looked(asked)
    assert found.status == "FAIL"
    assert "is damaged in line 1" in found.found


def test_an_sqlite_file(asked: AskedFor, tmp_path: Path) -> None:
    address = f"hydra.sweeper.storage=sqlite:///{tmp_path}/optuna.db"
    assert "is to be made" in looked(asked, address).found
    assert contents(tmp_path) == {}
    file = tmp_path / "optuna.db"
    file.touch()
    found = looked(asked, address)
    assert (found.status, file.stat().st_size) == ("ok", 0)
    assert "Optuna's tables are to be made" in found.found
    made(file, "other")
    before = contents(tmp_path)
    assert looked(asked, address).found.endswith("study 'digits' is to be made beside 1 others")
    assert contents(tmp_path) == before


def test_an_sqlite_file_of_another_optuna(asked: AskedFor, tmp_path: Path) -> None:
    file = made(tmp_path / "optuna.db")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    connection.close()
    found = looked(asked, f"hydra.sweeper.storage=sqlite:///{file}")
    assert (found.status, "optuna storage upgrade" in found.found) == ("FAIL", True)


def test_an_sqlite_file_that_is_locked(asked: AskedFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path / "optuna.db")
    monkeypatch.setattr(databases, "LOCK_SECONDS", 0.0)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    found = looked(asked, f"hydra.sweeper.storage=sqlite:///{file}")
    holder.close()
    assert (found.status, "is locked" in found.found) == ("FAIL", True)


def test_an_sqlite_file_that_is_none(asked: AskedFor, tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(b"no database at all" * 100)
    found = looked(asked, f"hydra.sweeper.storage=sqlite:///{tmp_path}/optuna.db")
    assert (found.status, "not a database" in found.found) == ("FAIL", True)
    found = looked(asked, "hydra.sweeper.storage=sqlite:////no/such/folder/optuna.db")
    assert (found.status, "unable to open database file" in found.found) == ("FAIL", True)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/optuna", "127.0.0.1"),
        ("mysql+nosuchdriver://host/optuna", "nosuchdriver"),
        ("'no address'", "is no URL"),
    ],
)
def test_what_cannot_be_reached(asked: AskedFor, address: str, said: str) -> None:
    found = looked(asked, f"hydra.sweeper.storage={address}")
    assert found.status == "FAIL"
    assert said in found.found
    assert "secret" not in found.found
    assert found.fix


def test_a_storage_of_ones_own_is_not_opened(asked: AskedFor) -> None:
    found = looked(asked, "hydra.sweeper.storage={_target_: my.Storage}")
    assert found.status == "note"
    assert "my.Storage" in found.found


@pytest.mark.slow
def test_postgresql(asked: AskedFor) -> None:
    with postgres.running_or_skip() as server:
        address = f"hydra.sweeper.storage={server.url}"
        assert "Optuna's tables are to be made" in looked(asked, address).found
        with postgres.closed_after(optuna.storages.RDBStorage(server.url)) as storage:
            optuna.create_study(study_name="digits", storage=storage)
        assert "study 'digits' is there with 0 trials" in looked(asked, address).found
