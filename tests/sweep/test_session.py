"""What a driver says at its end, while MLflow keeps it waiting."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from trialfleet.sweep import session
from trialfleet.sweep.hooks import Hooks
from trialfleet.sweep.mlflow_observer import MlflowObserver
from trialfleet.sweep.stopping import Jobs, Stopping
from trialfleet.sweep.study_reports import StudyReports
from trialfleet.tracking import waiting

NOBODY = SimpleNamespace(count=0)  # interrupts
AWAY = "http://there: the tracking server does not answer: Connection refused"


class Exporter:
    """One that never arrives, and knows at each look of one of these problems; `look` is called then."""

    def __init__(self, problems: Sequence[str | None], look: Callable[[], None] = lambda: None) -> None:
        self._problems = problems
        self._look = look

    def study_ended(self, state: str) -> None:
        self.state = state

    def flush(self, timeout: float, goes_on: Callable[[str | None], bool]) -> bool:
        self.timeout = timeout
        self.asked = 0
        for problem in self._problems:
            self.asked += 1
            self._look()
            if not goes_on(problem):
                break
        return False

    def problem(self) -> str | None:
        return f"{self._problems[-1]}; it is tried again" if self._problems[-1] else None


def said_at_the_end(
    exporter: Exporter,
    interrupts: Any = NOBODY,
    stopping: Stopping | None = None,
    more: Sequence[Any] = (),
    finished: int = 2,
    in_flight: int = 0,
) -> list[str]:
    """Of a study of two trials."""
    observer = MlflowObserver(exporter, [], "again")  # type: ignore[arg-type]  # all that it uses
    driver: Any = SimpleNamespace(
        observers=SimpleNamespace(members=[observer, *more]),
        stopping=stopping or Stopping(),
        study=SimpleNamespace(folder=Path("/sweeps/digits")),
        in_flight=in_flight,
        account=SimpleNamespace(save=lambda: None, wall_seconds=100.0),
        progress=SimpleNamespace(finished=finished),
        n_trials=2,
    )
    terminal = io.StringIO()
    session.hand_over(driver, Console(file=terminal), interrupts)
    return [line.removeprefix("note  MLflow: ") for line in terminal.getvalue().splitlines()]


def test_an_mlflow_that_is_away_is_named_at_once_with_what_becomes_of_the_results() -> None:
    first, last = said_at_the_end(Exporter([None, AWAY, AWAY, AWAY]))
    assert first.startswith(f"{AWAY}; all results are in /sweeps/digits; it is tried for 60 s at most")
    assert last == "not everything arrived; the same command sends the rest"


def test_an_mlflow_that_only_takes_long_is_waited_for_aloud_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said_at_the_end(Exporter([None])) == ["not everything arrived; the same command sends the rest"]
    monkeypatch.setattr(waiting, "SLOW_SECONDS", -1.0)
    assert said_at_the_end(Exporter([None, None]))[0].startswith("results are still on their way; all results are in")


def test_a_signal_ends_the_wait_and_is_no_wish_about_the_study() -> None:
    stopping, interrupts = Stopping(), SimpleNamespace(count=1)  # one of before

    def interrupt() -> None:
        interrupts.count += 1
        stopping.ask("", Jobs.LEAVE)

    exporter = Exporter([AWAY, AWAY, AWAY], interrupt)
    said_at_the_end(exporter, interrupts, stopping)
    assert (exporter.asked, exporter.state, stopping.request) == (2, "COMPLETE", None)


@pytest.mark.parametrize(
    ("finished", "in_flight", "failed", "state"),
    [(2, 0, False, "COMPLETE"), (1, 0, False, "STOPPED"), (1, 1, False, "STOPPED"), (2, 0, True, "FAIL")],
)
def test_mlflow_is_told_how_the_study_ended(finished: int, in_flight: int, failed: bool, state: str) -> None:
    """A study that a person stopped was told to be complete once its last trials had ended."""
    stopping, exporter = Stopping(), Exporter([None])
    stopping.ask("asked by a person", Jobs.FINISH, failed)
    said_at_the_end(exporter, NOBODY, stopping, finished=finished, in_flight=in_flight)
    assert exporter.state == state


@pytest.mark.parametrize("jobs", [None, Jobs.FINISH])
def test_a_signal_at_the_report_or_at_the_last_hook_is_no_wish_about_the_study_either(jobs: Jobs | None) -> None:
    """It was taken for one: a study that had ended said that it was left, and its MLflow was told that it stopped."""
    stopping, interrupts, waits = Stopping(), SimpleNamespace(count=0), list[str]()
    if jobs is not None:
        stopping.ask("no improvement", jobs)
    before = stopping.request

    def interrupted(what: str, goes_on: Callable[[], bool]) -> None:
        assert goes_on()
        interrupts.count += 1
        stopping.ask("", Jobs.LEAVE)
        assert not goes_on()
        waits.append(what)

    reports, hooks = StudyReports.__new__(StudyReports), Hooks.__new__(Hooks)
    reports.finish = lambda worked, goes_on: interrupted("report", goes_on)  # type: ignore[method-assign]
    hooks.end = lambda state, failure, goes_on: interrupted(state, goes_on)  # type: ignore[method-assign,assignment]
    exporter = Exporter([None])
    said_at_the_end(exporter, interrupts, stopping, [reports, hooks])
    assert waits == ["report", "finished"]
    assert (exporter.state, exporter.timeout) == ("COMPLETE", session.FLUSH_SECONDS)
    assert stopping.request == before
