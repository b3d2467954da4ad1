"""What MLflow is to show of a trial, as the trial's folder says it at the moment.

A snapshot is read anew whenever the driver says that something changed. The lines of metrics.jsonl are not in it: they
are read as they come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trialfleet.trial.directory import composed_config, trial_dir
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import TrialState
from trialfleet.trial.submission import TrialRecord

CONFIG = "config.yaml"  # the artifact that is the run's composed config, unless the run has one of that name
LOG = "log.txt"  # the same of what the run printed

DIGITS = 5  # of a float that was sampled
WHOLE = 1e9  # from which on whole floats are shortened, too


class DatasetUsed(NamedTuple):
    """A set of data that a run used."""

    name: str
    digest: str  # what tells it from others of its name, or from itself as it was
    source: str  # where it comes from, for people


Stopped = Literal["STOPPED"]  # a single training that somebody stopped


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        at: Unix seconds.
        objectives: metric → value; empty unless the trial is COMPLETE.
        artifacts: name in MLflow → file or folder; what does not exist is left out.
        datasets: what the run says of its data, see `dataset_inputs`.
    """

    state: TrialState | Stopped
    at: float
    objectives: Mapping[str, float]
    error: str | None
    artifacts: Mapping[str, Path]
    datasets: Sequence[DatasetUsed] = ()


@dataclass(frozen=True)
class TrialSnapshot:
    """A trial at one moment.

    Attributes:
        params: as people read them: floats to five digits. The exact values are in the config, which is an artifact.
        tags: the attempt, the Slurm job id, where the seconds went.
        started_at: Unix seconds.
        runs: label of a run ("1.0") → its folder, oldest first.
        outcome: None while the trial goes on.
    """

    params: Mapping[str, str]
    tags: Mapping[str, str]
    started_at: float
    runs: Mapping[str, Path]
    outcome: Outcome | None = None


def read_trial(study: Path, objectives: Sequence[str], number: int, ended: bool) -> TrialSnapshot | None:
    """The trial as its folder says; None before it is submitted.

    Args:
        study: the study's folder.
        objectives: their names, in the order of a result's values.
        ended: whether the driver has accepted the trial's result. Until then result.json is not looked at: it may be
            one of another trial, which the driver sets aside.

    Raises:
        Damaged: a file is not what it should be, or is missing.
        OSError: a file cannot be read just now.
    """
    directory = trial_dir(study, number)
    record = TrialRecord.read(directory.trial_json)
    if record is None:
        if ended:
            raise Damaged(directory.trial_json, "is missing")
        return None
    runs = {claim.label: directory.run_dir(claim.label) for claim in directory.claims_of(record.identity)}
    claims = [claim for run in runs.values() if (claim := run / "claim").exists()]
    started_at = min(path.stat().st_mtime for path in claims or [directory.trial_json])
    params = {name: shown(value) for name, value in record.params.items()}
    if not ended:
        return TrialSnapshot(params, _job_tags(record), started_at, runs)
    result = directory.result()
    if result is None:
        raise Damaged(directory.result_json, "is missing")
    if result.identity.params not in (None, record.identity.params):
        raise Damaged(directory.result_json, "is the result of other parameters than trial.json has")
    outcome = Outcome(
        result.state,
        directory.result_json.stat().st_mtime,
        dict(zip(objectives, result.objectives or (), strict=False)),
        None if result.error is None else f"{result.error['type']}: {result.error['message']}",
        artifacts_of(directory.run_dir(result.run)) if result.run else {},
        datasets_of(result.notes),
    )
    seconds = {f"trialfleet.seconds.{part}": f"{value:.2f}" for part, value in result.seconds.items()}
    return TrialSnapshot(params, _job_tags(record) | seconds, started_at, runs, outcome)


def shown(value: object) -> str:
    """A parameter in a list of runs: of a float as many digits as people compare. Whole numbers keep all of theirs."""
    if not isinstance(value, float) or (value.is_integer() and abs(value) < WHOLE):
        return str(value)
    return min(f"{value:.{DIGITS}g}", repr(value), key=len)


def datasets_of(notes: Mapping[str, Any]) -> list[DatasetUsed]:
    """What a run noted as `datasets`: a list of mappings with `name`, and `digest` and `source` if there are any.

    Whatever has another form is a note like any other.
    """
    noted = notes.get("datasets")
    found = []
    for entry in noted if isinstance(noted, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"]:
            name = entry["name"]
            found.append(DatasetUsed(name, str(entry.get("digest") or "unknown"), str(entry.get("source") or name)))
    return found


def artifacts_of(run_directory: Path) -> dict[str, Path]:
    """What of a run is shown with its trial: its config and its log, and the files that it put into `artifacts/`."""
    files = sorted((run_directory / "artifacts").glob("*"))
    config, log = composed_config(run_directory), run_directory / "log"
    own = ({} if config is None else {CONFIG: config}) | ({LOG: log} if log.is_file() else {})
    return own | {path.name: path for path in files}


def _job_tags(record: TrialRecord) -> dict[str, str]:
    job = record.job
    tags = {"trialfleet.attempt": str(record.attempt)}
    return tags if job is None else {**tags, "trialfleet.job_id": job.id, "trialfleet.launcher": job.launcher}
