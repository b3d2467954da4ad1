"""What goes down to a job: which trials it may run, and where it finds the study's code and config.

A submission is one file, `<uuid>.json`, written before the launcher is called. Its trials are the elements
of a job array, or a single job. What a trial is to do is in its own trial.json.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trialfleet.tracking import records

WARNING = "TRIALFLEET_WARNING"  # tells a Slurm job how many seconds ahead of its time limit it is warned


@dataclass(frozen=True)
class Assignment:
    """One element of a submission: attempt `attempt` of trial `number`."""

    number: int
    attempt: int
    directory: str  # the trial's directory


@dataclass(frozen=True)
class Submission:
    """What a job reads first.

    Attributes:
        uuid: recorded in trial.json and in the job's script path, so that a job is found again.
        payload: file with the pickled task function and Hydra context, made once per driver.
        sweep_dir: the study's folder.
        n_objectives: how many numbers the task must return.
        look_every: seconds between two looks at a trial's files for a verdict.
    """

    uuid: str
    payload: str
    sweep_dir: str
    n_objectives: int
    look_every: float
    trials: list[Assignment]

    def write(self, path: Path) -> None:
        """A job that finds nothing in it after a power cut ends without a claim: its trials are submitted again."""
        records.write(path, asdict(self), synced=False)

    @classmethod
    def read(cls, path: Path) -> "Submission":
        record: dict[str, Any] | None = records.read(path)
        assert record is not None, "a submission is written before its jobs are"
        return cls(**{**record, "trials": [Assignment(**trial) for trial in record["trials"]]})


@dataclass(frozen=True)
class JobRef:
    """A job as its launcher knows it.

    Attributes:
        launcher: "slurm" or "local".
        id: Slurm's job id ("12" or "12_3"), or the pid of a local job's controller.
        process: the controller of a local job; None on Slurm.
    """

    launcher: str
    id: str
    process: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrialRecord:
    """trial.json: written by the driver before anything is submitted.

    Attributes:
        overrides: what the job composes its config from, in Hydra's grammar.
        params: what was sampled, as the study has it.
        attempt: 1 and up; a lost attempt is followed by the next.
        submission: uuid of the present attempt's submission; None before the first.
        launcher: whose fleet was given that submission.
        index: the trial's element in it.
        job: the launcher's answer; None until it has answered.
        unclaimed: jobs in a row before the present one that ended without a claim.
        timeouts: jobs before the present one that their time limit killed.
    """

    number: int
    overrides: list[str]
    params: dict[str, Any]
    attempt: int = 1
    submission: str | None = None
    launcher: str = ""
    index: int = 0
    job: JobRef | None = None
    unclaimed: int = 0
    timeouts: int = 0

    @classmethod
    def read(cls, path: Path) -> "TrialRecord | None":
        record = records.read(path)
        if record is None:
            return None
        job = record["job"]
        return cls(**{**record, "job": JobRef(**job) if job else None})

    def write(self, path: Path, synced: bool = True) -> None:
        record = {**vars(self), "job": self.job and vars(self.job)}  # asdict would copy all that is in it
        records.write(path, record, synced)
