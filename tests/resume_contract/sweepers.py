"""The sweepers that the contract is put to: how to type the same sweep for each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

BASIC = "basic launcher"
PROCESSES = "submitit_local"


@dataclass(frozen=True)
class Launcher:
    """Where jobs run.

    Attributes:
        overrides: that choose it.
        slots: jobs at a time.
        outlive: whether a job lives on when its controller is killed.
    """

    overrides: tuple[str, ...]
    slots: int
    outlive: bool


@dataclass(frozen=True)
class Sweeper:
    """A sweeper, as what one types.

    Attributes:
        name: for tables and tests.
        overrides: that choose it and that all commands have.
        persistent: where it keeps what a resume needs; a path is relative to the folder of the command.
        total: the override that sets the sweep's total, with {} for the number.
        slots: the override that sets how many jobs there are at a time, with {} for the number.
        space: the search space of x, a float.
        other_space: another one, which makes another sweep.
        other_direction: an override that turns the direction around; the application's value is minimized by default.
        aggregate: the file in the sweep's folder that says the best value and its parameters.
        launchers: to try it with.
        contract: whether each point is to hold at each moment.
    """

    name: str
    overrides: tuple[str, ...]
    persistent: tuple[str, ...]
    total: str = "hydra.sweeper.n_trials={}"
    slots: str = "hydra.sweeper.n_jobs={}"
    space: str = "x=interval(0.0,1.0)"
    other_space: str = "x=interval(0.0,2.0)"
    other_direction: str = "hydra.sweeper.direction=maximize"
    aggregate: str = "optimization_results.yaml"
    launchers: Mapping[str, Launcher] = field(
        default_factory=lambda: {
            BASIC: Launcher((), slots=1, outlive=False),
            PROCESSES: Launcher(("hydra/launcher=submitit_local",), slots=2, outlive=True),
        }
    )
    contract: bool = False


SWEEPERS = {
    sweeper.name: sweeper
    for sweeper in (
        Sweeper(
            "optuna",
            ("hydra/sweeper=optuna", "hydra.sweeper.max_failure_rate=1.0"),
            (
                "hydra.sweeper.storage=sqlite:///study.db",
                "hydra.sweeper.study_name=contract",
                "hydra.sweep.dir=sweep",
            ),
        ),
        Sweeper(
            "trialfleet",
            ("hydra/sweeper=trialfleet", "hydra.sweeper.tracking.uri=null"),
            ("hydra.sweeper.study_name=contract",),
            contract=True,
        ),
    )
}
