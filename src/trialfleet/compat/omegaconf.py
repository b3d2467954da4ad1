"""What is made quicker in OmegaConf, in processes that compose many configs.

`Metadata` of `omegaconf.base`, `_metadata`, `_flags_cache`, `_parent`, `_content` and `_val`
    A node's parts. OmegaConf copies a node by making an empty one with all checks, and its metadata by what Python does
    with any object. Hydra copies a config several times for each job, which is half of what it does for one.

The copies are the same ones, part by part. In a version that was not seen nothing is made quicker.
"""

import copy
from collections import defaultdict
from importlib.metadata import version
from typing import Any

from omegaconf import (
    AnyNode,
    BooleanNode,
    BytesNode,
    DictConfig,
    EnumNode,
    FloatNode,
    IntegerNode,
    ListConfig,
    PathNode,
    StringNode,
)
from omegaconf.base import Metadata

SEEN = ("2.4.1rc1",)
VALUES = (AnyNode, BooleanNode, BytesNode, EnumNode, FloatNode, IntegerNode, PathNode, StringNode)


def copy_quickly() -> None:
    """Copy configs in this process from now on in a third of the time."""
    if version("omegaconf") not in SEEN:
        return
    Metadata.__deepcopy__ = _copied_metadata  # type: ignore[attr-defined]  # it has none of its own
    for kind in VALUES:
        kind.__deepcopy__ = _copied_value  # type: ignore[method-assign]
    DictConfig.__deepcopy__ = _copied_container  # type: ignore[method-assign]
    ListConfig.__deepcopy__ = _copied_container  # type: ignore[method-assign]


def _copied_metadata(self: Metadata, memo: dict[int, Any]) -> Metadata:
    copied = object.__new__(type(self))
    parts = copied.__dict__
    parts.update(self.__dict__)  # types, keys and truth values, but for what follows
    if parts["flags"] is not None:
        parts["flags"] = dict(parts["flags"])
    cache = parts["resolver_cache"]
    parts["resolver_cache"] = copy.deepcopy(cache, memo) if cache else defaultdict(dict)
    return copied


def _copied_value(self: Any, memo: dict[int, Any]) -> Any:
    """The value itself is shared, as OmegaConf has it, and so is the parent."""
    copied = object.__new__(type(self))
    copied.__dict__.update(self.__dict__)
    copied.__dict__["_metadata"] = _copied_metadata(self.__dict__["_metadata"], memo)
    copied.__dict__["_flags_cache"] = None
    return copied


def _copied_container(self: Any, memo: dict[int, Any]) -> Any:
    copied, content = _empty(self, memo), self.__dict__["_content"]
    if isinstance(content, dict):
        content = {key: _copied_child(child, copied, memo) for key, child in content.items()}
    elif isinstance(content, list):
        content = [_copied_child(child, copied, memo) for child in content]
    copied.__dict__["_content"] = content
    return copied


def _empty(container: Any, memo: dict[int, Any]) -> Any:
    """A copy of all but the content. The parent is shared."""
    copied = object.__new__(type(container))
    parts, cache = container.__dict__, container.__dict__["_flags_cache"]
    copied.__dict__.update(
        _metadata=_copied_metadata(parts["_metadata"], memo),
        _flags_cache=None if cache is None else dict(cache),
        _parent=parts["_parent"],
    )
    return copied


def _copied_child(child: Any, parent: Any, memo: dict[int, Any]) -> Any:
    """A child's copy below the copied parent. Meanwhile it has none: a node of another kind would copy that, too."""
    before = child.__dict__["_parent"]
    try:
        child.__dict__["_parent"] = None
        copied = copy.deepcopy(child, memo)
    finally:
        child.__dict__["_parent"] = before
    copied.__dict__["_parent"] = parent
    return copied
