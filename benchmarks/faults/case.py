"""A study that is said to be finished, and what may be wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("lost", "doubled", "left running", "wrong")


@dataclass(frozen=True)
class Case:
    """A study that is said to be finished.

    Attributes:
        place: where its command was typed; all of its processes bear this path.
        storage: Optuna URL; None for the journal in its folder.
        misdeeds: what its trials did besides their work.
        forgives: types of errors with which a trial may have failed for what was done to it.
        environment: that makes Slurm's commands speak to the study's cluster; None without one.
        seconds: how long it took.
        began_anew: whether it was put aside on the way for a fresh one.
    """

    place: Path
    folder: Path
    name: str
    storage: str | None
    tracking: Path
    side: Path
    said: str
    n_trials: int
    steps: int
    misdeeds: Sequence[str]
    forgives: frozenset[str]
    environment: dict[str, str] | None
    seconds: float
    began_anew: bool


@dataclass(frozen=True, order=True)
class Problem:
    kind: str  # one of KINDS
    text: str
