"""Numbers, times and search spaces in words, as reports say them."""

from datetime import UTC, datetime

import numpy as np

from trialfleet.review.report.axes import category, read_distribution
from trialfleet.review.tables import number


def searched(distribution: str) -> str:
    """What a parameter was searched over.

    Args:
        distribution: Optuna's JSON.
    """
    kind, told = read_distribution(distribution)
    if kind == "CategoricalDistribution":
        return f"one of {', '.join(map(category, told.get('choices', ())))}"
    if "low" not in told or "high" not in told:
        return distribution
    whole = "whole numbers from " if kind == "IntDistribution" else ""
    step = told.get("step")
    steps = f", in steps of {number(step)}" if step is not None and (step != 1 or not whole) else ""
    said = f"{whole}{number(told['low'])} to {number(told['high'])}{steps}"
    return f"{said}, evenly by the logarithm" if told.get("log") else said


def moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def begun(created: str) -> str:
    """When a study began, by its record's text."""
    try:
        return moment(datetime.fromisoformat(created).timestamp())
    except ValueError:
        return created


def hours_text(hours: float) -> str:
    """Hours, or minutes and seconds of what is less."""
    if hours >= 10:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def quartiles(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> str:
    low, high = np.quantile(values, [0.25, 0.75])
    return f"{low:.4g} and {high:.4g}"


def between(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
