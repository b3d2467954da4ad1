"""The report that MLflow gets: at each quarter and at the end, and never the study's trouble."""

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import simulated_study
from benchmarks.simulated_study import Shape
from trialfleet.sweep.study_reports import NAME, PARTS, StudyReports


class Heard:
    """What an observer of reports says."""

    def __init__(self) -> None:
        self.made: list[Path] = []
        self.notices: list[str] = []

    def heard(self, report: Path, *parts: Path) -> None:
        assert parts == tuple(report.parent / name for name in PARTS)
        self.made.append(report)

    def observer(self, folder: Path, least: float = 0.0, limit: float = 60.0) -> StudyReports:
        return StudyReports(folder, least, self.heard, self.notices.append, limit)


def driver(n_trials: int, worked: float = 100.0, ended: int = 0, in_flight: int = 2) -> Any:
    """A driver with two slots."""
    return SimpleNamespace(
        n_trials=n_trials,
        account=SimpleNamespace(wall_seconds=worked),
        progress=SimpleNamespace(finished=ended),
        in_flight=in_flight,
        slots=lambda: 2,
    )


def idle() -> None:
    while any(thread.name == "report" for thread in threading.enumerate()):
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """No process is started; the words of each that would be."""
    words: list[tuple[str, ...]] = []
    monkeypatch.setattr(StudyReports, "_run", lambda _self, given: words.append(tuple(given)) or "")
    return words


def lives(observer: StudyReports, trials: int, of: int, worked: float = 100.0) -> None:
    for _ in range(trials):
        observer.ended(None, None)  # type: ignore[arg-type]  # it only counts
        observer.tick(driver(of, worked))
        idle()


def test_one_at_each_quarter_and_one_at_the_end(tmp_path: Path, quick: list[tuple[str, ...]]) -> None:
    heard = Heard()
    observer = heard.observer(tmp_path)
    observer.tick(driver(16))
    lives(observer, 16, 16)
    assert quick == [()] * 3
    observer.finish(100.0, lambda: True)
    assert quick == [(), (), (), ("--ended",)]
    assert heard.made == [tmp_path / NAME] * 4
    observer.finish(100.0, lambda: True)  # nothing has ended since
    assert len(quick) == 4


def test_none_of_a_study_that_is_short_or_was_there_already(tmp_path: Path, quick: list[tuple[str, ...]]) -> None:
    heard = Heard()
    observer = heard.observer(tmp_path, least=60.0)
    observer.tick(driver(16, 5.0))
    lives(observer, 16, 16, worked=5.0)
    observer.finish(5.0, lambda: True)
    (tmp_path / NAME).write_text("an earlier driver's")
    observer = heard.observer(tmp_path)
    assert heard.made == [tmp_path / NAME]  # it may not have arrived
    for number in range(15):
        observer.recovered(number, None)  # type: ignore[arg-type]
    observer.tick(driver(16))
    observer.finish(100.0, lambda: True)
    assert quick == []


def test_a_quarters_waits_for_five_times_as_long_as_the_last(tmp_path: Path, quick: list[tuple[str, ...]]) -> None:
    observer = Heard().observer(tmp_path, least=60.0)
    observer.tick(driver(16, 0.0))
    lives(observer, 8, 16, worked=299.0)
    assert quick == []
    lives(observer, 1, 16, worked=300.0)
    assert quick == [()]
    lives(observer, 4, 16, worked=301.0)  # the third quarter's comes too soon after it
    assert quick == [()]
    observer.finish(301.0, lambda: True)
    assert quick == [(), ("--ended",)]


def test_a_signal_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, go_on = Heard(), threading.Event()
    monkeypatch.setattr(StudyReports, "_run", lambda _self, _words: "" if go_on.wait(60.0) else "nobody came")
    observer = heard.observer(tmp_path)
    observer.tick(driver(2))
    observer.ended(None, None)  # type: ignore[arg-type]
    observer.tick(driver(2))
    observer.finish(100.0, lambda: False)
    assert heard.made == []
    go_on.set()
    idle()


@pytest.mark.slow
def test_a_process_makes_it_and_what_goes_wrong_is_told(tmp_path: Path) -> None:
    simulated_study.make(tmp_path / "study", Shape(6, slots=2))
    heard = Heard()
    observer = heard.observer(tmp_path / "study")
    lives(observer, 1, 6)
    observer.finish(100.0, lambda: True)
    assert heard.notices == []
    assert heard.made == [tmp_path / "study" / NAME]
    assert "Which values of 6 parameters" in (tmp_path / "study" / NAME).read_text()
    for folder, limit, said in (
        (tmp_path / "nothing", 60.0, "there is no study"),
        (tmp_path / "study", 0.01, "longer than 0.01 s"),
    ):
        observer = heard.observer(folder, limit=limit)
        lives(observer, 1, 6)
        observer.finish(100.0, lambda: True)
        assert said in heard.notices[-1]


def with_a_process_that_waits(folder: Path, heard: Heard) -> StudyReports:
    """An observer of a study of 6 trials, of which the last one runs."""
    simulated_study.make(folder, Shape(6, slots=2))
    observer = heard.observer(folder)
    observer.tick(driver(6, ended=4, in_flight=2))
    observer.ended(None, None)  # type: ignore[arg-type]  # it only counts
    assert observer._begun is None
    observer.tick(driver(6, ended=5, in_flight=1))
    return observer


@pytest.mark.slow
def test_the_last_ones_process_is_there_when_it_is_told_to_begin(tmp_path: Path) -> None:
    heard = Heard()
    observer = with_a_process_that_waits(tmp_path / "study", heard)
    begun = observer._begun
    assert begun is not None
    report = tmp_path / "study" / NAME
    assert not report.exists()
    observer.finish(100.0, lambda: True)
    assert begun._process.returncode == 0
    assert "Which values of 6 parameters" in report.read_text()
    assert heard.notices == []


@pytest.mark.slow
def test_a_process_that_waits_ends_with_its_driver(tmp_path: Path) -> None:
    observer = with_a_process_that_waits(tmp_path / "closed", Heard())
    begun = observer._begun
    assert begun is not None
    observer.close()
    assert begun._process.returncode == -signal.SIGKILL
    begun = with_a_process_that_waits(tmp_path / "died", Heard())._begun
    assert begun is not None
    assert begun._process.stdin is not None
    begun._process.stdin.close()
    assert begun._process.wait(60) == 0
    begun.kill()
