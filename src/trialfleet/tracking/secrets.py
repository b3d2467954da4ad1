"""Addresses with passwords in them: masked in all that is shown, recorded or sent to jobs.

Jobs talk to no storage and to no tracking server, so nothing that goes down to them needs a password.
"""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

_ADDRESSES = ("hydra.sweeper.storage", "tracking.uri")  # the settings that may hold one
_USER = re.compile(r"(://[^:/@\s]*:)[^@\s]*(?=@)")
_QUERY = re.compile(r"((?:password|passwd|pwd|token)=)[^&\s'\"]*", re.IGNORECASE)


def masked(text: str) -> str:
    """A text in which URLs have *** for a password."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***", text))


def masked_override(text: str) -> str:
    """An override as it may be recorded: only those of settings that hold an address are touched."""
    key = text.partition("=")[0].lstrip("+~")
    ours = any(key == address or key.startswith(f"{address}.") for address in _ADDRESSES)
    return masked(text) if ours else text


def mask(config: DictConfig) -> None:
    """Take the passwords out of a composed config, its list of overrides included."""
    with read_write(config), open_dict(config):
        for key in _ADDRESSES:
            address = OmegaConf.select(config, key, throw_on_missing=False)
            if address is not None:
                plain = OmegaConf.to_container(address, resolve=True) if OmegaConf.is_config(address) else address
                OmegaConf.update(config, key, _masked_within(plain), merge=False, force_add=True)
        for kind in ("hydra", "task"):
            overrides = OmegaConf.select(config, f"hydra.overrides.{kind}")
            if overrides is not None:
                with read_write(config.hydra), open_dict(config.hydra):
                    config.hydra.overrides[kind] = [masked_override(text) for text in overrides]


def _masked_within(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: _masked_within(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked_within(item) for item in value]
    return value
