"""What a command asks for, checked: whatever can be refused is refused here, before anything is made.

The space, the sampler, the configs that trials would get, the launcher, the tracking server's address, the
storage, a study that was another one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isnan
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import BasePruner

from trialfleet.errors import UserError
from trialfleet.sweep import sweeper_settings
from trialfleet.sweep.fleets import app_code
from trialfleet.sweep.fleets.app_code import AppCode
from trialfleet.sweep.fleets.code_version import code_version
from trialfleet.sweep.fleets.launchers import factory_of
from trialfleet.sweep.study import constraints, fresh_start, proposer, search_space, study_record, unchangeable
from trialfleet.sweep.study.databases import would_be_made
from trialfleet.sweep.study.samplers import SamplerFactory, build_pruner
from trialfleet.sweep.study.search_space import Space
from trialfleet.sweep.study.storage import close, described, distribution_texts, instantiated, open_storage
from trialfleet.sweep.study.study_record import StudyRecord
from trialfleet.tracking.destination import Destination, resolve
from trialfleet.trial import secrets
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

    @cached_property
    def settings(self) -> sweeper_settings.Settings:
        """The node's settings, typed.

        Raises:
            UserError: some are unknown or wrong.
        """
        return sweeper_settings.settings({key: self.node[key] for key in self.node if key not in _TYPED_ELSEWHERE})

    def trial_config(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a trial with these overrides."""
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    @property
    def config_sources(self) -> list[str | None]:
        """Where the application's own configs are."""
        path = self.hydra_context.config_loader.get_search_path().get_path()
        return [element.path for element in path if element.provider == "main"]

    @property
    def study(self) -> sweeper_settings.StudySettings:
        return self.settings.study


@dataclass(frozen=True)
class Plan:
    """A request that was checked; nothing is made yet.

    Attributes:
        record: the study that the command goes on with, in the storage where it is, which may be another one than the
            command's.
        samplers: without the study's seed.
        pruner: None where nothing is to be pruned.
    """

    request: Request
    settings: sweeper_settings.Settings
    folder: Path
    name: str
    directions: list[str]
    metrics: list[str]
    space: Space
    samplers: SamplerFactory
    pruner: BasePruner | None
    identity: dict[str, Any]
    record: StudyRecord | None
    destination: Destination | None
    code: AppCode

    @property
    def n_trials(self) -> int:
        """How many the study shall have: a grid has no more than its points."""
        wanted, points = self.settings.n_trials, self.samplers.grid_size
        return wanted if points is None else min(wanted, points)


def check(request: Request) -> Plan:
    """Refuse what can be refused; makes nothing."""
    node = request.node
    _refuse_masked(request.arguments)
    _refuse_nan(request.config)
    folder = sweeper_settings.sweep_folder(request.config)
    settings = request.settings
    directions = sweeper_settings.directions(node["direction"])
    metrics = _metrics(request, len(directions))
    space = _space(request)
    samplers, pruner = SamplerFactory(node["sampler"], space, 0), build_pruner(node.get("pruner"))
    proposer.imported(settings.custom_search_space)
    constraints.parse(settings.constraints)
    for point in settings.enqueue:
        proposer.known_point(point, space, settings.custom_search_space)
    if pruner is not None and len(directions) > 1:
        raise UserError(
            "hydra/sweeper/pruner: a pruner judges one objective, this study has several",
            "set hydra/sweeper/pruner=none, or optimise one metric",
        )
    _check_memory(request)
    factory_of(request.launcher).check(request.launcher)
    _check_configs(request, space)
    name = _name(request, folder)
    searched = {f"space.{name}": text for name, text in distribution_texts(space.distributions).items()}
    objectives = {"direction": ",".join(directions), study_record.METRICS: list(metrics)}
    identity = {**identity_of(request, request.config, space), **searched, **objectives}
    record = _record(request, folder, identity, space, directions)
    if record is None:
        _refuse_inside_another(folder)
    destination = _destination(settings.tracking, begun=record is not None)
    _check_storage(request, folder)
    code = app_code.find(request.task_function, settings.code, request.config_sources)
    _check_script(record, code, folder, settings.study.allow_changes)
    return Plan(
        request,
        settings,
        folder,
        name,
        directions,
        metrics,
        space,
        samplers,
        pruner,
        identity,
        record,
        destination,
        code,
    )


def _refuse_masked(arguments: Sequence[str]) -> None:
    """A command that was pasted as it was shown must not give its jobs three stars for a password."""
    for argument in arguments:
        if ":***@" in argument:
            key = argument.partition("=")[0].lstrip("+")
            raise UserError(
                f"{key}: has *** in the place of a password", "type the password there, or leave the key out"
            )


