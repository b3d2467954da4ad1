"""Axes: what a parameter's or an objective's values are on a line, and what stands beside the line."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["linear", "log", "category"]
Floats = NDArray[np.float64]

CATEGORIES = 24  # of one parameter that have a place of their own; what is rarer shares one
OTHERS = "(others)"
WIDE = 100.0  # the greatest positive value over the least, from which on a log axis shows more
TICKS = 7


@dataclass(frozen=True)
class Axis:
    """Where values lie: as they are, by their decimal logarithms, or by the numbers of their categories.

    Attributes:
        name: of the parameter or the metric.
        low, high: the ends, in coordinates of the axis.
        categories: texts of a parameter's choices, by their coordinate.
        whole: whether all values are whole numbers.
    """

    name: str
    kind: Kind
    low: float
    high: float
    categories: tuple[str, ...] = ()
    whole: bool = False

    def places(self, values: Sequence[Any]) -> Floats:
        """Coordinates of values; NaN of what is missing, is no finite number, or has no logarithm."""
        if self.kind == "category":
            known = {text: float(place) for place, text in enumerate(self.categories)}
            others = known.get(OTHERS, math.nan)
            return np.array(
                [math.nan if value is None else known.get(category(value), others) for value in values], dtype=float
            )
        found = np.array([_number(value) for value in values], dtype=float)
        if self.kind == "log":
            with np.errstate(divide="ignore", invalid="ignore"):
                found = np.log10(found)
        found[~np.isfinite(found)] = math.nan
        return found

    def share(self, places: Floats) -> Floats:
        """Coordinates as parts of the way from the low end to the high one."""
        return (places - self.low) / ((self.high - self.low) or 1.0)

    def edges(self, count: int) -> Floats:
        """Of `count` equal bins; a category or one of few whole numbers has a bin of its own."""
        if self.kind == "category" or (self.whole and self.kind == "linear" and self.high - self.low < count):
            return np.arange(self.low - 0.5, self.high + 1.0)
        low, high = self.ends
        return np.linspace(low, high, count + 1)

    @property
    def ends(self) -> tuple[float, float]:
        """The coordinates that a picture shows; never the same."""
        if self.kind == "category":
            return self.low - 0.5, self.high + 0.5
        if self.high > self.low:
            return self.low, self.high
        around = max(abs(self.low) * 0.1, 0.5)
        return self.low - around, self.high + around

    def shown(self, place: float) -> str:
        """What a coordinate stands for."""
        if self.kind == "category":
            at = round(place)
            return self.categories[at] if 0 <= at < len(self.categories) else ""
        value = 10.0**place if self.kind == "log" else place
        return f"{value:.4g}"

    def ticks(self) -> dict[str, Any]:
        """Where plotly writes what; nothing of a linear axis, which plotly does by itself."""
        if self.kind == "category":
            places: list[float] = [float(place) for place in range(len(self.categories))]
            return {"tickvals": places, "ticktext": [plain(cut(text, 14)) for text in self.categories]}
        if self.kind == "linear":
            return {}
        low, high = self.ends
        powers = list(range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1))
        if len(powers) > TICKS:
            powers = powers[:: math.ceil(len(powers) / TICKS)]
        if len(powers) >= 2:
            return {"tickvals": powers, "ticktext": [f"{10.0**power:g}" for power in powers]}
        places = [low + (high - low) * part / 3 for part in range(4)]
        return {"tickvals": places, "ticktext": [f"{10.0**place:.2g}" for place in places]}


def parameter_axis(name: str, values: Sequence[Any], distribution: str | None) -> Axis:
    """The axis of a parameter.

    Args:
        values: that trials had; None of those without it.
        distribution: Optuna's JSON of what was searched over; None if it is not known.
    """
    kind, attributes = read_distribution(distribution)
    if kind == "CategoricalDistribution":
        return _categories(name, values, attributes.get("choices", ()))
    numbers = [_number(value) for value in values if value is not None]
    finite = [value for value in numbers if math.isfinite(value)]
    if not finite or len(finite) < len(numbers):  # texts among them, or nothing
        return _categories(name, values, ())
    whole = kind == "IntDistribution" or (not kind and all(value == int(value) for value in finite))
    low = min([*finite, _number(attributes.get("low", math.inf))])
    high = max([*finite, _number(attributes.get("high", -math.inf))])
    if low > 0 and (attributes.get("log") or (not kind and high / low >= WIDE)):
        return Axis(name, "log", math.log10(low), math.log10(high), whole=whole)
    return Axis(name, "linear", low, high, whole=whole)


def metric_axis(name: str, values: Floats, best: float | None = None) -> Axis:
    """The axis of an objective, between what nearly all trials had and the best.

    A few that are far off (a training that diverged) would make one line of all others: they lie beyond its end.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Axis(name, "linear", 0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    first, last = (float(value) for value in np.quantile(finite, [0.05, 0.95]))
    if low > 0 and last / low >= WIDE:
        first, last, low, high = (math.log10(value) for value in (first, last, low, high))
        best = math.log10(best) if best is not None and best > 0 else None
        kind: Kind = "log"
    else:
        kind = "linear"
    span = (last - first) or abs(last) or 1.0
    low, high = max(low, first - span), min(high, last + span)
    if best is not None and math.isfinite(best):
        low, high = min(low, best), max(high, best)
    return Axis(name, kind, low, high)


def beyond(axis: Axis, values: Floats) -> int:
    """How many values lie outside of an axis, or have no place on it."""
    places = axis.places(list(values))
    return int(np.sum(~((places >= axis.low - 1e-12) & (places <= axis.high + 1e-12))))


def category(value: Any) -> str:
    """The text of a choice; a text and a number, or None and "None", are told apart."""
    if isinstance(value, str):
        return value if value not in ("None", "True", "False") and not _is_number(value) else repr(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def cut(text: str, length: int) -> str:
    """A text of at most so many characters, without its middle."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def plain(text: str) -> str:
    """A text that plotly shows as it is: no mark-up, and no reference to data, begins in it."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("%{", "%&#123;").replace("%_", "%&#95;")


def _categories(name: str, values: Sequence[Any], choices: Sequence[Any]) -> Axis:
    counts = Counter(category(value) for value in values if value is not None)
    texts = list(dict.fromkeys([*map(category, choices), *sorted(counts)]))
    if len(texts) > CATEGORIES:
        kept = {text for text, _ in counts.most_common(CATEGORIES - 1)}
        texts = [*(text for text in texts if text in kept), OTHERS]
    texts = texts or ["(none)"]
    return Axis(name, "category", 0.0, len(texts) - 1.0, tuple(texts))


def read_distribution(text: str | None) -> tuple[str, dict[str, Any]]:
    """The class of a distribution in Optuna's JSON, and its attributes; nothing of what is none."""
    try:
        found = json.loads(text or "{}")
        return str(found.get("name", "")), dict(found.get("attributes", {}))
    except (ValueError, AttributeError, TypeError):
        return "", {}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
