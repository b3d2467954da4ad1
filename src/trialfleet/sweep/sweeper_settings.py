"""The sweeper's own config node, typed. trialfleet/conf/hydra/sweeper/trialfleet.yaml holds every default."""

import difflib
import json
from collections.abc import Mapping
from copy import deepcopy
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from annotated_types import Ge, Gt, Le
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from trialfleet.config.traced import STRICT
from trialfleet.errors import UserError

Seconds = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Budget:
    """Limits of the study besides n_trials; None for no limit."""

    wall_hours: Annotated[float, Gt(0)] | None
    device_hours: Annotated[float, Gt(0)] | None
    no_improvement: Annotated[int, Ge(1)] | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Watch:
    """How the driver watches its jobs; all in seconds."""

    files: Annotated[float, Gt(0)]
    max_files: Seconds
    jobs: Annotated[float, Gt(0)]
    max_jobs: Annotated[float, Gt(0)]
    verdict: Seconds
    settle_local: Seconds
    settle_network: Seconds


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AheadSettings:
    """How many proposals stand ready before a slot is free, and how many results they may not know of."""

    proposals: Annotated[int, Ge(0)]
    unseen: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkerSettings:
    """How many trials a job runs in one process, and when it is replaced; `idle` in seconds."""

    trials: Annotated[int, Ge(1)] | None
    minutes: Annotated[float, Gt(0)] | None
    local: bool
    idle: Annotated[float, Gt(0)]
    failures: Annotated[int, Ge(1)]
    growth_gb: Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LeaseSettings:
    """The driver's lease; in seconds."""

    beat: Annotated[float, Gt(0)]
    stale_after: Annotated[float, Gt(0)]

    @model_validator(mode="after")
    def _stale_only_when_silent(self) -> Self:
        if self.stale_after < 2 * self.beat:  # a driver that lives would be taken for gone between two beats
            raise ValueError("stale_after must be at least twice beat")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StudySettings:
    """What is to be done about a study that is there, and what may differ from it.

    Attributes:
        ignore_changes: keys of the application's config, or parents of them, that are no part of the study's identity.
    """

    fresh: bool
    rebuild: bool
    allow_changes: list[str]
    ignore_changes: list[str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tracking:
    """Where MLflow is, null for nowhere; `poll_interval` and `system_metrics` in seconds."""

    uri: str | None
    experiment: str
    poll_interval: Annotated[float, Gt(0)]
    system_metrics: Annotated[float, Gt(0)] | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CodeSettings:
    """Which files of the application are copied for its jobs: shell patterns of names, and limits."""

    include: list[str]
    exclude: list[str]
    max_mb: Annotated[float, Gt(0)]
    max_files: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """What `hydra.sweeper` says besides sampler, pruner, storage and space, which have types of their own."""

    metric: str | list[str]
    n_trials: Annotated[int, Ge(1)]
    n_jobs: Annotated[int, Ge(1)]
    max_failure_rate: Annotated[float, Ge(0), Le(1)]
    custom_search_space: str | None
    tags: list[str]
    enqueue: list[dict[str, Any]]
    constraints: dict[str, str] | None
    max_retries: Annotated[int, Ge(0)]
    max_unclaimed: Annotated[int, Ge(1)]
    memory_growth: Annotated[float, Ge(1)]
    max_memory_gb: Annotated[float, Gt(0)] | None
    check_memory: bool
    grace: Seconds
    patience: Seconds
    keep_checkpoints: Annotated[int, Ge(0)] | None
    budget: Budget
    watch: Watch
    ahead: AheadSettings
    worker: WorkerSettings
    lease: LeaseSettings
    on_best: str | None
    on_failure: str | None
    on_end: str | None
    hook_seconds: Annotated[float, Gt(0)]
    report_after: Annotated[float, Ge(0)] | None
    live: bool
    dry_run: bool
    study: StudySettings
    tracking: Tracking | None
    code: CodeSettings


def settings(node: Mapping[str, Any]) -> Settings:
    """The typed settings in a sweeper node; keys that are not there have their default.

    Keys are missing only where the node was composed from upstream's schema, with this sweeper in its place. Such an
    application logs to MLflow only where it says so.

    Raises:
        UserError: one line for each key that is unknown or has a wrong value.
    """
    ours = {key: value for key, value in defaults().items() if key in _FIELDS}
    given = {**ours, "tracking": None, **node}
    try:
        return TypeAdapter(Settings).validate_json(json.dumps(given))
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors()]
        raise UserError(
            "\n".join(lines), "the keys and their defaults: --cfg hydra -p hydra.sweeper shows them"
        ) from None


def defaults() -> dict[str, Any]:
    """The sweeper's config as it is written, interpolations and all."""
    return _written("trialfleet")


def tracking_defaults() -> dict[str, Any]:
    """The same of `hydra.sweeper.tracking`."""
    return _written("tracking/mlflow")


def _written(name: str) -> dict[str, Any]:
    return deepcopy(_read(name))


@cache
def _read(name: str) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load(files("trialfleet.conf").joinpath(f"hydra/sweeper/{name}.yaml").read_text())
    return node


def directions(node: Any) -> list[str]:
    """`hydra.sweeper.direction` as Optuna's words, whether it is a word, upstream's enum or a list of them."""
    if isinstance(node, DictConfig) or OmegaConf.is_list(node):
        node = OmegaConf.to_container(node, resolve=True)
    items = list(node) if isinstance(node, list | tuple) else [node]
    words = [item.name if isinstance(item, Enum) else str(item) for item in items]
    for word in words:
        if word not in ("minimize", "maximize"):
            close = difflib.get_close_matches(word, ["minimize", "maximize"], 1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise UserError(f"hydra.sweeper.direction: {word!r} is no direction{hint}", "give minimize or maximize")
    if not words:
        raise UserError("hydra.sweeper.direction: is empty", "give minimize, maximize, or a list of them")
    return words


def _line(problem: Any) -> str:
    key = ".".join(["hydra.sweeper", *(str(part) for part in problem["loc"])])
    if problem["type"] == "unexpected_keyword_argument":
        close = difflib.get_close_matches(str(problem["loc"][-1]), list(_FIELDS), 1)
        return f"{key}: unknown key" + (f", did you mean {close[0]}?" if close else "")
    kind = next((words for start, words in _KINDS.items() if problem["type"].startswith(f"{start}_")), None)
    said = f"must be {kind}" if kind else f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    return f"{key}: {said}, got {problem['input']!r}"


_KINDS = {  # the beginnings of pydantic's names of what is wrong
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list, such as [a,b]",
    "dict": "a mapping, such as {a:1}",
    "dataclass": "a mapping of keys",
}


_FIELDS = tuple(Settings.__dataclass_fields__)


def sweep_folder(config: DictConfig) -> Path:
    """`hydra.sweep.dir`, absolute."""
    return Path(str(config.hydra.sweep.dir)).absolute()
