"""A trial's directory: who may run it, who runs it, and how it ended.

    trial.json          overrides, attempt, submission; written by the driver before anything is submitted
    verdict.json        the driver's request to stop, read by whoever runs the trial
    runs/1.0/claim      created exclusively: attempt 1, restart 0 belongs to one process
    result.json         the commit point: linked into being once, by whoever is first

Two runs of one trial can be alive at once (a node that Slurm lost goes on running while the requeued job
runs elsewhere). Claims are ordered by (attempt, restart); only the newest may commit.
"""

import math
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from trialfleet.tracking import records
from trialfleet.tracking.processes import Process

TIME_LIMIT = "time_limit.json"  # in a run's folder: the run saved and left because of its job's time limit


class TrialState(StrEnum):
    """How a trial ended, in Optuna's words."""

    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Result:
    """What result.json says.

    Attributes:
        objectives: the task's return value, one number for each direction; None unless COMPLETE.
        error: {"type", "message", "traceback"} of a failure, or why a trial was given up.
        seconds: where the time went, by part.
        run: label of the run that committed ("2.0"), or None when the driver did.
        notes: what else the run had to say of itself.
    """

    state: TrialState
    objectives: Sequence[float] | None
    error: dict[str, str] | None
    seconds: dict[str, float]
    run: str | None
    notes: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "objectives": self.objectives,
            "error": self.error,
            "seconds": self.seconds,
            "run": self.run,
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Result":
        values = record["objectives"]
        objectives = None if values is None else [records.number(value) for value in values]
        return cls(
            TrialState(record["state"]),
            objectives,
            record["error"],
            record["seconds"],
            record["run"],
            record["notes"],
        )


@dataclass(frozen=True, order=True)
class Claim:
    """Run `attempt`.`restart` of a trial belongs to `process`, which is (part of) `job`."""

    attempt: int
    restart: int  # how often Slurm had restarted the job when this run began
    label: str  # the run's directory: "1.0"
    job: str  # the job's identity: the same for all restarts of a Slurm job
    process: Process
    node: str  # where it runs, by the launcher's name for it

    def newer_than(self, other: "Claim") -> bool:
        return (self.attempt, self.restart) > (other.attempt, other.restart)


class NotClaimed(Exception):
    """This process may not run the trial: somebody else does, did, or will. Not an error."""


class TrialDir:
    """The files of one trial. Makes nothing on its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trial_json = path / "trial.json"
        self.verdict_json = path / "verdict.json"
        self.result_json = path / "result.json"
        self.runs = path / "runs"
        self._claims: dict[str, Claim] = {}  # those that were read; a claim never changes

    def run_dir(self, label: str) -> Path:
        return self.runs / label

    def result(self) -> Result | None:
        if not os.access(self.result_json, os.F_OK):  # mostly it is not there, and this is told sooner than by an error
            return None
        record = records.read(self.result_json)
        return None if record is None else Result.from_json(record)

    def commit(self, result: Result) -> bool:
        """End the trial, once. False if it had ended already: the result that is there is the truth."""
        return records.create(self.result_json, result.to_json())

    def claims(self) -> list[Claim]:
        """All claims, oldest first."""
        for label in self.run_labels():
            if label not in self._claims:
                record = records.read(self.run_dir(label) / "claim")
                if record is not None:
                    process = Process.from_json(record["process"])
                    order, job, node = (record["attempt"], record["restart"]), record["job"], record["node"]
                    self._claims[label] = Claim(*order, label, job, process, node)
        return sorted(self._claims.values(), key=lambda claim: (claim.attempt, claim.restart))

    def run_labels(self) -> list[str]:
        """The runs that the trial has, oldest first."""
        try:
            labels = os.listdir(self.runs)  # noqa: PTH208  # asked very often
        except FileNotFoundError:
            return []
        return sorted(labels, key=_order) if len(labels) > 1 else labels

    def claim(self, attempt: int, job: str, restart: int) -> Claim:
        """Claim attempt `attempt` for this process of `job`, or learn that it must not run.

        The first run of an attempt is k.0: creating it exclusively is what makes the attempt the job's own.
        A job that Slurm requeued keeps its id, finds its own k.0 and creates k.<restart>.

        Raises:
            NotClaimed: the trial has ended, the attempt is another job's, or a newer run exists.
        """
        if self.result_json.exists():
            raise NotClaimed("the trial has ended")
        claims = self.claims()
        own = [claim for claim in claims if claim.attempt == attempt]
        if claims and (claims[-1].attempt > attempt):
            raise NotClaimed(f"attempt {claims[-1].attempt} exists")
        if own and own[0].job != job:
            raise NotClaimed(f"attempt {attempt} belongs to {own[0].job}")
        if own and own[-1].restart >= restart:
            raise NotClaimed(f"restart {own[-1].restart} of attempt {attempt} exists")
        label = f"{attempt}.{restart if own else 0}"
        own_process = Process.own()
        node = os.environ.get("SLURMD_NODENAME", own_process.host)
        claim = Claim(attempt, restart, label, job, own_process, node)
        record = {"attempt": attempt, "restart": restart, "job": job, "process": own_process.to_json(), "node": node}
        if not records.create(self.run_dir(label) / "claim", record):
            raise NotClaimed(f"run {label} was claimed at the same moment")
        if self.result_json.exists():  # it may have ended between the first look and the claim
            raise NotClaimed("the trial has ended")
        return claim

    def superseded(self, claim: Claim) -> bool:
        """Whether a newer run of the trial exists: `claim`'s run must stop and may not commit."""
        return any(other.newer_than(claim) for other in self.claims())


def _order(label: str) -> tuple[int, ...]:
    return tuple(int(part) for part in label.split("."))


def judged(value: Any, n_objectives: int) -> tuple[TrialState, Sequence[float] | None, dict[str, str] | None]:
    """A task's return value as (state, objectives, error): a wrong one is a failure that says what it should be."""
    try:
        objectives = [float(value)] if n_objectives == 1 else [float(item) for item in value]
    except (TypeError, ValueError):
        objectives = []
    if len(objectives) == n_objectives and not any(math.isnan(item) for item in objectives):
        return TrialState.COMPLETE, objectives, None
    wanted = "a number" if n_objectives == 1 else f"{n_objectives} numbers"
    message = f"the task must return {wanted} (not NaN), it returned {value!r}"[:2000]
    return TrialState.FAIL, None, {"type": "WrongReturn", "message": message, "traceback": ""}


def described(failure: BaseException) -> dict[str, str]:
    """An exception as result.json records it."""
    trace = "".join(traceback.format_exception(failure))
    return {"type": type(failure).__name__, "message": str(failure)[:2000], "traceback": trace[-20000:]}
