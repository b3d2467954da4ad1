"""What a command asks for, checked: whatever can be refused is refused here, before anything is made.

The space, the sampler, the configs that trials would get, the launcher, the tracking server's address, the
storage, a study that was another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from trialfleet.errors import UserError
from trialfleet.sweep import sweeper_settings
from trialfleet.sweep.fleets.launchers import factory_of
from trialfleet.sweep.study import constraints, fresh_start, proposer, search_space, study_record, unchangeable
from trialfleet.sweep.study.databases import would_be_made
from trialfleet.sweep.study.samplers import SamplerFactory, build_pruner
from trialfleet.sweep.study.search_space import Space
from trialfleet.sweep.study.storage import close, described, distribution_texts, instantiated, open_storage
from trialfleet.sweep.study.study_record import StudyRecord
from trialfleet.tracking.destination import Destination, resolve
from trialfleet.trial.directory import trial_dir, trial_numbers

PROBES = 8  # configs that are composed before the first trial to see whether trials can be


@dataclass(frozen=True)
class Request:
    """What a command asks for: the sweeper's node and what Hydra gives a sweeper.

    Attributes:
        node: `hydra.sweeper`, every key.
        config: the composed config, hydra included.
        arguments: the task overrides of the command line.
    """

    node: Mapping[str, Any]
    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction
    launcher: Launcher
    arguments: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """A request that was checked; nothing is made yet.

    Attributes:
        record: the study that the command goes on with, in the storage where it is, which may be another one than the
            command's.
    """

    request: Request
    settings: sweeper_settings.Settings
    folder: Path
    name: str
    directions: list[str]
    metrics: list[str]
    space: Space
    identity: dict[str, Any]
    record: StudyRecord | None
    destination: Destination | None


def check(request: Request) -> Plan:
    """Refuse what can be refused; makes nothing."""
    node = request.node
    folder = sweeper_settings.sweep_folder(request.config)
    settings = sweeper_settings.settings({key: value for key, value in node.items() if key not in _TYPED_ELSEWHERE})
    directions = _directions(request)
    space = _space(request)
    SamplerFactory(node["sampler"], space, 0)
    proposer.imported(settings.custom_search_space)
    constraints.parse(settings.constraints)
    for point in settings.enqueue:
        proposer.known_point(point, space, settings.custom_search_space)
    if build_pruner(node.get("pruner")) is not None and len(directions) > 1:
        raise UserError(
            "hydra/sweeper/pruner: a pruner judges one objective, this study has several",
            "set hydra/sweeper/pruner=none, or optimise one metric",
        )
    factory_of(request.launcher).check(request.launcher)
    _check_configs(request, space)
    name = _name(request, folder)
    identity = _identity(request.config, space, directions)
    record = _record(request, folder, identity, space, directions)
    destination = _destination(request.config, begun=record is not None)
    _check_storage(request, folder)
    metrics = _metrics(request.config, len(directions))
    return Plan(request, settings, folder, name, directions, metrics, space, identity, record, destination)


def checked_again(plan: Plan) -> Plan:
    """The plan with study.yaml as it is now that no other driver can change it: one may have, since it was checked.

    Raises:
        UserError: the folder has another study by now.
    """
    return replace(plan, record=_present_record(plan.request, plan.folder, plan.identity, plan.space, plan.directions))


def _record(
    request: Request, folder: Path, identity: Mapping[str, Any], space: Space, directions: Sequence[str]
) -> StudyRecord | None:
    """The study that the command goes on with; None for a new one."""
    config = request.config
    if fresh_wanted(config) and rebuild_wanted(config):
        raise UserError("study.fresh and study.rebuild: a study cannot be put aside and made anew", "give one of them")
    if fresh_wanted(config) or fresh_start.is_begun(folder):
        return None
    return _present_record(request, folder, identity, space, directions)


def _present_record(
    request: Request, folder: Path, identity: Mapping[str, Any], space: Space, directions: Sequence[str]
) -> StudyRecord | None:
    config, path = request.config, folder / "study.yaml"
    record = study_record.read(path)
    if record is None:
        taken = [number for number in trial_numbers(folder) if trial_dir(folder, number).is_taken()]
        if taken:
            raise UserError(
                f"{path}: is missing, and the folder has {len(taken)} trials of a study that only it describes",
                "restore it from a copy, or put the folder aside for a fresh study with study.fresh=true",
            )
        return None
    allowed = allowed_changes(config)
    storage = described(request.node.get("storage"))
    study_record.check_storage(record, storage, rebuild_wanted(config) or "hydra.sweeper.storage" in allowed)
    record = unchangeable.check(record, folder, space.distributions, directions)
    return study_record.accept(record, identity, allowed)


_TYPED_ELSEWHERE = ("sampler", "pruner", "storage", "direction", "study_name", "params", "default_params")


def _directions(request: Request) -> list[str]:
    directions = sweeper_settings.directions(request.node["direction"])
    wanted = OmegaConf.select(request.config, "objective.direction")
    if wanted is not None and sweeper_settings.directions(wanted) != directions:
        raise UserError(
            f"hydra.sweeper.direction={','.join(directions)} contradicts objective.direction="
            f"{','.join(sweeper_settings.directions(wanted))}",
            "set objective.direction alone: the sweeper follows it",
        )
    return directions


def _metrics(config: DictConfig, count: int) -> list[str]:
    """Names of the objectives; a task of somebody else's that names none has `objective`."""
    named = OmegaConf.select(config, "objective.metric")
    if named is None:
        return ["objective"] if count == 1 else [f"objective_{index}" for index in range(count)]
    names = [str(named)] if isinstance(named, str) else [str(item) for item in named]
    if len(names) != count:
        raise UserError(
            f"objective.metric names {len(names)} and objective.direction {count}", "give one direction for each metric"
        )
    return names


