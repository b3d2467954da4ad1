"""What is made quicker in OmegaConf, in processes that compose many configs.

`Metadata` of `omegaconf.base`, `_metadata`, `_flags_cache`, `_parent`, `_content` and `_val`
    A node's parts. OmegaConf copies a node by making an empty one with all checks, and its metadata by what Python does
    with any object. Hydra copies a config several times for each job, which is half of what it does for one.

`BaseContainer._to_content`
    A config as plain Python, interpolations as they are written. OmegaConf asks each node whether it is missing, an
    interpolation or none, where its value alone tells. Hydra does it four times for each job.

The results are the same, part by part. In a version that was not seen nothing is made quicker.
"""

import contextlib
import copy
from collections import defaultdict
from enum import Enum
from importlib.metadata import version
from types import NoneType
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
    SCMode,
    StringNode,
)
from omegaconf.base import Metadata
from omegaconf.basecontainer import BaseContainer

SEEN = ("2.4.1rc1",)
VALUES = (AnyNode, BooleanNode, BytesNode, EnumNode, FloatNode, IntegerNode, PathNode, StringNode)


PLAIN = (bool, int, float, str, bytes, NoneType)  # values that are what they look like
_own_content = BaseContainer._to_content


def be_quick() -> None:
    """Copy configs in this process from now on, and make plain Python of them, in a third of the time."""
    if version("omegaconf") not in SEEN:
        return
    Metadata.__deepcopy__ = _copied_metadata  # type: ignore[attr-defined]  # it has none of its own
    for kind in VALUES:
        kind.__deepcopy__ = _copied_value  # type: ignore[method-assign]
    DictConfig.__deepcopy__ = _copied_container  # type: ignore[method-assign]
    ListConfig.__deepcopy__ = _copied_container  # type: ignore[method-assign]
    BaseContainer._to_content = staticmethod(_content)  # type: ignore[method-assign, assignment]


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


class _Unusual(Exception):
    """A node that OmegaConf's own way is left for."""


def _content(conf: Any, resolve: bool, throw_on_missing: bool, enum_to_str: bool = False, **others: Any) -> Any:
    """`others` may have `encode_missing_literals`: of no effect on nodes that are usual."""
    if not resolve and not throw_on_missing and others.get("structured_config_mode", SCMode.DICT) is SCMode.DICT:
        with contextlib.suppress(_Unusual):
            return _plain(conf, enum_to_str)
    return _own_content(conf, resolve, throw_on_missing, enum_to_str, **others)


def _plain(node: Any, enum_to_str: bool) -> Any:
    parts, kind = node.__dict__, type(node)
    if kind in VALUES:
        value = parts["_val"]
        if type(value) in PLAIN:
            return value
        if isinstance(value, Enum):
            return value.name if enum_to_str else value
    elif kind is DictConfig or kind is ListConfig:
        content = parts["_content"]
        if type(content) is dict and all(type(key) in PLAIN for key in content):
            return {key: _plain(child, enum_to_str) for key, child in content.items()}
        if type(content) is list:
            return [_plain(child, enum_to_str) for child in content]
        if content is None or type(content) is str:  # none, missing, or an interpolation
            return content
    raise _Unusual
