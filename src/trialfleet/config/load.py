"""From a composed DictConfig to a typed `Config`, or to one message that names every problem and its fix."""

import dataclasses
import difflib
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from trialfleet.config.derive import beyond_float32
from trialfleet.config.schema import Config
from trialfleet.errors import UserError

Location = Sequence[int | str]


def load(cfg: DictConfig) -> Config:
    """The typed config.

    Raises:
        UserError: with one line for each problem: the full key, what is wrong with it, and the fix.
    """
    try:
        _refuse_missing(cfg)
        container: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {_first_line(error)}", "correct that interpolation") from error
    plain: dict[str, Any] = {key: value for key, value in container.items() if key != "hydra"}
    schema: Any = _schema(plain)  # a type, which mypy takes for unhashable
    _fill_deleted(plain, schema)
    try:
        config = _adapter(schema).validate_json(json.dumps(plain))
    except ValidationError as error:
        raise _refusal(_line(problem, plain, schema) for problem in _telling(error.errors(), plain)) from error
    problems = [*beyond_float32(config), *config.problems()]
    if problems:
        raise _refusal(problems)
    return config


def _refuse_missing(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise _refusal(f"{key}: required, and not set; add {key}=VALUE to the command line" for key in missing)


def _schema(plain: Mapping[str, Any]) -> type[Config]:
    """The dataclass that `workload.schema` names."""
    workload = plain.get("workload")
    path = workload.get("schema") if isinstance(workload, Mapping) else None
    if not isinstance(path, str) or "." not in path:
        raise UserError(
            "workload.schema: must be the dotted path of a config dataclass, got " + _shown(path),
            "choose a workload, for example workload=asr",
        )
    module, _, name = path.rpartition(".")
    try:
        schema = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"workload.schema: {path} cannot be imported: {_first_line(error)}",
            "correct the path, or put its folder on PYTHONPATH",
        ) from error
    if not (isinstance(schema, type) and issubclass(schema, Config)):
        raise UserError(f"workload.schema: {path} is not a config dataclass", "inherit from trialfleet.config.Config")
    return schema


@cache
def _adapter(schema: Any) -> TypeAdapter[Config]:
    return TypeAdapter(schema)


def _fill_deleted(plain: dict[str, Any], schema: type) -> None:
    """A key that was deleted with `~key` and may be null is null."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if field.name not in plain:
            if NoneType in get_args(kind):
                plain[field.name] = None
        elif isinstance(plain[field.name], dict):
            for value, member in _members(kind, plain[field.name]):
                _fill_deleted(value, member)


def _members(kind: Any, value: dict[str, Any]) -> list[tuple[dict[str, Any], type]]:
    """The dataclass that a mapping is meant to be, or those of its values if it maps names to dataclasses."""
    if get_origin(kind) is dict:
        of_values = get_args(kind)[1]
        if not (isinstance(of_values, type) and dataclasses.is_dataclass(of_values)):
            return []
        return [(item, of_values) for item in value.values() if isinstance(item, dict)]
    member = _member(kind, value)
    return [(value, member)] if member else []


def _member(kind: Any, value: Mapping[str, Any]) -> type | None:
    """The dataclass that a mapping is meant to be: the type itself, or the member of a union with its name."""
    for option in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            tag = get_args(get_type_hints(option).get("name"))
            if not tag or value.get("name") in tag:
                return option
    return None


def _refusal(lines: Iterable[str]) -> UserError:
    listed = list(lines)
    if len(listed) == 1:
        return UserError(listed[0])
    return UserError("\n  ".join([f"the config has {len(listed)} problems:", *listed]))


def _telling(problems: Sequence[Any], plain: Mapping[str, Any]) -> list[Any]:
    """Without what only follows: a group whose member is another workload's has none of the wanted keys."""
    located = [(problem, tuple(_without_tags(problem["loc"], plain))) for problem in problems]
    strange = {
        where[:-1] for problem, where in located if problem["type"] == "literal_error" and where[-1:] == ("name",)
    }
    return [
        problem
        for problem, where in located
        if where[-1:] == ("name",) or not any(where[: len(s)] == s for s in strange)
    ]


def _line(problem: Any, plain: Mapping[str, Any], schema: type) -> str:
    location, kind = _without_tags(problem["loc"], plain), problem["type"]
    key, got = ".".join(map(str, location)), _shown(problem.get("input"))
    limits = problem.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        return f"{key}: no such key{_did_you_mean(location, plain, schema)}"
    if kind in ("missing", "missing_argument"):
        return f"{key}: required, and not set; add {key}=VALUE to the command line"
    if kind == "union_tag_invalid":
        return f"{key}.name: must be one of {limits['expected_tags']}, got {_shown(limits['tag'])}"
    if kind == "union_tag_not_found" and isinstance(problem.get("input"), dict):
        return (
            f"{key}.name: required, and not set: which {key} is it? Begin a file of your own with the member that it "
            f"builds on, for example defaults: [NAME]; or add {key}.name=NAME and all of its keys"
        )
    if kind == "union_tag_not_found":
        return f"{key}: choose a member of the group, for example {key}=NAME, got {got}"
    if kind == "literal_error" and len(location) == 2 and location[-1] == "name":
        wanted = f"{limits['expected']} for workload={plain['workload']['name']}"
        return f"{key}: must be {wanted}, got {got}; choose another member: {location[0]}=NAME"
    if kind == "literal_error":
        return f"{key}: must be {limits['expected']}, got {got}"
    if kind == "finite_number":
        return f"{key}: must be a finite number, got {got}"
    if kind.endswith(("_type", "_parsing")) or kind == "int_from_float":
        return f"{key}: must be {_KINDS.get(kind.rsplit('_', 1)[0], problem['msg'])}, got {got}"
    return f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {got}"


_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "int_from": "a whole number",
    "bool": "true or false",
    "string": "a string",
    "tuple": "a list",
    "dict": "a mapping",
    "dataclass": "a mapping of keys",
}


def _without_tags(location: Location, plain: Any) -> list[int | str]:
    """The location by keys of the config alone: pydantic puts the chosen member of a union in between."""
    found: list[int | str] = []
    node = plain
    for part in location:
        if isinstance(node, Mapping) and (part in node or part != node.get("name")):
            found.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            found.append(part)
            node = node[part] if part < len(node) else None
    return found


def _did_you_mean(location: Location, plain: Mapping[str, Any], schema: type) -> str:
    kind: type | None = schema
    node: Any = plain
    for part in location[:-1]:
        hint = get_type_hints(kind).get(str(part)) if kind else None
        node = node[part]
        kind = _member(hint, node) if hint and isinstance(node, Mapping) else None
    if kind is None:
        return ""
    names = [field.name for field in dataclasses.fields(kind)]
    prefix = "".join(f"{part}." for part in location[:-1])
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    if near:
        return f"; did you mean {prefix}{near[0]}?"
    return f"; there are {', '.join(prefix + name for name in names)}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str | int | float | bool):
        return repr(value)
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else type(value).__name__


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
