"""Addresses with passwords in them: masked in all that is shown, recorded or sent to jobs.

Jobs talk to no storage and to no tracking server, so nothing that goes down to them needs a password.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

_ADDRESSES = ("hydra.sweeper.storage", "hydra.sweeper.tracking.uri")  # the settings that may hold one
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_USER = re.compile(r"(://[^:/@\s]*:)[^@\s]*(?=@)")
_QUERY = re.compile(r"((?:password|passwd|pwd|token)=)[^&\s'\"]*", re.IGNORECASE)


def masked(text: str) -> str:
    """A text in which URLs have *** for a password."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***", text))


def addresses(config: DictConfig) -> list[str]:
    """The keys that may hold one: the sweeper's own, and those of the application that fill them.

    Whatever else an application has in its config its jobs may need as it is.
    """
    own = [_written(config, address) for address in _ADDRESSES]
    filled = [_REFERENCE.fullmatch(text) for text in own if isinstance(text, str)]
    return [*_ADDRESSES, *(found.group(1) for found in filled if found)]


def masked_override(text: str, keys: Collection[str]) -> str:
    """An override as it may be recorded: only those of `keys`, or below them, are touched."""
    key = text.partition("=")[0].lstrip("+~")
    ours = any(key == address or key.startswith(f"{address}.") for address in keys)
    return masked(text) if ours else text


def overrides(config: DictConfig, kind: str) -> list[str]:
    """The overrides of a kind ("hydra" or "task") as they were typed: what they refer to may be each trial's own."""
    return [str(text) for text in _written(config, f"hydra.overrides.{kind}") or ()]


def mask(config: DictConfig) -> list[str]:
    """Take the passwords out of a composed config, its list of overrides included.

    Returns:
        the dotted keys that were changed.
    """
    changed, keys = [], addresses(config)
    for address in keys:
        for key, text in _texts(_written(config, address), address):
            if masked(text) != text:
                _set(config, key, masked(text))
                changed.append(key)
    for kind in ("hydra", "task"):
        own = overrides(config, kind)
        safe = [masked_override(text, keys) for text in own]
        if safe != own:
            _set(config, f"hydra.overrides.{kind}", safe)
    return changed


def _set(config: DictConfig, key: str, value: Any) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent)
    with read_write(node), open_dict(node):
        node[name] = value


def _written(config: DictConfig, key: str) -> Any:
    """What a config has under a key, references as they are written; None if nothing."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent, throw_on_resolution_failure=False) if parent else config
    plain = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else None
    return plain.get(name) if isinstance(plain, dict) else None


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}")