def _space(request: Request) -> Space:
    """The space of the command; if it names none, the workload's default one."""
    node = request.node
    space = search_space.parse([*search_space.arguments_of(node["params"]), *request.arguments])
    nothing_given = node["params"] is None and not space.distributions and node["custom_search_space"] is None
    if nothing_given and node.get("default_params"):
        space = search_space.parse([*search_space.arguments_of(node["default_params"]), *request.arguments])
    # With upstream's own schema, which has no default_params, an empty space means n_trials runs of the same config.
    if not space.distributions and node["custom_search_space"] is None and "default_params" in node:
        raise UserError(
            "the search space is empty: hydra.sweeper.params and the command line vary nothing",
            "add for example 'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))' or +search_space=asr_small",
        )
    return space


def _check_storage(request: Request, folder: Path) -> None:
    """Open a storage of the user's before the folder is made, so that a refusal leaves nothing."""
    if request.node.get("storage") is None:
        return
    storage = instantiated(request.node["storage"])
    dry_run = bool(OmegaConf.select(request.config, "dry_run"))
    if dry_run and isinstance(storage, str) and would_be_made(storage):
        return
    close(open_storage(storage, folder, lambda: None))


def _check_configs(request: Request, space: Space) -> None:
    """Compose the configs of a few points of the space, so that a misspelt key fails here and not in each job."""
    judge: Callable[[DictConfig], None] | None = getattr(request.task_function, "check", None)
    for overrides in proposer.probes(space)[:PROBES]:
        config = request.hydra_context.config_loader.load_sweep_config(request.config, list(overrides))
        if judge is not None:
            judge(config)


def _destination(config: DictConfig, begun: bool) -> Destination | None:
    """Where MLflow is. Of a study that has begun a damaged database is no reason to stop: the folder has it all."""
    uri = OmegaConf.select(config, "tracking.uri")
    if uri is None:
        return None
    return resolve(str(uri), str(config.tracking.experiment), Path.cwd(), begun)


def _name(request: Request, folder: Path) -> str:
    """The study's name: as it was typed, or its folder's."""
    name = request.node.get("study_name")
    if name is None or name == "":
        return folder.name
    if not isinstance(name, str):  # Hydra reads 2024 as a number, and 20261125_1 as another one
        overrides = OmegaConf.select(request.config, "hydra.overrides.hydra") or ()
        typed = [str(text).partition("=")[2] for text in overrides if str(text).startswith("hydra.sweeper.study_name=")]
        if typed and typed[-1] != str(name):
            raise UserError(
                f"hydra.sweeper.study_name={typed[-1]} is read as {name!r}",
                f"quote it: \"hydra.sweeper.study_name='{typed[-1]}'\"",
            )
    return str(name)


def _identity(config: DictConfig, space: Space, directions: Sequence[str]) -> dict[str, Any]:
    """What makes this study this one: see `study_record`."""
    task = OmegaConf.to_container(config, resolve=False)
    assert isinstance(task, dict)
    plain = {key: value for key, value in task.items() if key not in ("hydra", "tracking", "study", "dry_run")}
    flat = study_record.flat(plain)  # type: ignore[arg-type]  # OmegaConf's keys are strings here
    varied = [name.lstrip("+").partition("@")[0] for name in space.distributions]
    kept = {k: v for k, v in flat.items() if not any(k == name or k.startswith(f"{name}.") for name in varied)}
    texts = distribution_texts(space.distributions)
    return {**kept, **{f"space.{name}": text for name, text in texts.items()}, "direction": ",".join(directions)}


def fresh_wanted(config: DictConfig) -> bool:
    return bool(OmegaConf.select(config, "study.fresh"))


def rebuild_wanted(config: DictConfig) -> bool:
    return bool(OmegaConf.select(config, "study.rebuild"))


def allowed_changes(config: DictConfig) -> list[str]:
    return [str(key) for key in OmegaConf.select(config, "study.allow_changes") or ()]
