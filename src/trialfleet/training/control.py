"""What evaluations and epochs feed back into training, as one pure function: JSON in, JSON out.

Its state is saved with every checkpoint, and it is what the outcome of a training is read from.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trialfleet.config import Config
from trialfleet.config.freezing import Adaptive, NoFreezing, Progressive, RateBoost, Scheduled, Staged
from trialfleet.config.optimizers import Plateau
from trialfleet.config.schema import Objective
from trialfleet.trial import records

Json = dict[str, Any]


class Event(NamedTuple):
    """Something to react to."""

    step: int
    epochs: int  # completed
    ends_epoch: bool
    values: Mapping[str, float] | None  # the newest of every metric, after an evaluation; else None


class Facts(NamedTuple):
    """What control must know of the model."""

    order: Sequence[str]  # units that a freezing schedule releases one by one
    sizes: Mapping[tuple[str, str], int]  # parameters by (group, unit)
    rates: Mapping[str, float]  # peak learning rate by group


class Knobs(NamedTuple):
    """What control sets for the steps to come."""

    scale: float  # a factor of every rate
    group_scale: Mapping[str, float]  # a further factor by group; groups that are not there have 1
    on: Mapping[str, bool]  # whether a unit is trained; units that are not there are
    stop: str | None  # why training ends early


_WATCH: Json = {"mark": None, "stale": 0}  # the last clear improvement, and evaluations since


def start() -> Json:
    """What is known before the first step."""
    return {
        "best": None,  # the evaluation with the best first metric
        "last": None,
        "stopping": _WATCH,
        "plateau": {**_WATCH, "scale": 1.0, "cooldown": 0},
        "freezing": {**_WATCH, "released": 0, "boosted": False},  # units that are released, or stages that are over
    }


def control(state: Json, event: Event, config: Config, facts: Facts) -> Json:
    """What is known after an event."""
    if event.values is not None:
        state = _after_evaluation(state, event, event.values, config)
    return {**state, "freezing": _freezing(state, event, config, facts)}


def _after_evaluation(state: Json, event: Event, values: Mapping[str, float], config: Config) -> Json:
    objective = config.objective
    missing = [name for name in objective.metrics if name not in values and not name.startswith("test/")]
    if missing:
        raise KeyError(f"objective.metric {missing[0]!r} was not logged; there are {', '.join(sorted(values))}")
    seen = {"step": event.step, "values": {name: values[name] for name in objective.metrics if name in values}}
    value, best = _first(objective, seen), state["best"]
    # Of equals the first is best; where nothing is known of any, the newest.
    better = best is None or value < _first(objective, best) or _first(objective, best) == float("inf")
    early = config.training.early_stopping
    return {
        **state,
        "best": seen if better else best,
        "last": seen,
        "stopping": _watched(state["stopping"], value, early.min_delta if early else 0.0),
        "plateau": _plateau(state["plateau"], value, config),
    }


def knobs(state: Json, config: Config, facts: Facts) -> Knobs:
    """What the steps to come are to be given."""
    early, stale = config.training.early_stopping, state["stopping"]["stale"]
    return Knobs(
        scale=float(state["plateau"]["scale"]),
        group_scale=_boosted(config, facts) if state["freezing"]["boosted"] else {},
        on=dict.fromkeys(_held(state["freezing"]["released"], config, facts), False),
        stop=f"no improvement in {stale} evaluations" if early and stale >= early.patience else None,
    )


def _held(released: int, config: Config, facts: Facts) -> Sequence[str]:
    """The units that are not trained now."""
    match config.freezing:
        case NoFreezing():
            return ()
        case Staged(stages=stages):
            return sorted({unit for _, unit in facts.sizes} - set(stages[released]))
        case _:
            return facts.order[released:]


# ---- the objective ----------------------------------------------------------------------------------------


def is_best(state: Json, step: int, config: Config) -> bool:
    """Whether the best evaluation so far, of those of which something is known, is the one at `step`."""
    best = state["best"]
    return best is not None and best["step"] == step and _first(config.objective, best) < float("inf")


def score(state: Json, config: Config) -> float | None:
    """The first metric at the last evaluation, turned so that less is better; None if nothing is known of it."""
    value = _first(config.objective, state["last"])
    return value if value < float("inf") else None


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
    """The first metric, turned so that less is better; nan, and a test metric not known yet, are the worst."""
    value = records.number(seen["values"].get(objective.metrics[0], float("nan")))
    value = value if objective.directions[0] == "minimize" else -value
    return float("inf") if value != value else value


# ---- rules ------------------------------------------------------------------------------------------------


def _watched(state: Json, value: float, min_delta: float) -> Json:
    """Counts evaluations since the value last fell by more than `min_delta` below its mark."""
    if state["mark"] is None or value < records.number(state["mark"]) - min_delta:
        return {**state, "mark": value, "stale": 0}
    return {**state, "stale": state["stale"] + 1}


def _plateau(state: Json, value: float, config: Config) -> Json:
    """The rule of a plateau schedule: reduce once `patience` evaluations in a row brought nothing."""
    if not isinstance(config.scheduler, Plateau):
        return state
    rule = config.scheduler
    watched = _watched(state, value, rule.threshold)
    if watched["cooldown"] > 0:
        return {**watched, "cooldown": watched["cooldown"] - 1, "stale": 0}
    if watched["stale"] <= rule.patience:
        return watched
    scale = max(rule.min_factor, watched["scale"] * rule.factor)
    return {**watched, "scale": scale, "stale": 0, "cooldown": rule.cooldown}


def _freezing(state: Json, event: Event, config: Config, facts: Facts) -> Json:
    """How many units are released, and whether the boost has happened."""
    frozen: Json = state["freezing"]
    rule = config.freezing
    match rule:
        case Progressive():
            released = min(event.epochs // rule.every_epochs, rule.max_units)
        case Scheduled():
            released = sum(event.epochs >= epoch for epoch in rule.epochs)
        case Adaptive():
            if event.values is not None:
                frozen = _watched(frozen, _first(config.objective, state["last"]), rule.min_delta)
            due = frozen["stale"] >= rule.patience and frozen["released"] < rule.max_units
            released = frozen["released"] + due
            frozen = {**frozen, "stale": 0} if due else frozen
        case Staged():
            return {**frozen, "released": sum(event.epochs >= epoch for epoch in rule.epochs)}
        case _:
            return frozen
    frozen = {**frozen, "released": min(released, len(facts.order))}
    if (
        event.ends_epoch
        and rule.rate_boost is not None
        and _share(rule.rate_boost, frozen, facts) >= rule.rate_boost.share
    ):
        frozen["boosted"] = True
    return frozen


def _share(boost: RateBoost, frozen: Json, facts: Facts) -> float:
    """The share of the boosted group's parameters that are trained."""
    held = set(facts.order[frozen["released"] :])
    sizes = {unit: size for (group, unit), size in facts.sizes.items() if group == boost.group}
    return sum(size for unit, size in sizes.items() if unit not in held) / max(1, sum(sizes.values()))


def _boosted(config: Config, facts: Facts) -> dict[str, float]:
    boost = None if isinstance(config.freezing, NoFreezing | Staged) else config.freezing.rate_boost
    if boost is None:
        return {}
    return {boost.group: boost.factor * facts.rates[boost.of_group] / facts.rates[boost.group]}
