"""What a base training is told: Hydra's overrides, made of the config of the training that begins from it."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError
from trialfleet.sweep.ui import command_line

if TYPE_CHECKING:
    from trialfleet.config import Config
    from trialfleet.config.schema import Base

MISSING = object()  # where a config has no such key


def told(config: "Config", base: "Base") -> list[str]:
    """The overrides of a base training: what it has from this one, then its own, which win.

    Raises:
        UserError: naming the key.
    """
    groups = [
        word for key, one in base.overrides.items() if not isinstance(one, Mapping) for word in _overrides(key, one)
    ]
    # What stands where the same is to stand: it has other keys, if it is another dataset's.
    chosen = composed(groups)
    same = []
    for key in base.same:
        try:
            value = _plain(attrgetter(key)(config))
        except AttributeError as error:
            raise UserError(f"training.base.same: {error}", "give keys that this training has") from error
        same += _replaced(key, value, _there(chosen, key))
    return [*same, *(word for key, value in base.overrides.items() for word in _overrides(key, value))]


def _plain(value: Any) -> Any:
    """A value of a config with mappings in place of dataclasses."""
    if is_dataclass(value):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    if callable(value):
        raise AttributeError(f"{value.__name__} is no key")
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def _there(chosen: DictConfig, key: str) -> Any:
    """What a config has at a key, mappings as such."""
    found = OmegaConf.select(chosen, key, default=MISSING, throw_on_missing=False)
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def _replaced(key: str, value: Any, there: Any) -> list[str]:
    """What puts a value in the place of what is there, of which no key stays that the value does not have."""
    if there is MISSING:
        return [f"+{word}" for word in _overrides(key, value)]
    if not isinstance(value, Mapping) or not isinstance(there, Mapping):
        return _overrides(key, value)
    gone = [f"~{key}.{name}" for name in there if name not in value]
    kept = [_replaced(f"{key}.{name}", one, there.get(name, MISSING)) for name, one in value.items()]
    return [*gone, *(word for words in kept for word in words)]


def _overrides(key: str, value: Any) -> list[str]:
    """What sets a key, and all below it, to a value."""
    if isinstance(value, Mapping) and value:
        return [word for name, one in value.items() for word in _overrides(f"{key}.{name}", one)]
    if isinstance(value, str):
        return [command_line.override(key, value)]  # as a person would write it
    return [f"{key}={_said(value)}"]


def _said(value: Any) -> str:
    """A value in the words of Hydra's overrides."""
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_said, value)) + "]"
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return "null" if value is None else str(value).lower()


def composed(overrides: list[str]) -> DictConfig:
    """The config of a base training.

    Raises:
        UserError: Hydra cannot compose it.
    """
    # Within a command of Hydra's its own search path is heeded, too; a job has none.
    there = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if there else initialize_config_dir(str(conf_directory())):
            return compose("train", overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra's own of a group that is null
        raise UserError(
            f"training.base.overrides: {error}", "correct it; ~training.base.overrides.KEY leaves a key out"
        ) from error
