"""The best trial among those around it: whether a value is a point or a region, and how much of it is chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trialfleet.review.report.axes import Axis
from trialfleet.sweep.study.index import TrialRow

NEAREST = 8


@dataclass(frozen=True)
class Neighbour:
    """A trial near the best one.

    Attributes:
        distance: from 0, the same parameters, to 1: the other end of all of them.
    """

    row: TrialRow
    distance: float


def nearest(best: TrialRow, rows: Sequence[TrialRow], axes: Sequence[Axis], count: int = NEAREST) -> list[Neighbour]:
    """The complete trials nearest to one, by the root mean square over the parameters' axes.

    A choice, or a parameter that only one of the two has, counts as the whole length of its axis if it differs.
    """
    others = [row for row in rows if row.number != best.number]
    if not others or not axes:
        return []
    total = np.zeros(len(others))
    for axis in axes:
        places = axis.places([row.params.get(axis.name) for row in others])
        own = axis.places([best.params.get(axis.name)])[0]
        apart = np.abs(places - own) / ((axis.high - axis.low) or 1.0)
        if axis.kind == "category":
            apart = np.where(places == own, 0.0, 1.0)
        missing = np.isnan(places)
        apart = np.where(missing, 0.0 if np.isnan(own) else 1.0, np.where(np.isnan(own), 1.0, apart))
        total += np.minimum(apart, 1.0) ** 2
    distances = np.sqrt(total / len(axes))
    order = np.lexsort((np.array([row.number for row in others]), distances))[:count]
    return [Neighbour(others[at], float(distances[at])) for at in order]
