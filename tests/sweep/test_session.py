"""What a driver says at its end, while MLflow keeps it waiting."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from trialfleet.sweep import session
from trialfleet.sweep.mlflow_observer import MlflowObserver
from trialfleet.sweep.stopping import Jobs, Stopping
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


def said_at_the_end(exporter: Exporter, interrupts: Any = NOBODY, stopping: Stopping | None = None) -> list[str]:
    observer = MlflowObserver(exporter, [], "again")  # type: ignore[arg-type]  # all that it uses
    driver: Any = SimpleNamespace(
        observers=SimpleNamespace(members=[observer]),
        stopping=stopping or Stopping(),
        study=SimpleNamespace(folder=Path("/sweeps/digits")),
        in_flight=0,
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
