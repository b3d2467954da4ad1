"""What trials report: judged by the pruner as it comes, and never silently by nobody."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from trialfleet.sweep.reports import LINES_WITHOUT_METRIC, Reports
from trialfleet.sweep.study import storage
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.metrics import Line

LOSS = "loss"


@pytest.fixture
def store(tmp_path: Path) -> StudyStorage:
    opened = storage.open_storage(None, tmp_path / storage.JOURNAL, lambda: None)
    return StudyStorage(opened, "study", ["minimize"], lambda: None)


class Trial(SimpleNamespace):
    """As much of an active trial as reports concern: lines that are read once."""

    def __init__(self, store: StudyStorage, folder: Path) -> None:
        super().__init__(trial_id=store.create("uid", None), dir=TrialDir(folder / "00000"), pruned=False, offsets={})
        self.lines: list[Line] = []

    def new_lines(self, all_of_them: bool) -> list[Line]:
        self.offsets["1.0"], lines = 1, self.lines
        self.lines = []
        return lines

    def list_runs(self) -> None:
        """There is one."""


def reports(store: StudyStorage, begun: Any = lambda trial, label: None, notice: Any = lambda text: None) -> Reports:
    return Reports(store, optuna.pruners.ThresholdPruner(upper=1.0), LOSS, begun, notice)


def line(step: int, **values: float) -> Line:
    return Line(step, float(step), values)


def test_a_trial_that_is_judged_bad_gets_a_verdict_once(store: StudyStorage, tmp_path: Path) -> None:
    trial, heard = Trial(store, tmp_path), reports(store)
    trial.lines = [line(1, loss=0.5)]
    heard.take_in(trial)  # type: ignore[arg-type]
    assert trial.dir.verdict() is None
    trial.lines = [line(2, loss=1.5), line(3, loss=2.5)]
    heard.take_in(trial)  # type: ignore[arg-type]
    assert trial.dir.verdict() == {"prune_at": 2, "value": 1.5}
    assert store.frozen(trial.trial_id).intermediate_values == {1: 0.5, 2: 1.5}


def test_each_run_is_told_of_once(store: StudyStorage, tmp_path: Path) -> None:
    begun: list[str] = []
    trial, heard = Trial(store, tmp_path), reports(store, begun=lambda trial, label: begun.append(label))
    for _ in range(2):
        heard.take_in(trial)  # type: ignore[arg-type]
    assert begun == ["1.0"]


@pytest.mark.parametrize("once_reported", [False, True])
def test_a_pruner_that_never_hears_of_its_metric_says_so(
    store: StudyStorage, tmp_path: Path, once_reported: bool
) -> None:
    said: list[str] = []
    trial, heard = Trial(store, tmp_path), reports(store, notice=said.append)
    trial.lines = [line(0, loss=0.5)] if once_reported else [line(0)]
    trial.lines += [line(step, accuracy=0.5) for step in range(1, 2 * LINES_WITHOUT_METRIC)]
    heard.take_in(trial)  # type: ignore[arg-type]
    assert len(said) == (not once_reported)
    assert once_reported or ("'loss'" in said[0] and "accuracy" in said[0] and "hydra.sweeper.metric" in said[0])


def test_an_error_within_a_trials_report_is_none_of_the_trials(
    store: StudyStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, heard = Trial(store, tmp_path), reports(store)

    def fail(*_: object) -> bool:
        raise OSError("the journal's disk")

    monkeypatch.setattr(store, "report", fail)
    trial.lines = [line(1, loss=0.5)]
    heard.take_in_at_once(trial)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="the journal's disk"):
        heard.raise_error()
    heard.raise_error()  # once
