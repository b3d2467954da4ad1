"""What a report is of: one study as it stood at one moment, read once for all of its parts."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trialfleet.review.report import account, curves, failures, importance, runs
from trialfleet.review.report.account import Account
from trialfleet.review.report.axes import Axis, metric_axis, parameter_axis
from trialfleet.review.report.curves import Curve
from trialfleet.review.report.failures import Cause
from trialfleet.review.report.runs import Run
from trialfleet.review.studies import Study
from trialfleet.sweep.study.index import ENDED, TrialRow
from trialfleet.sweep.ui.screen import short_names

Floats = NDArray[np.float64]
BEST_PART = 0.1  # of the complete trials, which pictures tell from the others


@dataclass(frozen=True)
class Ended:
    """The trials that have ended, in the order of their ends.

    Attributes:
        hours: of devices that had been spent when each had ended: on it and those before, and on runs that were lost.
        values: of the first objective; NaN of a trial that is not complete.
        best: places in `rows` of trials that were better than all before.
    """

    rows: list[TrialRow]
    hours: Floats
    values: Floats
    best: list[int]


class View:
    """One study for one report.

    Args:
        now: Unix seconds.
        driven: False if the driver that holds the study is about to leave it.
    """

    def __init__(self, study: Study, now: float | None = None, driven: bool = True) -> None:
        self.study = study
        self._driven = driven
        self.now = time.time() if now is None else now

    @property
    def state(self) -> str:
        """As `Study.state`; finished, too, while the driver of a study whose trials have all ended has not left."""
        study = self.study
        if study.total is not None and study.finished >= study.total:
            return "finished"
        return study.state if self._driven else "stopped"

    # ---------------------------------------------------------------- trials

    @cached_property
    def runs(self) -> list[Run]:
        return runs.runs_of(self.study, self.now)

    @cached_property
    def account(self) -> Account:
        return account.account_of(self.study, self.runs)

    @cached_property
    def causes(self) -> list[Cause]:
        return failures.causes(self.study, self.runs)

    @cached_property
    def curves(self) -> dict[str, list[Curve]]:
        return curves.curves(self.study, curves.curve_metrics(self.study))

    @cached_property
    def complete(self) -> list[TrialRow]:
        """Complete trials that have a value for each objective, by number."""
        count = len(self.study.metrics)
        return [row for row in self.study.rows if row.state == "COMPLETE" and row.values and len(row.values) == count]

    @cached_property
    def values(self) -> Floats:
        """Of `complete`: rows are trials, columns objectives."""
        table = np.array([row.values for row in self.complete], dtype=float)
        return table.reshape(len(self.complete), len(self.study.metrics))

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """Which of `complete` are the best tenth by the only objective, or on the Pareto front."""
        if len(self.study.metrics) > 1:
            return np.array([row.number in self.study.best_numbers for row in self.complete], dtype=bool)
        marked = np.zeros(len(self.complete), dtype=bool)
        keeps = [self.study.keeps_bounds(row) for row in self.complete]
        losses = np.where(keeps, self.losses(0), math.inf)
        count = max(1, round(BEST_PART * len(losses)))
        order = np.argsort(losses, kind="stable")[:count]
        marked[order[np.isfinite(losses[order])]] = True
        return marked

    def losses(self, objective: int) -> Floats:
        """An objective's values, turned so that less is better."""
        return self.values[:, objective] * (1.0 if self.study.directions[objective] == "minimize" else -1.0)

    def best_of(self, objective: int) -> TrialRow | None:
        """The best trial by one objective: of several objectives the best of the front."""
        sign = 1.0 if self.study.directions[objective] == "minimize" else -1.0
        front = [row for row in self.study.front if row.values]
        return min(front, key=lambda row: sign * (row.values or [0.0])[objective], default=None)

    @cached_property
    def ended(self) -> Ended:
        rows = [row for row in self.study.rows if row.state in ENDED]
        rows.sort(key=lambda row: (row.ended or 0.0, row.number))
        took = {run.trial: run.seconds for run in self.runs if run.state in ENDED}  # of a run that does not say so
        seconds = [took.get(row.number, 0.0) if row.seconds is None else row.seconds for row in rows]
        lost = sorted((run.end, run.seconds) for run in self.runs if run.state == runs.LOST)
        before = np.searchsorted([end for end, _ in lost], [row.ended or 0.0 for row in rows], side="right")
        of_lost = np.cumsum([0.0, *(took for _, took in lost)])[before]
        hours = (np.cumsum(seconds) + of_lost) * self.account.devices / 3600
        values = np.array([_value(row) for row in rows], dtype=float)
        sign = 1.0 if self.study.directions[0] == "minimize" else -1.0
        best, least = [], math.inf
        for place, row in enumerate(rows):
            if sign * values[place] < least and self.study.keeps_bounds(row):
                least = sign * values[place]
                best.append(place)
        return Ended(rows, hours, values, best)

    # ---------------------------------------------------------------- parameters

    @cached_property
    def axes(self) -> list[Axis]:
        """Of the parameters that were searched over, the most important first."""
        space, rows = self.study.space, self.study.rows
        names = dict.fromkeys([*space, *(name for row in rows for name in row.params)])
        found = [parameter_axis(name, [row.params.get(name) for row in rows], space.get(name)) for name in names]
        shares = self.importances[0] if self.importances else {}
        return sorted(found, key=lambda axis: -shares.get(axis.name, 0.0))

    @cached_property
    def importances(self) -> list[dict[str, float]]:
        """What each parameter's choice explains of each objective, in parts of 1, the most important first; empty
        where there are too few trials to say."""
        space = self.study.space
        names = dict.fromkeys([*space, *(name for row in self.complete for name in row.params)])
        axes = [
            parameter_axis(name, [row.params.get(name) for row in self.complete], space.get(name)) for name in names
        ]
        found = [
            importance.importances(axes, self.complete, self.losses(place)) for place in range(len(self.study.metrics))
        ]
        return found if all(found) else []

    @cached_property
    def short(self) -> dict[str, str]:
        """Names of parameters, as short as tells them apart."""
        return short_names(list(dict.fromkeys([*self.study.space, *(n for r in self.study.rows for n in r.params)])))

    def objective_axis(self, objective: int, more: Sequence[float] = ()) -> Axis:
        """Args:
        more: values besides those of complete trials.
        """
        best = self.best_of(objective)
        value = None if best is None or best.values is None else best.values[objective]
        found = np.concatenate([self.values[:, objective], np.array(more, dtype=float)])
        return metric_axis(self.study.metrics[objective], found, value)


def _value(row: TrialRow) -> float:
    return row.values[0] if row.state == "COMPLETE" and row.values else math.nan
