"""How the study stands: trials by state, the best so far, and optimization_results.yaml."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trialfleet.trial.result import OUT_OF_MEMORY

if TYPE_CHECKING:  # whoever reads a study without Optuna starts in half of the time
    from optuna.trial import FrozenTrial

FAILURE = "trialfleet:error"  # user attribute of a failed trial: what went wrong

CANCELLED = "Cancelled"  # the type of the error of trials that somebody cancelled
NO_MEMORY = "OUT_OF_MEMORY"  # counts of its own, whichever of Optuna's states the sampler makes the most of


@dataclass(frozen=True)
class Finished:
    """A trial that is told."""

    number: int
    state: str  # Optuna's word
    values: Sequence[float] | None  # of a complete trial
    params: Mapping[str, Any]
    error: str | None = None
    seconds: float | None = None
    feasible: bool = True  # whether all constraints are kept
    ended: float | None = None  # Unix seconds

    @classmethod
    def of(cls, trial: "FrozenTrial", seconds: float | None) -> "Finished":
        """A trial of the study that is told, for counting and comparing."""
        values = trial.values if trial.state.name == "COMPLETE" else None
        feasible = all(violation <= 0 for violation in trial.constraints.values())
        error = trial.user_attrs.get(FAILURE)
        ended = None if trial.datetime_complete is None else trial.datetime_complete.timestamp()
        return cls(trial.number, trial.state.name, values, trial.params, error, seconds, feasible, ended)


@dataclass
class StudyProgress:
    """Counts and the best; kept up with each finished trial, never by going through all of them again.

    Args:
        directions: "minimize" or "maximize" for each objective.
    """

    directions: Sequence[str]
    states: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)  # of failures: the types of their errors
    cancelled: int = 0
    front: list[Finished] = field(default_factory=list)  # one best trial, or the Pareto front of several objectives
    mean_seconds: float | None = None  # of finished trials, each from its first claim

    def add(self, trial: Finished) -> bool:
        """Count a finished trial. Returns whether the best changed."""
        no_memory = trial.error is not None and trial.error.startswith(f"{OUT_OF_MEMORY}:")
        self.states[NO_MEMORY if no_memory else trial.state] += 1
        if trial.error is not None:
            self.causes[cause(trial.error)] += 1
        self.cancelled += trial.error is not None and trial.error.startswith(f"{CANCELLED}:")
        if trial.seconds is not None:
            count = sum(self.states.values())
            mean = trial.seconds if self.mean_seconds is None else self.mean_seconds
            self.mean_seconds = mean + (trial.seconds - mean) / min(count, 20)
        if trial.state != "COMPLETE" or trial.values is None or not trial.feasible:
            return False
        if any(self._stands_before(other, trial) for other in self.front):
            return False
        self.front = [other for other in self.front if not self._stands_before(trial, other)] + [trial]
        return True

    @property
    def finished(self) -> int:
        return sum(self.states.values())

    @property
    def failed(self) -> int:
        """Trials that failed, without those that somebody cancelled or that wanted more memory than there is."""
        return self.states["FAIL"] - self.cancelled

    def losses(self, trial: Finished) -> list[float]:
        """The values of a complete trial, turned so that less is better."""
        assert trial.values is not None
        return [v if d == "minimize" else -v for v, d in zip(trial.values, self.directions, strict=True)]

    def _stands_before(self, one: Finished, other: Finished) -> bool:
        """Whether `one` keeps `other` from being best. As in Optuna, the lower number is best of equals; on a front
        equal values of different trials all count."""
        if len(self.directions) == 1:
            return (self.losses(one), one.number) < (self.losses(other), other.number)
        return self._dominates(one, other)

    def _dominates(self, one: Finished, other: Finished) -> bool:
        mine, theirs = self.losses(one), self.losses(other)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    def results(self) -> dict[str, Any]:
        """What optimization_results.yaml says, in upstream's form."""
        if len(self.directions) == 1:
            if not self.front:
                return {"name": "optuna", "best_params": {}, "best_value": None}
            best = self.front[0]
            assert best.values is not None
            return {"name": "optuna", "best_params": dict(best.params), "best_value": best.values[0]}
        solutions = [{"params": dict(t.params), "values": list(t.values or ())} for t in self._ordered()]
        return {"name": "optuna", "solutions": solutions}

    def _ordered(self) -> list[Finished]:
        return sorted(self.front, key=lambda trial: trial.number)


def cause(error: str) -> str:
    """The type of an error that is written `type: message`."""
    return error.partition(":")[0].strip()[:60] or "unknown"


def write_results(path: Path, progress: StudyProgress) -> None:
    """Rewrite optimization_results.yaml, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(yaml.safe_dump(progress.results(), sort_keys=False))
    temporary.replace(path)
