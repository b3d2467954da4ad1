"""What the driver shows: a live table where somebody watches, a line for each event where nobody does."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.study.progress import NO_MEMORY, Finished
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState

SHOWN = 20  # running trials in the table
STYLES = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class LiveTable:
    """An observer of the driver.

    Args:
        metrics: names of the objectives.
        tracking: what to say of MLflow (a server that is away), or None.
    """

    def __init__(
        self, console: Console, live: bool, metrics: Sequence[str], tracking: Callable[[], str | None]
    ) -> None:
        self.console = console
        self._metrics = metrics
        self._tracking = tracking
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._next_draw = 0.0
        self._began = time.monotonic()
        self._question = ""  # shown below the table while an answer is awaited

    def __enter__(self) -> "LiveTable":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    # ---------------------------------------------------------------- events

    def recovered(self, number: int, directory: TrialDir) -> None:
        """Nothing: what was told before is told."""

    def started(self, trial: ActiveTrial) -> None:
        if self._live is None:
            self._line(f"trial {trial.number:>4}  started    {brief(trial.record.params)}")

    def running(self, trial: ActiveTrial, label: str) -> None:
        """Nothing: the table shows it."""

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        self._line(f"trial {trial.number:>4}  again      attempt {trial.record.attempt}: {reason}")

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        seconds = trial.seconds(result)
        took = "" if seconds is None else f"  {seconds:.0f} s"
        line = Text.assemble(
            f"trial {trial.number:>4}  ",
            (f"{result.state:<9}", STYLES[result.state]),
            "  ",
            self._outcome(trial, result),
        )
        self._line(line.append(took))

    def _outcome(self, trial: ActiveTrial, result: Result) -> str:
        if result.error is not None:
            return f"{result.error['type']}: {result.error['message']}".splitlines()[0][:160]
        if result.state is TrialState.PRUNED:
            values = {name: trial.latest[name] for name in self._metrics if name in trial.latest}
            return f"{brief(values)} at step {trial.step}" if values else ""
        return f"{brief(dict(zip(self._metrics, result.objectives or (), strict=False)))}  {brief(trial.record.params)}"

    def best(self, front: Sequence[Finished]) -> None:
        """Nothing: the table shows it, and the end does."""

    def notice(self, message: str) -> None:
        self._line(Text.assemble(("note", "yellow"), f"  {message}"))

    def ask(self, question: str) -> None:
        """Show a question below the table until it is empty; where there is no table, as a line, once."""
        if self._live is None and question and question != self._question:
            self._line(question)
        self._question = question

    def _line(self, line: str | Text) -> None:
        """One event, one line: cut by the terminal, never by us, so that logs can be searched."""
        with contextlib.suppress(OSError):  # stdout may be a file on a full disk: that must not end the study
            if self.console.is_terminal:
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
            else:  # styles would be dropped, and cost more than the line
                print(line, file=self.console.file, flush=True)

    # ---------------------------------------------------------------- the table

    def tick(self, driver: Driver) -> None:
        if self._live is None or time.monotonic() < self._next_draw:
            return
        self._next_draw = time.monotonic() + 0.5
        with contextlib.suppress(OSError):
            self._live.update(self._picture(driver), refresh=True)

    def _picture(self, driver: Driver) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("trial", "job", "step", *self._metrics, "metrics", "time"):
            table.add_column(column, justify="left")
        shown = sorted(driver.active_trials.values(), key=lambda trial: trial.number)
        for trial in shown[:SHOWN]:
            table.add_row(*self._row(driver, trial))
        parts: list[Any] = [self._headline(driver), table]
        if len(shown) > SHOWN:
            parts.append(Text(f"… and {len(shown) - SHOWN} more", style="dim"))
        for message in (self._tracking(), self._question):
            if message:
                parts.append(Text(message, style="yellow"))
        return Group(*parts)

    def _headline(self, driver: Driver) -> Text:
        progress = driver.progress
        running = sum(trial.phase is JobState.RUNNING for trial in driver.active_trials.values())
        counts = [f"{progress.finished}/{driver.n_trials} done", f"{running} running"]
        counts.append(f"{len(driver.active_trials) - running} waiting")
        counts += [
            f"{progress.states[state]} {state_name(state)}"
            for state in ("PRUNED", "FAIL", NO_MEMORY)
            if progress.states[state]
        ]
        line = Text(", ".join(counts), style="bold")
        if progress.front and len(self._metrics) == 1:
            best = progress.front[0]
            line.append(
                f"   best {brief({self._metrics[0]: (best.values or [0.0])[0]})} (trial {best.number})", "green"
            )
        elif progress.front:
            line.append(f"   {len(progress.front)} on the Pareto front", "green")
        left = self._seconds_left(driver)
        if left is not None:
            line.append(f"   about {duration(left)} left", "dim")
        return line

    def _seconds_left(self, driver: Driver) -> float | None:
        mean = driver.progress.mean_seconds
        if mean is None:
            return None
        to_start = driver.n_trials - driver.progress.finished - len(driver.active_trials)
        of_running = sum(max(0.0, mean - (trial.seconds() or 0.0)) for trial in driver.active_trials.values())
        return (max(0, to_start) * mean + of_running) / max(1, driver.slots())

    def _row(self, driver: Driver, trial: ActiveTrial) -> list[str]:
        job = trial.record.job
        word = trial.phase.value
        if job is not None and trial.phase is JobState.PENDING:
            word = driver.fleets[job.launcher].why(job) or word
        if trial.record.attempt > 1:
            word += f" (attempt {trial.record.attempt})"
        if trial.pruned:
            word += " (to be pruned)"
        others = {name: value for name, value in trial.latest.items() if name not in self._metrics}
        objectives = [_number(trial.latest[name]) if name in trial.latest else "" for name in self._metrics]
        seconds = trial.seconds()
        return [
            str(trial.number),
            word,
            "" if trial.step is None else str(trial.step),
            *objectives,
            brief(dict(list(others.items())[:3])),
            "" if seconds is None else duration(seconds),
        ]


def state_name(state: str) -> str:
    """A state as people read it."""
    return state.lower().replace("_", " ")


def brief(values: Mapping[str, Any]) -> str:
    """name=value …, floats to four digits."""
    return "  ".join(f"{name}={_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people write them: 1:02:03, 2:03."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