def _refuse_nan(config: DictConfig) -> None:
    """NaN is not equal to itself, so Hydra would refuse each job for a sweeper that is another than the command's."""
    for group in ("sweeper", "launcher"):
        plain = OmegaConf.to_container(config.hydra[group], resolve=False)
        settings = {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
        for key, value in study_record.flat(settings).items():
            if isinstance(value, float) and isnan(value):
                raise UserError(
                    f"hydra.{group}.{key}=nan is read as a number, and is none",
                    f"give a number; for the text quote it: \"hydra.{group}.{key}='nan'\"",
                )


def checked_again(plan: Plan) -> Plan:
    """The plan with study.yaml as it is now that no other driver can change it: one may have, since it was checked.

    Raises:
        UserError: the folder has another study by now.
    """
    record = _present_record(plan.request, plan.folder, plan.identity, plan.space, plan.directions)
    _check_script(record, plan.code, plan.folder, plan.settings.study.allow_changes)
    return replace(plan, record=record)


def _record(
    request: Request, folder: Path, identity: Mapping[str, Any], space: Space, directions: Sequence[str]
) -> StudyRecord | None:
    """The study that the command goes on with; None for a new one."""
    if request.study.fresh and request.study.rebuild:
        raise UserError(
            "hydra.sweeper.study.fresh and .rebuild: a study cannot be put aside and made anew", "give one of them"
        )
    if request.study.fresh or fresh_start.is_begun(folder):
        return None
    return _present_record(request, folder, identity, space, directions)


def _refuse_inside_another(folder: Path) -> None:
    """A study in another one's folder would be moved, copied and put aside with it."""
    for parent in folder.parents:
        if (parent / "study.yaml").is_file() and (parent / "driver.lock").exists():
            raise UserError(
                f"{folder}: would lie inside of the folder of another study, {parent}",
                "choose another hydra.sweeper.study_name (or hydra.sweep.dir)",
            )


def _present_record(
    request: Request, folder: Path, identity: Mapping[str, Any], space: Space, directions: Sequence[str]
) -> StudyRecord | None:
    path = folder / "study.yaml"
    record = study_record.read(path)
    if record is None:
        taken = [number for number in trial_numbers(folder) if trial_dir(folder, number).is_taken()]
        if taken:
            raise UserError(
                f"{path}: is missing, and the folder has {len(taken)} trials of a study that only it describes",
                "restore it from a copy, or put the folder aside for a fresh study with hydra.sweeper.study.fresh=true",
            )
        return None
    allowed = request.study.allow_changes
    storage = described(request.node.get("storage"))
    study_record.check_storage(record, storage, request.study.rebuild or "hydra.sweeper.storage" in allowed)
    record = unchangeable.check(record, folder, space.distributions, directions)
    metrics, values = identity[study_record.METRICS], partial(unchangeable.has_values, folder, record.uids)
    record = study_record.check_metrics(record, metrics, _key(request, "metric"), values, allowed)
    return study_record.accept(record, identity, allowed)


def _check_script(record: StudyRecord | None, code: AppCode, folder: Path, allowed: Sequence[str]) -> None:
    if record is not None and code.script is not None:
        study_record.check_script(record, code.script, folder, lambda: code_version(code)["digest"], allowed)


_TYPED_ELSEWHERE = ("sampler", "pruner", "storage", "direction", "study_name", "params", "default_params")


def _metrics(request: Request, count: int) -> list[str]:
    """Names of the objectives. The values of an application that names none are told apart by their index."""
    named = request.settings.metric
    names = [named] if isinstance(named, str) else named
    if "" in names or len(set(names)) < len(names):
        raise UserError(
            f"{_key(request, 'metric')}: {named!r} has an empty name, or one of them twice", "name each metric once"
        )
    if len(names) == count:
        return names
    if names == [sweeper_settings.defaults()["metric"]]:
        return [f"{names[0]}_{index}" for index in range(count)]
    raise UserError(
        f"{_key(request, 'metric')} names {len(names)} and {_key(request, 'direction')} {count}",
        "give one direction for each metric",
    )


def _key(request: Request, name: str) -> str:
    """The key that a person types for one of the sweeper's: the application's, where the sweeper's refers to it."""
    node = OmegaConf.to_container(request.config.hydra.sweeper, resolve=False)
    written = str(node.get(name)) if isinstance(node, dict) else ""
    refers = re.fullmatch(r"\$\{([A-Za-z_][\w.]*)\}", written)
    return refers[1] if refers else f"hydra.sweeper.{name}"


def _space(request: Request) -> Space:
    """The space of the command; if it names none, the default one."""
    node = request.node
    space = search_space.parse([*search_space.arguments_of(node["params"]), *request.arguments])
    nothing_given = node["params"] is None and not space.distributions and node["custom_search_space"] is None
    if nothing_given and node.get("default_params"):
        space = search_space.parse([*search_space.arguments_of(node["default_params"]), *request.arguments])
    # With upstream's own schema, which has no default_params, an empty space means n_trials runs of the same config.
    if not space.distributions and node["custom_search_space"] is None and "default_params" in node:
        raise UserError(
            "the search space is empty: hydra.sweeper.params and the command line vary nothing",
            "add for example 'learning_rate=tag(log,interval(1e-4,1e-2))', with a key of your config",
        )
    return space


def _check_storage(request: Request, folder: Path) -> None:
    """Open a storage of the user's before the folder is made, so that a refusal leaves nothing."""
    if request.node.get("storage") is None:
        return
    storage = instantiated(request.node["storage"])
    if request.settings.dry_run and isinstance(storage, str) and would_be_made(storage):
        return
    close(open_storage(storage, folder, lambda: None))


def _check_configs(request: Request, space: Space) -> None:
    """Compose the configs of a few points of the space, so that a misspelt key fails here and not in each job."""
    judge: Callable[[DictConfig], None] | None = getattr(request.task_function, "check", None)
    for overrides in proposer.probes(space)[:PROBES]:
        config = request.trial_config(overrides)
        if judge is not None:
            judge(config)


def _check_memory(request: Request) -> None:
    if request.settings.check_memory and not callable(getattr(request.task_function, "memory", None)):
        raise UserError(
            "hydra.sweeper.check_memory: the application does not say how much memory a trial needs",
            "give its task function an attribute `memory`, a function of a trial's config that returns "
            "trialfleet.config.devices.Needs, or leave check_memory out",
        )


def _destination(tracking: sweeper_settings.Tracking | None, begun: bool) -> Destination | None:
    """Where MLflow is. Of a study that has begun a damaged database is no reason to stop: the folder has it all."""
    if tracking is None or tracking.uri is None:
        return None
    return resolve(tracking.uri, tracking.experiment, Path.cwd(), begun)


def _name(request: Request, folder: Path) -> str:
    """The study's name: as it was typed, or its folder's."""
    # From the config that the folder is from: what has the time of day in it is the same in both then.
    name = OmegaConf.select(request.config, "hydra.sweeper.study_name")
    written = OmegaConf.to_container(request.config.hydra.sweep, resolve=False)
    is_folder = isinstance(written, dict) and "${hydra.sweeper.study_name}" in str(written.get("dir"))
    if is_folder and (name is None or {"", ".", ".."} & set(str(name).split("/"))):
        raise UserError(
            f"hydra.sweeper.study_name={name}: names no folder for the study, which is to lie in sweeps/",
            "leave the key out, or give a name, without . and .. as parts of a path",
        )
    if name is None or name == "":
        return folder.name
    if not isinstance(name, str):  # Hydra reads 2024 as a number, and 20261125_1 as another one
        overrides = secrets.overrides(request.config, "hydra")
        typed = [text.partition("=")[2] for text in overrides if text.startswith("hydra.sweeper.study_name=")]
        if typed and typed[-1] != str(name):
            raise UserError(
                f"hydra.sweeper.study_name={typed[-1]} is read as {name!r}",
                f"quote it: \"hydra.sweeper.study_name='{typed[-1]}'\"",
            )
    return str(name)


def identity_of(request: Request, config: DictConfig, space: Space) -> dict[str, Any]:
    """What a config has in the identity of its study (see `study_record`), by dotted keys.

    Args:
        config: the request's, or what the study's copy of the code makes of the same command.
    """
    task = OmegaConf.to_container(config, resolve=False)
    assert isinstance(task, dict)
    flat = study_record.flat({str(key): value for key, value in task.items() if key != "hydra"})
    # What is searched over differs from trial to trial, and has `space.` entries. An application's own key of that
    # name, or `direction`, must not be hidden by ours.
    apart = [name.lstrip("+").partition("@")[0] for name in space.distributions] + request.study.ignore_changes
    return {
        f"config.{key}" if study_record.covered(key, ("space", "direction")) else key: study_record.recordable(value)
        for key, value in flat.items()
        if not study_record.covered(key, apart)
    }
