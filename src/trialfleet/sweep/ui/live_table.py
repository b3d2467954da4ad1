"""What the driver shows: a live table where somebody watches; else a line for each event, and one a minute."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.reconcile import JobState
from trialfleet.sweep.study.progress import Finished
from trialfleet.sweep.ui.screen import STYLES, StudyView, TrialView, screen, short_names, status
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState

DRAW_EVERY = 0.5  # seconds
TELL_EVERY = 60.0  # seconds between two lines on how the study stands, where there is no table
OTHERS = 3  # metrics of a trial besides its objectives


class LiveTable:
    """An observer of the driver.

    Args:
        name: the study's.
        metrics: names of the objectives.
        tracking: what to say of MLflow (a server that is away), or None.
    """

    def __init__(
        self, console: Console, live: bool, name: str, metrics: Sequence[str], tracking: Callable[[], str | None]
    ) -> None:
        self.console = console
        self._name = name
        self._metrics = metrics
        self._tracking = tracking
        self._live = (
            Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") if live else None
        )
        self._next_draw = 0.0
        self._next_word = time.monotonic() + TELL_EVERY
        self._drawn = ("", 0)  # and the terminal's width
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
        line = Text.assemble(f"trial {trial.number:>4}  ", (f"{result.state:<9}", STYLES[result.state]), "  ")
        values, params = self._outcome(trial, result)
        if self._live is None:
            self._line(line.append("  ".join(part for part in (values, brief(params)) if part)).append(took))
        else:  # one line of the terminal, what matters first; all of it is in `trialfleet study trials`
            line.append(f"{values}{took}")
            short = short_names(list(params))
            room = self.console.width - line.cell_len
            line.append(fitting({short[name]: value for name, value in params.items()}, room))
            if result.error is None:
                line.truncate(self.console.width, overflow="ellipsis")
            self._line(line)

    def _outcome(self, trial: ActiveTrial, result: Result) -> tuple[str, Mapping[str, Any]]:
        """What came of it, and the parameters of a complete trial."""
        if result.error is not None:
            return f"{result.error['type']}: {result.error['message']}".splitlines()[0][:160], {}
        if result.state is TrialState.PRUNED:
            values = {name: trial.latest[name] for name in self._metrics if name in trial.latest}
            return f"{brief(values)} at step {trial.step}" if values else "", {}
        return brief(dict(zip(self._metrics, result.objectives or (), strict=False))), trial.record.params

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
        """One event, one line. In logs it is never cut, so that they can be searched."""
        with contextlib.suppress(OSError):  # stdout may be a file on a full disk: that must not end the study
            if self.console.is_terminal:
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
            else:  # styles would be dropped, and cost more than the line
                print(line, file=self.console.file, flush=True)

    # ---------------------------------------------------------------- the table

    def tick(self, driver: Driver) -> None:
        now = time.monotonic()
        if self._live is None:
            if now >= self._next_word:
                self._next_word = now + TELL_EVERY
                self._line(f"study {self._name}: {status(self._view(driver))}")
            return
        if now < self._next_draw:
            return
        self._next_draw = now + DRAW_EVERY
        size = self.console.size
        drawn = screen(self._view(driver), size.width, size.height)
        if (drawn.markup, size.width) == self._drawn:
            return  # nothing to rewrite, so that nothing flickers
        self._drawn = drawn.markup, size.width
        with contextlib.suppress(OSError):
            self._live.update(drawn, refresh=True)

    def _view(self, driver: Driver) -> StudyView:
        progress = driver.progress
        first = min(progress.front, key=lambda one: one.number, default=None)
        ages = [time.time() - one.ended for one in progress.front if one.ended is not None]
        trials = sorted(driver.active_trials.values(), key=lambda trial: trial.number)
        return StudyView(
            name=self._name,
            total=driver.n_trials,
            states=progress.states,
            causes=progress.causes,
            metrics=self._metrics,
            trials=[self._trial(driver, trial) for trial in trials],
            best=None if first is None else first.values,
            best_trial=None if first is None else first.number,
            best_age=max(0.0, min(ages)) if ages else None,
            front=len(progress.front),
            slots=driver.slots(),
            mean_seconds=progress.mean_seconds,
            starts=driver.stopping.request is None,
            messages=[message for message in (self._tracking(), self._question) if message],
        )

    def _trial(self, driver: Driver, trial: ActiveTrial) -> TrialView:
        job, word = trial.record.job, trial.phase.value
        if trial.phase is JobState.UNKNOWN:
            word = "submitted" if trial.started is None else "no word of it"
        elif job is not None and trial.phase is JobState.PENDING:
            word = driver.fleets[job.launcher].why(job) or word
        notes = [f"attempt {trial.record.attempt}"] if trial.record.attempt > 1 else []
        others = [name for name in trial.latest if name not in self._metrics][:OTHERS]
        return TrialView(
            number=trial.number,
            state=word,
            runs=trial.phase is JobState.RUNNING,
            step=trial.step,
            steps=trial.steps,
            values=[trial.latest.get(name) for name in self._metrics],
            others={name: trial.latest[name] for name in others},
            seconds=trial.seconds(),
            node=trial.seen_on,
            note=", ".join([*notes, *(["to be pruned"] if trial.pruned else [])]),
        )


def fitting(values: Mapping[str, Any], room: int) -> str:
    """name=value … behind something, as many as have room; … for those that have none, and never a part of one."""
    parts = [f"  {brief({name: value})}" for name, value in values.items()]
    if cell_len("".join(parts)) <= room:
        return "".join(parts)
    more, kept = "  …", ""
    for part in parts:
        if cell_len(kept + part + more) > room:
            break
        kept += part
    return kept + more if cell_len(kept + more) <= room else ""


def brief(values: Mapping[str, Any]) -> str:
    """name=value …, floats to four digits."""
    return "  ".join(f"{name}={_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
