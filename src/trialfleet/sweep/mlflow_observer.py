"""The observer that tells the MLflow exporter what changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.study.progress import Finished
from trialfleet.tracking.exporter import Exporter, GoesOn
from trialfleet.tracking.study_export import StudyState
from trialfleet.tracking.trial_snapshot import shown
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result

FRONT = 20  # trials of a Pareto front in the description


class MlflowObserver:
    """Says which trials' folders changed; the exporter reads them, and makes MLflow agree with them.

    Args:
        metrics: names of the objectives, in the order of a result's values.
        resume: the command that resumes the study.
        question: what the study asks, in Markdown.
        links: what there is to do with the study → the command.
    """

    def __init__(
        self,
        exporter: Exporter,
        metrics: Sequence[str],
        resume: str,
        question: str = "",
        links: Mapping[str, str] | None = None,
    ) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._commands = {**(links or {}), "Resume": resume}
        self._question = question
        self._described = False

    def prepare(self) -> None:
        """Trials will be started: see to it that what they bring finds its way at once."""
        self._exporter.prepare()

    def problem(self) -> str | None:
        """What keeps results from reaching MLflow, in words; None if nothing does."""
        return self._exporter.problem()

    def run(self) -> tuple[str, str] | None:
        """The ids of the experiment and of the study's run in MLflow; None while it has none."""
        return self._exporter.study_run()

    def report(self, *paths: Path) -> None:
        """These are the files and folders of the study's report."""
        self._exporter.study_report(*paths)

    def finish(self, state: StudyState, patience: float, goes_on: GoesOn = lambda _problem: True) -> bool:
        """The driver ends: wait until everything has arrived. False if `patience` seconds were not enough.

        Args:
            goes_on: see `Exporter.flush`.
        """
        self._exporter.study_ended(state)
        return self._exporter.flush(patience, goes_on)

    def recovered(self, number: int, directory: TrialDir) -> None:
        self._describe()
        self._exporter.changed(number, ended=True)

    def started(self, trial: ActiveTrial) -> None:
        self._describe()
        self._exporter.changed(trial.number)

    def running(self, trial: ActiveTrial, label: str) -> None:
        self._exporter.changed(trial.number)

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        self._exporter.changed(trial.number, retried=reason)

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self._exporter.changed(trial.number, ended=True)

    def best(self, front: Sequence[Finished]) -> None:
        self._described = True
        summary = _summary(front, self._metrics, self._question, self._commands)
        self._exporter.study_changed([trial.number for trial in front], summary)

    def _describe(self) -> None:
        """Say what the study asks once it has a trial, and with that a run; `best` says more."""
        if not self._described:
            self._described = True
            self._exporter.study_described(_summary([], self._metrics, self._question, self._commands))

    def notice(self, message: str) -> None:
        """Nothing: what the driver waits for is for the terminal."""

    def tick(self, driver: Driver) -> None:
        """Nothing: the exporter has a clock of its own."""


def _summary(front: Sequence[Finished], metrics: Sequence[str], question: str, commands: Mapping[str, str]) -> str:
    """Markdown for the top of the study's page, which shows a few lines of it: the answer, and then the question."""
    lines = _front(front, metrics) if len(metrics) > 1 and front else []
    for trial in front[:10] if len(metrics) == 1 else ():
        values = ", ".join(f"{name} = {value:.5g}" for name, value in zip(metrics, trial.values or (), strict=False))
        lines += [f"**Best: trial {trial.number}** ({values})", "", "| parameter | value |", "|---|---|"]
        lines += [f"| `{name}` | `{_cell(shown(value))}` |" for name, value in trial.params.items()]
        lines.append("")
    lines += [question, ""] if question else []
    for name, command in commands.items():
        lines += [f"{name} with:", "", f"    {command}", ""]
    return "\n".join(lines).rstrip()


def _front(front: Sequence[Finished], metrics: Sequence[str]) -> list[str]:
    """The Pareto front as a table, from one end to the other."""
    params = list(dict.fromkeys(name for trial in front for name in trial.params))
    ordered = sorted(front, key=lambda trial: (trial.values or [0.0])[0])[:FRONT]
    left = f", of which {FRONT} are below" if len(front) > FRONT else ""
    head = ["trial", *metrics, *params]
    trials = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    lines = [f"**Pareto front: {trials}**{left}", "", f"| {' | '.join(map(_cell, head))} |"]
    lines.append("|---" * len(head) + "|")
    for trial in ordered:
        values = [f"{value:.5g}" for value in trial.values or ()]
        cells = [str(trial.number), *values, *(shown(trial.params.get(name, "")) for name in params)]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return [*lines, ""]


def question(
    name: str, folder: Path, aims: Mapping[str, str], space: Mapping[str, str], settings: Mapping[str, object]
) -> str:
    """What a study asks, in Markdown.

    Args:
        aims: objective → minimize or maximize.
        space: parameter → what is searched over.
        settings: what else is to be known: trials, sampler, launcher.
    """
    asked = " and ".join(f"{direction} `{metric}`" for metric, direction in aims.items())
    what = ", ".join(f"{key} {value}" for key, value in settings.items())
    lines = [f"Study **{name}**: {asked}, over {len(space)} parameters ({what}).", ""]
    lines += ["| searched over | in |", "|---|---|"]
    lines += [f"| `{key}` | `{_cell(text)}` |" for key, text in space.items()]
    return "\n".join([*lines, "", f"Its folder is `{folder}`."])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
