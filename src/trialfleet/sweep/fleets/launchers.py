"""Which fleet runs the jobs of which Hydra launcher.

Fleets for other launchers are found by entry points of the group `trialfleet.fleets`, each of which names a
`FleetFactory`. So a package of its own can add one for PBS, say, beside a launcher plugin of Hydra's.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher

from trialfleet.compat.submitit import executor_of
from trialfleet.errors import UserError
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.fleets.blocking import BlockingFleet
from trialfleet.sweep.fleets.local import LocalFleet
from trialfleet.sweep.fleets.slurm import SlurmFleet, script_parameters

GROUP = "trialfleet.fleets"


@dataclass(frozen=True)
class FleetContext:
    """What a fleet may want to know of its study.

    Attributes:
        submissions: the folder of submissions and scripts.
        environment: what jobs have in their environment besides the driver's.
        settle: seconds after a job's end before its files are taken for final.
        imports: modules that jobs import, where these may be forked from a process that has them; None if not.
    """

    submissions: Path
    environment: Mapping[str, str]
    settle: float
    imports: Sequence[str] | None = None


class FleetFactory(ABC):
    """Makes the fleets of one kind of launcher.

    Attributes:
        name: of the launcher in trial.json and in claims, where jobs name it before the colon.
        takes_copy: whether its jobs run the study's copy of the code, and not the driver's own.
    """

    name: str
    takes_copy = True

    @abstractmethod
    def takes(self, launcher: Launcher) -> bool:
        """Whether this Hydra launcher's jobs are run by fleets of this kind."""

    @abstractmethod
    def starting(self, launcher: Launcher, context: FleetContext) -> Fleet:
        """The fleet for new jobs.

        Raises:
            UserError: the launcher's settings are refused.
        """

    def processes(self, launcher: Launcher) -> int | None:
        """Processes of each job; None if nobody knows. Jobs of one process may run one trial after another."""
        return None

    def check(self, launcher: Launcher) -> None:  # noqa: B027  # many have nothing to check
        """Raises:
        UserError: what the launcher needs is not there. Nothing has been made yet.
        """

    def following(self, context: FleetContext) -> Fleet | None:
        """The fleet for jobs that an earlier driver started; None where they cannot be followed."""
        return None


class _Local(FleetFactory):
    name = "local"

    def takes(self, launcher: Launcher) -> bool:
        return executor_of(launcher) == "local"

    def processes(self, launcher: Launcher) -> int:
        return int(parameters(launcher)["tasks_per_node"] or 1)

    def check(self, launcher: Launcher) -> None:
        LocalFleet.check(parameters(launcher))

    def starting(self, launcher: Launcher, context: FleetContext) -> Fleet:
        return LocalFleet(parameters(launcher), context.environment, context.imports)

    def following(self, context: FleetContext) -> Fleet:
        return LocalFleet(None, context.environment)


class _Slurm(FleetFactory):
    name = "slurm"

    def takes(self, launcher: Launcher) -> bool:
        return executor_of(launcher) == "slurm"

    def processes(self, launcher: Launcher) -> int | None:
        given = parameters(launcher)
        more = {str(key).replace("_", "-") for key in given.get("additional_parameters") or {}}
        if {"ntasks", "nodes", "ntasks-per-node"} & more:
            return None
        return int(given.get("nodes") or 1) * int(given.get("tasks_per_node") or 1)

    def check(self, launcher: Launcher) -> None:
        missing = [command for command in ("sbatch", "squeue", "scancel", "srun") if shutil.which(command) is None]
        if missing:
            raise UserError(
                f"hydra/launcher=submitit_slurm: {', '.join(missing)} cannot be found on PATH",
                "run this where Slurm is installed, or use hydra/launcher=submitit_local",
            )
        script_parameters(parameters(launcher), Path.cwd())

    def starting(self, launcher: Launcher, context: FleetContext) -> Fleet:
        given = parameters(launcher)
        return SlurmFleet(
            script_parameters(given, context.submissions),
            given.get("python"),
            given["array_parallelism"],
            context.submissions,
            context.environment,
            context.settle,
        )

    def following(self, context: FleetContext) -> Fleet | None:
        if not shutil.which("squeue"):
            return None
        return SlurmFleet(None, None, 0, context.submissions, {}, context.settle)


class _Blocking(FleetFactory):
    """For any other launcher: its jobs cannot be followed once they are launched."""

    name = "blocking"
    takes_copy = False

    def takes(self, launcher: Launcher) -> bool:
        return True

    def starting(self, launcher: Launcher, context: FleetContext) -> Fleet:
        return BlockingFleet(launcher)

    def following(self, context: FleetContext) -> Fleet:
        return BlockingFleet(None)  # reports the jobs of an earlier driver as over


def parameters(launcher: Launcher) -> Mapping[str, Any]:
    """The settings of a launcher that submits, as upstream's keep them; empty for others."""
    found: Mapping[str, Any] = getattr(launcher, "params", {})
    return found


def factories() -> list[FleetFactory]:
    """All kinds of fleets, those of other packages first.

    Raises:
        UserError: an entry point names something else.
    """
    found: list[FleetFactory] = []
    for point in entry_points(group=GROUP):
        try:
            made = point.load()()
        except Exception as error:
            raise UserError(f"the entry point {GROUP}:{point.name} cannot be loaded: {error!r}", _FIX) from error
        if not isinstance(made, FleetFactory):
            raise UserError(f"the entry point {GROUP}:{point.name} names {point.value}, which is no FleetFactory", _FIX)
        found.append(made)
    return [*found, _Local(), _Slurm(), _Blocking()]


_FIX = "correct or remove the package that has it"


def factory_of(launcher: Launcher, kinds: Sequence[FleetFactory] | None = None) -> FleetFactory:
    """The kind of fleet for a launcher's jobs, of these or of all."""
    return next(one for one in kinds or factories() if one.takes(launcher))


def make_fleets(launcher: Launcher, context: FleetContext) -> tuple[dict[str, Fleet], Fleet]:
    """All fleets of a study, and the one of them for new jobs.

    The others follow jobs which an earlier driver started with another launcher.
    """
    kinds = factories()
    chosen = factory_of(launcher, kinds)
    started = chosen.starting(launcher, context)
    made = {chosen.name: started}
    for factory in kinds:
        if factory.name not in made and (follower := factory.following(context)) is not None:
            made[factory.name] = follower
    return made, started
