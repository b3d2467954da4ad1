"""What Hydra may build from a node of the config: the usual, and what the user typed."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_TRUSTED = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.*", "optunahub.*", "trialfleet.sweep.*")


def trusted(node: Any) -> tuple[str, ...]:
    """What may be built from a node of the config: the usual, and whatever the node itself names.

    The node is what the user typed, or has in a config of theirs; what jobs or other people write is never built.
    """
    return (*_TRUSTED, *_targets(OmegaConf.to_container(node) if OmegaConf.is_config(node) else node))


def _targets(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
        return own + [name for value in node.values() for name in _targets(value)]
    if isinstance(node, list | tuple):
        return [name for value in node for name in _targets(value)]
    return []
