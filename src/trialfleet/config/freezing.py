"""Schema of the group `freezing`: which parameters are trained, and from when on."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from trialfleet.config.traced import STRICT, Host


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RateBoost:
    """Raises a group's rate, once, at the end of the epoch in which enough of it is trained."""

    group: str  # whose rate is raised
    share: Annotated[float, Gt(0), Le(1)]  # of the group's parameters that must be trained
    of_group: str  # the new rate is `factor` times this group's
    factor: Annotated[float, Gt(0)]  # times `of_group`'s rate


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Freezing:
    never: tuple[str, ...]  # regular expressions of paths that are never trained: they cost no memory


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoFreezing(_Freezing):
    """Everything else is trained from the start."""

    name: Literal["none"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Progressive(_Freezing):
    """A further unit every `every_epochs` epochs."""

    name: Literal["progressive"]
    every_epochs: Annotated[Host[int], Ge(1)]  # epochs between two units
    max_units: Annotated[Host[int], Ge(0)]  # so many are released in all
    rate_boost: Host[RateBoost | None]  # raises a group's rate once enough of it is trained; null: never


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Adaptive(_Freezing):
    """A further unit whenever the objective has not improved for `patience` evaluations."""

    name: Literal["adaptive"]
    patience: Annotated[Host[int], Ge(1)]  # evaluations without an improvement after which a unit is released
    min_delta: Annotated[Host[float], Ge(0)]  # what counts as an improvement
    max_units: Annotated[Host[int], Ge(0)]  # so many are released in all
    rate_boost: Host[RateBoost | None]  # raises a group's rate once enough of it is trained; null: never


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Scheduled(_Freezing):
    """A further unit at each of these epochs."""

    name: Literal["scheduled"]
    epochs: Host[tuple[int, ...]]  # a unit is released at the start of each
    rate_boost: Host[RateBoost | None]  # raises a group's rate once enough of it is trained; null: never


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Staged(_Freezing):
    """Stages, in each of which some units are trained: what one trains another may hold again."""

    name: Literal["staged"]
    stages: Annotated[Host[tuple[tuple[str, ...], ...]], MinLen(1)]  # the units that are trained, for each stage
    epochs: Host[tuple[int, ...]]  # at the start of each the next stage begins

    def problems(self) -> list[str]:
        """What contradicts itself, a line for each."""
        if len(self.epochs) == len(self.stages) - 1 and list(self.epochs) == sorted(set(self.epochs)):
            return []
        return [
            f"freezing.epochs: {list(self.epochs)}, and there are {len(self.stages)} stages; give the epoch at whose "
            "start each of them begins but for the first, in rising order"
        ]


Freezing = Annotated[NoFreezing | Progressive | Adaptive | Scheduled | Staged, Field(discriminator="name")]
