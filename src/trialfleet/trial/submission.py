"""What goes down to a job: which trials it may run, and where it finds the study's code and config.

A submission is one file, `<uuid>.json`, written before the launcher is called. Its trials are the elements
of a job array, or a single job. What each is to run is in there; its trial.json says so, too, and which job it has.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trialfleet.trial import records
from trialfleet.trial.identity import Identity
from trialfleet.trial.records import Damaged

WARNING = "TRIALFLEET_WARNING"  # tells a Slurm job how many seconds ahead of its time limit it is warned


@dataclass(frozen=True)
class Assignment:
    """One element of a submission: attempt `attempt` of trial `number`.

    Attributes:
        directory: the trial's.
        params: digest of the trial's parameters; the job refuses a trial.json that has others.
        overrides: those of trial.json, so that nothing which happens to that file later changes what is run.
    """

    number: int
    attempt: int
    directory: str
    params: str
    overrides: list[str]


@dataclass(frozen=True)
class Submission:
    """What a job reads first.

    Attributes:
        uuid: recorded in trial.json and in the job's script path, so that a job is found again.
        payload: file with the pickled task function and Hydra context, made once per driver.
        sweep_dir: the study's folder.
        study: its uid.
        n_objectives: how many numbers the task must return.
        look_every: seconds between two looks at a trial's files for a verdict.
    """

    uuid: str
    payload: str
    sweep_dir: str
    study: str
    n_objectives: int
    look_every: float
    trials: list[Assignment]

    def identity(self, trial: Assignment) -> Identity:
        """Which trial the claim and the result of an element are for."""
        return Identity(self.study, trial.params)

    def write(self, path: Path) -> None:
        """A job that finds nothing in it after a power cut ends without a claim: its trials are submitted again."""
        records.write(path, asdict(self), synced=False)

    @classmethod
    def read(cls, path: Path) -> "Submission":
        """Raises:
        Damaged: the file is no submission.
        """
        record = records.read(path)
        if record is None:
            raise Damaged(path, "is empty: a power cut left nothing of it, or somebody did")
        try:
            return cls.from_json(record)
        except (TypeError, KeyError) as error:
            raise Damaged(path, f"is no submission ({error!r})") from None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Submission":
        """A submission from its record.

        Raises:
            TypeError, KeyError: the record is no submission's.
        """
        return cls(**{**record, "trials": [Assignment(**trial) for trial in record["trials"]]})


@dataclass(frozen=True)
class JobRef:
    """A job as its launcher knows it.

    Attributes:
        launcher: "slurm", "local" or "blocking".
        id: Slurm's job id ("12" or "12_3"), the pid of a local job's controller, or a blocking launcher's trial.
        process: the controller of a local job; None on Slurm.
        marker: what the environment of all processes of a local job says, so that none is overlooked.
    """

    launcher: str
    id: str
    process: dict[str, Any] | None = None
    marker: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """trial.json: written by the driver before anything is submitted.

    Attributes:
        overrides: what the job composes its config from, in Hydra's grammar.
        params: what was sampled, as the study has it.
        distributions: of each parameter, in Optuna's JSON, so that the study can be made again from its folder.
        study: uid of the study that asked for the trial; None in a record of format 1, which stays one.
        attempt: 1 and up; a lost attempt is followed by the next.
        submission: uuid of the present attempt's submission; None before the first.
        worker: name of the worker that was to take that submission; None if the launcher was.
        launcher: whose fleet was given that submission.
        index: the trial's element in it.
        job: the launcher's answer; None until it has answered.
        unclaimed: jobs in a row before the present one that ended without a claim.
        timeouts: jobs before the present one that their time limit killed.
        memory: factor on the memory that the launcher asks for; it grows when a job ran out of it.
        request: id of the request by which a person asked for the trial; None if the sampler proposed it.
        retry_of: number of the trial whose parameters that person asked to try again.
    """

    number: int
    overrides: list[str]
    params: dict[str, Any]
    distributions: dict[str, str] = field(default_factory=dict)
    study: str | None = None
    attempt: int = 1
    submission: str | None = None
    launcher: str = ""
    index: int = 0
    job: JobRef | None = None
    unclaimed: int = 0
    timeouts: int = 0
    memory: float = 1.0
    request: str | None = None
    retry_of: int | None = None
    worker: str | None = None

    @property
    def identity(self) -> Identity:
        return Identity(self.study, records.digest(self.params))

    @classmethod
    def read(cls, path: Path) -> "TrialRecord | None":
        """The record, or None if there is none or a power cut left it empty.

        Raises:
            Damaged: the file is no trial's record.
        """
        record = records.read(path)
        if record is None:
            return None
        try:
            job = record.get("job")
            return cls(**{**_known(cls, record), "job": JobRef(**_known(JobRef, job)) if job else None})._checked()
        except (TypeError, AttributeError) as error:
            raise Damaged(path, f"is no trial's record ({error})") from None

    def _checked(self) -> "TrialRecord":
        """Raises:
        TypeError: a field is of another type than it should be.
        """
        wanted = {"number": int, "overrides": list, "params": dict, "attempt": int, "distributions": dict, "index": int}
        for name, kind in wanted.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {getattr(self, name)!r}")
        return self

    def write(self, path: Path, synced: bool = True) -> None:
        record = {**vars(self), "job": self.job and vars(self.job)}  # asdict would copy all that is in it
        if self.study is not None:
            records.write(path, record, synced)
            return
        # A job of a study that an earlier version began may read this: it knows no other fields than these.
        for name in ("study", "distributions", "memory", "request", "retry_of", "worker"):
            del record[name]
        if self.job is not None:
            record["job"] = {name: value for name, value in vars(self.job).items() if name != "marker"}
        records.write(path, record, synced, form=1)


def _known(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries of a record that the dataclass `kind` has a field for."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in record.items() if name in names}
