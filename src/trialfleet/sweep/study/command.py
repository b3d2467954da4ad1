"""command.json: what the study's last command said, for those who look at the study without being its driver.

study.yaml says what the study is and never loses it; this is what a command may change from one time to the next.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trialfleet.trial import records
from trialfleet.trial.records import Damaged

NAME = "command.json"  # in the study's folder


@dataclass(frozen=True)
class Command:
    """What a driver was told.

    Attributes:
        resume: the command that goes on with the study, as a person types it, without passwords.
        n_trials: the study's total, without the trials that people asked to try again.
        metrics: names of the objectives.
        directions: minimize or maximize, for each of them.
        constraints: bounds by metric, as `hydra.sweeper.constraints` has them.
        reports: the metric whose reports a pruner judges; None without a pruner.
        takes_constraints: whether the sampler learns from violated constraints.
        sampler: its class.
        launcher: the class of the launcher.
        fixed: the overrides that all trials have.
        ignored: keys of the application's config, or parents of them, that say nothing about what a trial computes.
        python_path: where jobs import the application's code from.
        tracking: MLflow's address without its password, and the experiment there; empty without MLflow.
        started: Unix seconds.
    """

    resume: str
    n_trials: int
    n_jobs: int
    metrics: list[str]
    directions: list[str]
    constraints: dict[str, str] = field(default_factory=dict)
    reports: str | None = None
    takes_constraints: bool = False
    sampler: str = ""
    launcher: str = ""
    fixed: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    python_path: str = ""
    tracking: dict[str, str] = field(default_factory=dict)
    started: float = 0.0


def write(folder: Path, command: Command) -> None:
    records.write(folder / NAME, asdict(command), synced=False)


def read(folder: Path) -> Command | None:
    """What the last driver was told; None if that cannot be read, or the study is an earlier version's."""
    try:
        record: dict[str, Any] | None = records.read(folder / NAME)
        if record is None:
            return None
        known = {one.name for one in fields(Command)}
        return Command(**{key: value for key, value in record.items() if key in known})
    except (Damaged, TypeError):
        return None
