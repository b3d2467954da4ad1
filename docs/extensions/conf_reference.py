"""The reference of every key, made from conf/ (defaults), the schema (types, limits, meanings) and their comments."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import annotated_types as limits
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from trialfleet.config import Config, load
from trialfleet.config.location import conf_directory
from trialfleet.config.traced import Mark
from trialfleet.errors import UserError

PACKAGE_CONF = Path(inspect.getfile(Config)).parents[1] / "conf" / "hydra" / "sweeper"
PRESETS = ("experiment", "search_space", "workload")  # groups that set keys of others
MORE = {"grpo": ["training.init_from=PATH"], "asr_decoder": ["dataset.train=[PATH]"]}  # what a workload must be told
OF_MEMBER = {"dataset=gsm8k": ["dataset.train_path=PATH"], "dataset=mvfoul": ["dataset.data_dir=."]}  # and a member
LIMITS = {limits.Ge: ("≥", "ge"), limits.Gt: (">", "gt"), limits.Le: ("≤", "le"), limits.Lt: ("<", "lt")}


class Row(NamedTuple):
    """A key of the reference."""

    key: str
    default: str
    kind: str
    meaning: str


def as_markdown() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## Keys of every training", _table(_base_rows())]
    for group, members in sorted(_groups().items()):
        parts.append(f"## {group}")
        for schema, objects in members.items():
            names = ", ".join(f"`{group}={name}`" for name in objects)
            parts += [f"### {names}", _sentence(inspect.getdoc(schema) or ""), _table(_rows(group, schema, objects))]
    for group in PRESETS:
        parts += [f"## {group}", *(_preset(path) for path in sorted((conf_directory() / group).glob("*.yaml")))]
    parts += ["## hydra.sweeper", "The study engine's own keys, in any application.", _table(_sweeper_rows())]
    for group in ("sampler", "pruner"):
        parts += [f"### hydra/sweeper/{group}", _members_of_sweeper(group)]
    return "\n\n".join(parts) + "\n"


def undocumented() -> list[str]:
    """The keys of which nothing is said."""
    rows = [*_base_rows(), *_sweeper_rows()]
    for group, members in _groups().items():
        for schema, objects in members.items():
            rows += _rows(group, schema, objects)
    return sorted({row.key for row in rows if not row.meaning and row.key.rpartition(".")[2] != "name"})


_INTRODUCTION = """# Every key

A key is set as `KEY=VALUE` on the command line of `pipelines.train` and `pipelines.sweep`, a group's member is chosen
as `GROUP=MEMBER`. *traced* values are inputs of the compiled program: trials that differ in them alone share one
compilation. *host* values are never part of it. All others are compiled in."""


# ---- keys of the schema -----------------------------------------------------------------------------------------


def _base_rows() -> list[Row]:
    """What stands in conf/config.yaml itself."""
    texts = yaml.safe_load((conf_directory() / "config.yaml").read_text(encoding="utf-8"))
    texts.pop("defaults")
    hints = get_type_hints(Config, include_extras=True)
    rows = []
    for name, value in texts.items():
        if isinstance(value, Mapping):
            schema = _dataclass_of(hints[name])
            assert schema is not None
            inner = get_type_hints(schema, include_extras=True)
            rows += [
                Row(f"{name}.{key}", f"`{_shown(one)}`", _kind(inner[key]), _meaning(schema, key))
                for key, one in value.items()
            ]
        else:
            rows.append(Row(name, f"`{_shown(value)}`", _kind(hints[name]), _meaning(Config, name)))
    return rows


@cache
def _groups() -> dict[str, dict[type, dict[str, Any]]]:
    """For each group its members by their dataclass, composed with a workload that has the group."""
    found: dict[str, dict[type, dict[str, Any]]] = {}
    fits: dict[str, str] = {}
    folder = conf_directory()
    workloads = sorted(path.stem for path in (folder / "workload").glob("*.yaml"))
    for path in sorted(folder.glob("*/*.yaml")):
        group, member = path.parent.name, path.stem
        if group in PRESETS or group == "hydra":
            continue
        near = fits.get(group)  # the next member of a group fits where the one before did, more often than not
        node, fits[group] = _composed_member(group, member, sorted(workloads, key=lambda one: one != near))
        # A group that is a mapping, as `rewards` is one: its values have the schema.
        schema = type(next(iter(node.values()))) if isinstance(node, Mapping) else type(node)
        found.setdefault(group, {}).setdefault(schema, {})[member] = node
    return found


def _composed_member(group: str, member: str, workloads: list[str]) -> tuple[Any, str]:
    """The group's node, and the first workload that takes this member."""
    chosen = f"{group}={member}"
    for workload in workloads:
        words = [f"workload={workload}", chosen, *MORE.get(workload, []), *OF_MEMBER.get(chosen, [])]
        try:
            with initialize_config_dir(str(conf_directory())):
                cfg: DictConfig = compose("config", words)
            return getattr(load(cfg), group), workload
        except (UserError, AttributeError):
            continue
        except Exception as error:  # Hydra's, for a group that this workload has not
            if group not in str(error):
                raise
    raise AssertionError(f"{group}={member} fits no workload")


