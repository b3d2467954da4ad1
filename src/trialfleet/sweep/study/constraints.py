"""Bounds that a trial's metrics must keep for the trial to count as feasible."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trialfleet.errors import UserError

MISSING = 1e30  # violation of a bound whose metric was never reported: finite, so that any storage can hold it

_BOUND = re.compile(r"\s*(<=|>=)\s*(\S+)\s*$")


@dataclass(frozen=True)
class Constraint:
    """`metric` <= `bound`, or >= if `at_least`."""

    metric: str
    bound: float
    at_least: bool

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much the bound is missed; zero or less if it is kept. Not a number counts as missed."""
        value = metrics.get(self.metric)
        if value is None or value != value:
            return MISSING
        excess = self.bound - value if self.at_least else value - self.bound
        return min(excess, MISSING)


def parse(bounds: Mapping[str, str] | None) -> list[Constraint]:
    """`hydra.sweeper.constraints`, a mapping from metric to "<= number" or ">= number"; None is none.

    Raises:
        UserError: a bound that is none, named.
    """
    constraints = []
    for metric, text in (bounds or {}).items():
        found = _BOUND.match(text)
        try:
            bound = math.nan if found is None else float(found.group(2))
            if found is None or math.isnan(bound):
                raise ValueError(text)
            constraints.append(Constraint(metric, bound, found.group(1) == ">="))
        except ValueError:
            raise UserError(
                f"hydra.sweeper.constraints.{metric}: {text!r} is no bound", "write it as '<= 0.5' or '>= 0.9'"
            ) from None
    return constraints
