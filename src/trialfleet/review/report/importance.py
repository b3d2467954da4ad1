"""Which parameters matter: Optuna's importances, of a study that is made in memory from the files' trials."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trialfleet.review.report.axes import Axis
from trialfleet.sweep.study.index import TrialRow

LEAST = 4  # trials


def importances(axes: Sequence[Axis], rows: Sequence[TrialRow], losses: NDArray[np.float64]) -> dict[str, float]:
    """Parts of 1 by parameter, the most important first (PED-ANOVA, https://arxiv.org/abs/2601.20800).

    Args:
        axes: of the parameters.
        rows: complete trials.
        losses: of each, less being better; those that are no finite numbers are left out.

    Returns:
        nothing if too few trials, or no parameter that could differ, leave nothing to be said.
    """
    known = [place for place in range(len(rows)) if math.isfinite(losses[place])]
    axes = [axis for axis in axes if axis.high > axis.low]
    if len(known) < LEAST or not axes or len(np.unique(losses[known])) < 2:
        return {}
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial

    kinds: dict[str, BaseDistribution] = {}
    columns: dict[str, list[float | int | None]] = {}
    for axis in axes:
        places = axis.places([rows[place].params.get(axis.name) for place in known])
        if axis.kind == "category":
            kinds[axis.name] = CategoricalDistribution(range(len(axis.categories)))
            columns[axis.name] = [None if math.isnan(place) else int(place) for place in places]
        else:  # by coordinates: those of a log axis are logarithms already
            kinds[axis.name] = FloatDistribution(axis.low, axis.high)
            clipped = np.clip(places, axis.low, axis.high)
            columns[axis.name] = [None if math.isnan(place) else float(place) for place in clipped]
    trials = []
    for at, place in enumerate(known):
        params = {name: value for name, column in columns.items() if (value := column[at]) is not None}
        trials.append(
            create_trial(params=params, distributions={name: kinds[name] for name in params}, value=losses[place])
        )
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        study.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the trials are few; `LEAST` is what counts here
            found = optuna.importance.get_param_importances(study)
    finally:
        optuna.logging.set_verbosity(level)
    return {name: float(share) for name, share in found.items()} if sum(found.values()) > 0 else {}
