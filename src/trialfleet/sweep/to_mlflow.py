"""The observer that passes on to MLflow what the driver takes in."""

from collections.abc import Mapping, Sequence
from typing import Any

from trialfleet.sweep.driver import Driver
from trialfleet.sweep.standings import Finished
from trialfleet.sweep.tracked import Tracked
from trialfleet.tracking.ingest import Ingester, StudyState, artifacts_of
from trialfleet.tracking.submission import TrialRecord
from trialfleet.tracking.trial_dir import Result, TrialDir


class ToMlflow:
    """Args:
    metrics: names of the objectives, in the order of a result's values.
    tags: what every trial is tagged with: the version of the code.
    """

    def __init__(self, ingester: Ingester, metrics: Sequence[str], tags: Mapping[str, str], resume: str) -> None:
        self._ingester = ingester
        self._metrics = metrics
        self._tags = dict(tags)
        self._resume = resume

    def problem(self) -> str | None:
        """What keeps results from reaching MLflow, in words; None if nothing does."""
        return self._ingester.problem()

    def finish(self, state: StudyState, patience: float) -> bool:
        """The driver ends: wait until everything has arrived. False if `patience` seconds were not enough."""
        self._ingester.study_ended(state)
        return self._ingester.flush(patience)

    def recovered(self, number: int, directory: TrialDir) -> None:
        """A trial that an earlier driver told: send what MLflow lacks of it, nothing if it has everything."""
        if self._ingester.has(number):
            return
        record, result = TrialRecord.read(directory.trial_json), directory.result()
        if record is not None and result is not None:
            trial = Tracked(-1, record, directory)
            claimed = [claim.stat().st_mtime for claim in directory.runs.glob("*/claim")]
            trial.started = min(claimed, default=directory.trial_json.stat().st_mtime)
            self.started(trial)
            self.ended(trial, result)

    def started(self, trial: Tracked) -> None:
        tags = {**self._tags, **_job_tags(trial)}
        self._ingester.trial_started(trial.number, trial.record.params, tags, trial.started)

    def running(self, trial: Tracked, label: str) -> None:
        self._ingester.trial_tagged(trial.number, _job_tags(trial))
        self._ingester.follow(trial.number, label, trial.dir.run_dir(label))

    def retried(self, trial: Tracked, reason: str) -> None:
        self._ingester.trial_tagged(trial.number, {**_job_tags(trial), "trialfleet.retry": reason})

    def ended(self, trial: Tracked, result: Result) -> None:
        for label in trial.run_labels():
            self._ingester.follow(trial.number, label, trial.dir.run_dir(label))
        self._ingester.trial_ended(
            trial.number,
            result.state.value,
            dict(zip(self._metrics, result.objectives or (), strict=False)),
            None if result.error is None else f"{result.error['type']}: {result.error['message']}",
            {**_job_tags(trial), **{f"trialfleet.seconds.{part}": f"{s:.2f}" for part, s in result.seconds.items()}},
            artifacts_of(trial.dir.run_dir(result.run)) if result.run else None,
            trial.dir.result_json.stat().st_mtime,
        )

    def best(self, front: Sequence[Finished]) -> None:
        self._ingester.mark_best([trial.number for trial in front])
        self._ingester.describe(_summary(front, self._metrics, self._resume))

    def notice(self, message: str) -> None:
        """Nothing: what the driver waits for is for the terminal."""

    def tick(self, driver: Driver) -> None:
        """Nothing: the ingester has a clock of its own."""


def _job_tags(trial: Tracked) -> dict[str, str]:
    job = trial.record.job
    tags = {"trialfleet.attempt": str(trial.record.attempt)}
    return tags if job is None else {**tags, "trialfleet.job_id": job.id, "trialfleet.launcher": job.launcher}


def _summary(front: Sequence[Finished], metrics: Sequence[str], resume: str) -> str:
    """Markdown for the top of the study's page."""
    lines = []
    for trial in front[:10]:
        values = ", ".join(f"{name} = {value:.6g}" for name, value in zip(metrics, trial.values or (), strict=False))
        lines += [f"**Best: trial {trial.number}** ({values})", "", "| parameter | value |", "|---|---|"]
        lines += [f"| `{name}` | `{_cell(value)}` |" for name, value in trial.params.items()]
        lines.append("")
    return "\n".join([*lines, "Resume with:", "", f"    {resume}"])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
