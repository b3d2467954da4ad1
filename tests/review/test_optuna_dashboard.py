"""`trialfleet dashboard --optuna STUDY`: optuna-dashboard, which is nobody's dependency, gets the study's storage."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trialfleet.commands import dashboard
from trialfleet.errors import UserError
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.storage import JOURNAL

ADDRESS = "postgresql://reader:secret@host/database"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What optuna-dashboard was told to show: storage, host and port of each call."""
    calls: list[Any] = []

    def run_server(storage: Any, host: str, port: int) -> None:
        calls.append((storage, host, port))
        raise KeyboardInterrupt

    monkeypatch.setattr("trialfleet.commands.dashboard._end_by_signals", lambda: None)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", SimpleNamespace(run_server=run_server))
    return calls


def test_a_study_in_its_folder_is_read_from_its_journal(
    place: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    journal = place / "sweeps" / "wide" / JOURNAL
    optuna.create_study(study_name="wide", storage=JournalStorage(JournalFileBackend(str(journal))))
    dashboard.run("trialfleet dashboard", ["--optuna", "wide"])
    [(storage, host, port)] = served
    assert optuna.get_all_study_names(storage) == ["wide"]
    assert host == "127.0.0.1"
    assert f"http://127.0.0.1:{port}   (study 'wide')" in capsys.readouterr().out


def test_a_storage_elsewhere_is_opened_by_its_address(place: Path, served: list[Any]) -> None:
    file = place / "sweeps" / "wide" / "study.yaml"
    record = study_record.read(file)
    assert record is not None
    study_record.write(file, study_record.replace(record, storage=ADDRESS.replace("secret", "***")))
    with pytest.raises(UserError, match="records no password"):
        dashboard.run("trialfleet dashboard", ["--optuna", "wide"])
    dashboard.run("trialfleet dashboard", ["--optuna", "wide", "--storage", ADDRESS])
    assert served[0][0] == ADDRESS


def test_what_is_missing_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="wide"):  # the one that there is
        dashboard.run("trialfleet dashboard", ["--optuna", "wise"])
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match="optuna-dashboard is not installed"):
        dashboard.run("trialfleet dashboard", ["--optuna", "wide"])
