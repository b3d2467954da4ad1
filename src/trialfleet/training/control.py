"""What evaluations feed back into training, as one pure function of what was seen: JSON in, JSON out.

Its state is saved with every checkpoint, and it is what the outcome of a training is read from.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trialfleet.config import Config
from trialfleet.config.optimizers import Plateau
from trialfleet.config.schema import Objective
from trialfleet.tracking import records

Json = dict[str, Any]


class Knobs(NamedTuple):
    """What control sets for the steps to come."""

    scale: float  # a factor of every rate
    group_scale: Mapping[str, float]  # a further factor by group; groups that are not there have 1
    on: Mapping[str, bool]  # whether a unit is trained; units that are not there are
    stop: str | None  # why training ends early


def start() -> Json:
    """What is known before the first evaluation."""
    return {
        "best": None,  # the evaluation with the best first metric
        "last": None,
        "mark": None,  # the last clear improvement, and how many evaluations ago
        "stale": 0,
        "plateau": {"scale": 1.0, "stale": 0, "cooldown": 0, "best": None},
    }


def control(state: Json, step: int, values: Mapping[str, float], config: Config) -> Json:
    """What is known after an evaluation at `step` that logged `values`."""
    objective = config.objective
    missing = [name for name in objective.metrics if name not in values and not name.startswith("test/")]
    if missing:
        raise KeyError(f"objective.metric {missing[0]!r} was not logged; there are {', '.join(sorted(values))}")
    seen = {"step": step, "values": {name: values[name] for name in objective.metrics if name in values}}
    early = config.training.early_stopping
    clearly = _better(objective, seen, state["mark"], early.min_delta if early else 0.0)
    return {
        "best": seen if _better(objective, seen, state["best"], 0.0) else state["best"],
        "last": seen,
        "mark": seen if clearly else state["mark"],
        "stale": 0 if clearly else state["stale"] + 1,
        "plateau": _plateau(state["plateau"], _first(objective, seen), config),
    }


def knobs(state: Json, config: Config) -> Knobs:
    """What the steps to come are to be given."""
    early = config.training.early_stopping
    stop = early is not None and state["stale"] >= early.patience
    return Knobs(
        scale=float(state["plateau"]["scale"]),
        group_scale={},
        on={},
        stop=f"no improvement in {state['stale']} evaluations" if stop else None,
    )


def is_best(state: Json, step: int) -> bool:
    return state["best"] is not None and state["best"]["step"] == step


def score(state: Json, config: Config) -> float:
    """The first metric at the last evaluation, turned so that less is better."""
    return _first(config.objective, state["last"])


def with_test(state: Json, values: Mapping[str, float], config: Config) -> Json:
    """What is known after the test split was evaluated: its metrics belong to both the best and the last."""
    wanted = {name: values[name] for name in config.objective.metrics if name in values}
    both = {key: {**state[key], "values": {**state[key]["values"], **wanted}} for key in ("best", "last")}
    return {**state, **both}


def metrics(state: Json, config: Config) -> dict[str, float]:
    """The objective's metrics, in its order, at the evaluation that `objective.at` chooses."""
    values = state[config.objective.at]["values"]
    return {name: records.number(values[name]) for name in config.objective.metrics}


def _first(objective: Objective, seen: Json) -> float:
    """The first metric, turned so that less is better; a test metric is not known yet, and never better."""
    value = records.number(seen["values"].get(objective.metrics[0], float("inf")))
    return value if objective.directions[0] == "minimize" else -value


def _better(objective: Objective, seen: Json, best: Json | None, by: float) -> bool:
    return best is None or _first(objective, seen) < _first(objective, best) - by


def _plateau(state: Json, value: float, config: Config) -> Json:
    """The rule of a plateau schedule: reduce after `patience` evaluations without an improvement."""
    if not isinstance(config.scheduler, Plateau):
        return state
    rule = config.scheduler
    if state["best"] is None or value < records.number(state["best"]) - rule.threshold:
        return {**state, "best": value, "stale": 0, "cooldown": max(0, state["cooldown"] - 1)}
    if state["cooldown"] > 0:
        return {**state, "cooldown": state["cooldown"] - 1, "stale": 0}
    if state["stale"] < rule.patience:
        return {**state, "stale": state["stale"] + 1}
    return {
        **state,
        "scale": max(rule.min_factor, state["scale"] * rule.factor),
        "stale": 0,
        "cooldown": rule.cooldown,
    }