def _rows(group: str, schema: type, objects: Mapping[str, Any], before: str = "") -> list[Row]:
    if any(isinstance(one, Mapping) for one in objects.values()):
        return _rows(
            group, schema, {name: one for node in objects.values() for name, one in node.items()}, f"{group}.NAME"
        )
    hints = get_type_hints(schema, include_extras=True)
    rows = []
    for field in dataclasses.fields(schema):
        values = {name: getattr(one, field.name) for name, one in objects.items()}
        key = f"{before or group}.{field.name}"
        inner = _dataclass_of(hints[field.name])
        if inner is not None and all(dataclasses.is_dataclass(value) for value in values.values()):
            rows += _rows(group, inner, values, key)
            continue
        if field.name != "name":
            rows.append(Row(key, _defaults(values), _kind(hints[field.name]), _meaning(schema, field.name)))
        if inner is not None:
            rows += [_null_row(key, inner, name) for name in (one.name for one in dataclasses.fields(inner))]
    return rows


def _null_row(key: str, schema: type, name: str) -> Row:
    kind = _kind(get_type_hints(schema, include_extras=True)[name])
    place = f"{key}.{name}" if "Rates" not in schema.__name__ else f"{key}.GROUP.{name}"
    return Row(place, "", kind, _meaning(schema, name))


def _defaults(values: Mapping[str, Any]) -> str:
    """The value of the first member, and of each other that has another."""
    first = next(iter(values.values()))
    others = [f"{name}: `{_shown(value)}`" for name, value in values.items() if value != first]
    return "; ".join([f"`{_shown(first)}`", *others])


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if dataclasses.is_dataclass(value):
        return "{" + ", ".join(f"{f.name}: {_shown(getattr(value, f.name))}" for f in dataclasses.fields(value)) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_shown(one)}" for name, one in value.items()) + "}"
    return str(value)


def _dataclass_of(hint: Any) -> type | None:
    """The one dataclass in a type, if there is one."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    for argument in get_args(hint):
        found = _dataclass_of(argument)
        if found is not None:
            return found
    return None


def _kind(hint: Any) -> str:
    """A type in words: 'integer ≥ 1, or null; traced'."""
    marks = {part for part in _metadata(hint) if isinstance(part, Mark)}
    bounds = [
        f"{LIMITS[type(one)][0]} {getattr(one, LIMITS[type(one)][1]):g}"
        for one in _metadata(hint)
        if type(one) in LIMITS
    ]
    words = " or ".join(dict.fromkeys(_names(hint)))
    text = ", ".join([" ".join([words, *bounds[:1]]), *bounds[1:]])
    mark = next((mark.value for mark in marks), "")
    return f"{text}; {mark}" if mark else text


def _metadata(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        yield from get_args(hint)[1:]
        yield from _metadata(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _metadata(part)


_WORDS: dict[Any, str] = {int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "null"}


def _names(hint: Any) -> Iterator[str]:
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _names(get_args(hint)[0])
    elif origin in (Union, UnionType):
        parts = sorted(get_args(hint), key=lambda part: part is NoneType)
        for part in parts:
            yield from _names(part)
    elif origin is Literal:
        yield ", ".join(f"`{one}`" for one in get_args(hint))
    elif origin is tuple:
        yield f"list of {next(iter(_names(get_args(hint)[0])), 'values')}s"
    elif origin is dict or dataclasses.is_dataclass(hint):
        yield "mapping"
    else:
        yield _WORDS.get(hint, str(hint))


@cache
def _comments(schema: type) -> dict[str, str]:
    """What the source says of each field: the comment on its lines."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        lines, _ = inspect.getsourcelines(base)
        source = textwrap.dedent("".join(lines))
        split = source.splitlines()
        (tree,) = ast.parse(source).body
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                here = split[node.lineno - 1 : node.end_lineno]
                notes = [line.split("  # ", 1)[1] for line in here if "  # " in line and "type: ignore" not in line]
                for above in reversed(split[: node.lineno - 1]):
                    if not above.startswith("    # "):
                        break
                    notes = [above.removeprefix("    # "), *notes]
                if notes:
                    found[node.target.id] = " ".join(notes)
    return found


def _meaning(schema: type, name: str) -> str:
    comment = _comments(schema).get(name, "")
    return _sentence(comment) if comment else ""


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    if re.match(r"[\w, ]+:", text):  # begins with a value: null: …
        return text if text.endswith(".") else f"{text}."
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}" if text else ""


# ---- the sweeper and presets ------------------------------------------------------------------------------------


def _sweeper_rows() -> list[Row]:
    """The keys of the package's own file, each with the comment above it."""
    rows: list[Row] = []
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    text = (PACKAGE_CONF / "trialfleet.yaml").read_text(encoding="utf-8")
    for line in text[text.index("\n_target_") :].splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        match = re.match(r"( *)([\w.]+):(.*)$", line)
        if match is None:
            comment = []
            continue
        depth, name, value = len(match[1]), match[2], match[3].strip()
        path = [*[part for part in path if part[0] < depth], (depth, name)]
        key = ".".join(["hydra.sweeper", *(part[1] for part in path)])
        if name != "_target_" and (value or comment):
            rows.append(Row(key, f"`{value}`" if value else "", "", _sentence(" ".join(comment))))
        comment = []
    return [row for row in rows if row.default or row.meaning]


def _members_of_sweeper(group: str) -> str:
    lines = []
    for folder in (PACKAGE_CONF, conf_directory() / "hydra" / "sweeper"):
        for path in sorted((folder / group).glob("*.yaml")):
            lines.append(f"`{group}={path.stem}`\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```")
    return "\n\n".join(lines)


def _preset(path: Path) -> str:
    return f"### {path.parent.name}={path.stem}\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"


def _table(rows: list[Row]) -> str:
    lines = ["| key | default | kind | meaning |", "|---|---|---|---|"]
    for row in rows:
        cells = [f"`{row.key}`", row.default, row.kind, row.meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)
