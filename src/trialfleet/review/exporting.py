"""A trial's config as a file of the application's, by which a single run does exactly what the trial did."""

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trialfleet.errors import UserError
from trialfleet.review.studies import Study
from trialfleet.sweep.study import study_record
from trialfleet.sweep.study.index import TrialRow
from trialfleet.trial import secrets
from trialfleet.trial.directory import composed_config, trial_dir

GROUP = "experiment"  # of the configs that are written
ROUNDS = 8  # in which groups choose groups that choose groups
MISSING = object()


@dataclass(frozen=True)
class Target:
    """Where a config is to go.

    Attributes:
        conf: the application's folder of configs.
        config_name: the primary config of a single run.
        name: of the new file in `experiment`.
        train: what is typed before `+experiment=NAME`.
    """

    conf: Path
    config_name: str
    name: str
    train: str

    @property
    def path(self) -> Path:
        return self.conf / GROUP / f"{self.name}.yaml"

    @property
    def command(self) -> str:
        return f"{self.train} {shlex.quote(f'+{GROUP}={self.name}')}"


def typed(script: Path, study_command: str) -> str:
    """How a single run is started in the present folder.

    Args:
        script: that the study's trials ran; absolute, or a name alone.
        study_command: the study's own, which says whether scripts of that folder are started as modules.
    """
    known = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    words = shlex.split(study_command)
    module = words[2] if words[1:2] == ["-m"] and len(words) > 2 else ""
    parts = known.with_suffix("").parts
    if module and parts[:-1] == tuple(module.split(".")[:-1]):
        return f"python -m {'.'.join(parts)}"
    return f"python {shlex.quote(str(known))}"


def name_of(study: Study) -> str:
    """A study's name as that of a file which can be chosen: Hydra takes 2024 for a number, and true for a truth."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", study.name)
    name = re.sub(r"\.(ya?ml)$", r"_\1", name)  # Hydra would take it for the file's own ending
    return name if _can_be_chosen(name) else f"study_{name}"


def _can_be_chosen(name: str) -> bool:
    """Whether `+experiment=NAME` chooses the file NAME.yaml."""
    if name.endswith((".yaml", ".yml")):
        return False
    try:
        override = OverridesParser.create().parse_override(f"+{GROUP}={name}")
    except HydraException:
        return False
    value = None if override.is_sweep_override() else override.value()
    return isinstance(value, str) and value == name and not {"", ".", ".."} & set(name.split("/"))


def check(targets: Sequence[Target], force: bool) -> None:
    """See whether files may be written, before the first one is.

    Args:
        force: replace files that are there.

    Raises:
        UserError: one is there, or has a name that cannot be chosen.
    """
    for target in targets:
        if not _can_be_chosen(target.name):
            raise UserError(
                f"--as {target.name}: Hydra would not choose a file of this name by +{GROUP}={target.name}",
                "name another, of letters, digits, dots, _ and -, with a letter first and no .yaml behind",
            )
        if target.path.exists() and not force:
            raise UserError(f"{target.path}: is there already", "name another with --as, or replace it with --force")


def export(study: Study, row: TrialRow, target: Target, force: bool = False) -> Path:
    """Write a trial's config, and see whether it composes to that of the trial.

    The file chooses the groups' members that the trial had, and sets what they do not say. What the study's command
    says of no trial (`hydra.sweeper.study.ignore_changes`) is left out.

    Args:
        force: replace a file that is there.

    Returns:
        the file's path.

    Raises:
        UserError: the trial has no config, the file is there, has a name that cannot be chosen, or would compose to
            another config.
    """
    check([target], force)
    ignored = [] if study.command is None else study.command.ignored
    wanted, choices = _config_of(study, row)
    chosen = _chosen(target, choices)
    try:
        values = _difference(_plain(_composed(target, chosen)), wanted, ignored)
    except (HydraException, OmegaConfBaseException) as error:
        raise _cannot(target, error) from error
    text = _text(study, row, target, chosen, values)
    try:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        before = target.path.read_text() if target.path.exists() else None
        with _kept_only_if_right(target.path, before):
            target.path.write_text(text)
            found = _plain(_composed(target, {f"+{GROUP}": target.name}))
            if other := _difference(found, wanted, ignored):
                keys = ", ".join(study_record.flat(other))
                raise UserError(f"{target.path}: would not compose to the config of trial {row.number}: {keys}", _FIX)
    except OSError as error:
        raise UserError(
            f"{error.filename or target.path}: cannot be written: {error.strerror}",
            "make room or give the right to write there, or name another folder of configs: --conf FOLDER",
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _cannot(target, error) from error
    return target.path


_FIX = "say where the application's configs are, as they were for the study: --conf FOLDER --config-name NAME"


@contextlib.contextmanager
def _kept_only_if_right(path: Path, before: str | None) -> Iterator[None]:
    """Whatever is raised in the block, the file is as it was before."""
    try:
        yield
    except BaseException:
        if before is not None:
            path.write_text(before)
        else:
            path.unlink(missing_ok=True)
        raise


def _cannot(target: Target, error: Exception) -> UserError:
    cause = f": {str(error.__cause__).splitlines()[0]}" if error.__cause__ else ""
    return UserError(f"{target.conf}, config {target.config_name}: {str(error).splitlines()[0]}{cause}", _FIX)


# -------------------------------------------------------------------- the trial's config, and today's


def _config_of(study: Study, row: TrialRow) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config that a trial ran, and the members of groups that were chosen for it.

    Raises:
        UserError: the trial has left none.
    """
    directory = trial_dir(study.folder, row.number)
    path = None if row.run is None else composed_config(directory.run_dir(row.run))
    if path is None or not path.with_name("hydra.yaml").exists():
        raise UserError(
            f"{directory.path}: has no config: no run of trial {row.number} has begun, or it is not kept",
            "choose another trial with --trial, or keep configs with hydra.output_subdir=.hydra",
        )
    hydra = yaml.safe_load(path.with_name("hydra.yaml").read_text())
    choices = hydra["hydra"]["runtime"]["choices"]
    return _plain(OmegaConf.load(path)), {str(group): member for group, member in choices.items()}


