"""The observer that passes on to MLflow what the driver takes in."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.study.progress import Finished
from trialfleet.tracking.exporter import Exporter, StudyState, artifacts_of
from trialfleet.trial import records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result
from trialfleet.trial.submission import TrialRecord

log = logging.getLogger(__name__)


class MlflowObserver:
    """Tells the exporter what the driver hears, and all of it again from the study's folder if MLflow has lost it.

    Args:
        metrics: names of the objectives, in the order of a result's values.
        tags: what every trial is tagged with: the version of the code.
    """

    def __init__(self, exporter: Exporter, metrics: Sequence[str], tags: Mapping[str, str], resume: str) -> None:
        self._ingester = exporter
        self._metrics = metrics
        self._tags = dict(tags)
        self._resume = resume
        self._ended: dict[int, Path] = {}  # folders of the trials that were told
        self._unreadable: dict[int, str] = {}  # what keeps a trial's record from MLflow
        exporter.on_lost(self._tell_again)

    def problem(self) -> str | None:
        """What keeps results from reaching MLflow, in words; None if nothing does."""
        return self._ingester.problem() or next(iter(self._unreadable.values()), None)

    def finish(self, state: StudyState, patience: float) -> bool:
        """The driver ends: wait until everything has arrived. False if `patience` seconds were not enough."""
        for number in list(self._unreadable):  # a file system may have been away
            self.recovered(number, TrialDir(self._ended[number]))
        self._ingester.study_ended(state)
        return self._ingester.flush(patience)

    def recovered(self, number: int, directory: TrialDir) -> None:
        """A trial that an earlier driver told: send what MLflow lacks of it, nothing if it has everything."""
        self._ended[number] = directory.path  # first: MLflow may lose it just now
        if self._ingester.has(number):
            return
        try:
            self._tell(number, directory)
        except (records.Damaged, OSError) as error:
            self._unreadable[number] = f"trial {number} is not sent to MLflow: {error}"
            log.warning("%s", self._unreadable[number])
        else:
            self._unreadable.pop(number, None)

    def _tell(self, number: int, directory: TrialDir) -> None:
        record, result = TrialRecord.read(directory.trial_json), directory.result()
        if record is None or result is None:
            raise records.Damaged(directory.trial_json if record is None else directory.result_json, "is missing")
        if result.identity.params not in (None, record.identity.params):
            raise records.Damaged(directory.result_json, "is the result of other parameters than trial.json has")
        claimed = [claim.stat().st_mtime for claim in directory.runs.glob("*/claim")]
        self._start(record, min(claimed, default=directory.trial_json.stat().st_mtime))
        self._end(record, directory, result)

    def _tell_again(self) -> None:
        """MLflow has lost trials: the exporter says, of each, whether it has it."""
        for number, folder in list(self._ended.items()):
            self.recovered(number, TrialDir(folder))

    def started(self, trial: ActiveTrial) -> None:
        self._start(trial.record, trial.started)

    def running(self, trial: ActiveTrial, label: str) -> None:
        self._ingester.trial_tagged(trial.number, _job_tags(trial.record))
        self._ingester.follow(trial.number, label, trial.dir.run_dir(label))

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        self._ingester.trial_tagged(trial.number, {**_job_tags(trial.record), "trialfleet.retry": reason})

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self._ended[trial.number] = trial.dir.path
        self._end(trial.record, trial.dir, result)

    def _start(self, record: TrialRecord, at: float | None) -> None:
        self._ingester.trial_started(record.number, record.params, {**self._tags, **_job_tags(record)}, at)

    def _end(self, record: TrialRecord, directory: TrialDir, result: Result) -> None:
        for label in [claim.label for claim in directory.claims_of(record.identity)]:
            self._ingester.follow(record.number, label, directory.run_dir(label))
        seconds = {f"trialfleet.seconds.{part}": f"{value:.2f}" for part, value in result.seconds.items()}
        self._ingester.trial_ended(
            record.number,
            result.state.value,
            dict(zip(self._metrics, result.objectives or (), strict=False)),
            None if result.error is None else f"{result.error['type']}: {result.error['message']}",
            {**_job_tags(record), **seconds},
            artifacts_of(directory.run_dir(result.run)) if result.run else None,
            _written(directory.result_json),
        )

    def best(self, front: Sequence[Finished]) -> None:
        self._ingester.mark_best([trial.number for trial in front])
        self._ingester.describe(_summary(front, self._metrics, self._resume))

    def notice(self, message: str) -> None:
        """Nothing: what the driver waits for is for the terminal."""

    def tick(self, driver: Driver) -> None:
        """Nothing: the exporter has a clock of its own."""


def _written(path: Path) -> float | None:
    """When a file was written, in Unix seconds; None if that can not be told just now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _job_tags(record: TrialRecord) -> dict[str, str]:
    job = record.job
    tags = {"trialfleet.attempt": str(record.attempt)}
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