def _plain(config: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def _chosen(target: Target, choices: Mapping[str, Any]) -> dict[str, str]:
    """The groups of a single run whose members must be chosen for it to have those of the trial.

    A member brings groups of its own: it is looked again until there is nothing more to choose.
    """
    chosen: dict[str, str] = {}
    for _ in range(ROUNDS):
        try:
            there = _composed(target, chosen).hydra.runtime.choices
        except (HydraException, OmegaConfBaseException) as error:
            raise _cannot(target, error) from error
        more = {
            str(group): str(choices[group])
            for group, member in there.items()
            if not str(group).startswith("hydra/")
            and isinstance(choices.get(group), str)
            and choices[group] != member
            and group != GROUP
        }
        if not more:
            break
        chosen |= dict([next(iter(more.items()))])  # one at a time: it may choose the others itself
    return chosen


def _composed(target: Target, overrides: Mapping[str, str]) -> DictConfig:
    with _apart(), initialize_config_dir(str(target.conf.absolute())):
        words = [f"{group}={member}" for group, member in overrides.items()]
        return compose(target.config_name, words, return_hydra_config=True)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """For the length of a block Hydra composes as in a process of its own."""
    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if state is not None:
            GlobalHydra.instance().initialize(state)


def _difference(
    there: Mapping[str, Any], wanted: Mapping[str, Any], ignored: Sequence[str], prefix: str = ""
) -> dict[str, Any]:
    """What must be set for one config to become the other. A key that the wanted one has not is set to null."""
    found: dict[str, Any] = {}
    for key in [*wanted, *(key for key in there if key not in wanted)]:
        name = f"{prefix}{key}"
        now, then = there.get(key, MISSING), wanted.get(key, MISSING)
        if study_record.covered(name, ignored) or (then is MISSING and now is None):
            continue
        if isinstance(now, Mapping) and isinstance(then, Mapping):
            if inner := _difference(now, then, ignored, f"{name}."):
                found[key] = inner
        elif repr(now) != repr(then):
            found[key] = None if then is MISSING else then
    return found


# -------------------------------------------------------------------- the file


def _text(study: Study, row: TrialRow, target: Target, chosen: Mapping[str, str], values: Mapping[str, Any]) -> str:
    outcome = ", ".join(f"{name}={value}" for name, value in zip(study.metrics, row.values or (), strict=False))
    code = study.record.code
    lines = [
        "# @package _global_",
        f"# Trial {row.number} of study {study.name}: {outcome or row.state}",
        f"# study {study.record.uid}, commit {code.get('commit', 'none')}, code {code.get('digest', 'unknown')}, "
        f"lock {code.get('lock', 'none')}",
        f"# {target.command}",
        "defaults:",
        *(f"  - override /{group}: {member}" for group, member in chosen.items()),
        "  - _self_",
    ]
    body = yaml.safe_dump(_masked(values), sort_keys=False, allow_unicode=True) if values else ""
    return "\n".join(lines) + "\n" + (f"\n{body}" if body else "")


def _masked(value: Any) -> Any:
    """The same value; passwords in URLs are *** in it."""
    if isinstance(value, Mapping):
        return {key: _masked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one) for one in value]
    return secrets.masked(value) if isinstance(value, str) else value
