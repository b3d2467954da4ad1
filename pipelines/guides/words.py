"""What the words of a guide's line say, before anything is translated: overrides, flags, or a file of settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from trialfleet.errors import UserError


class Setting(NamedTuple):
    """One setting of a line.

    Attributes:
        key: in the guide's words.
        values: one, or several in a sweep; None where the key is deleted.
        shown: what was typed, for messages.
    """

    key: str
    values: tuple[str, ...] | None
    shown: str


def settings_of_override(word: str) -> list[Setting]:
    """A Hydra override; a mapping that it adds is several settings.

    Raises:
        UserError: it is none.
    """
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{word}: is no override of Hydra's ({first})", "quote what the shell would change") from error
    if override.package is not None:
        raise UserError(f"{word}: no program of the guides has packages", f"leave out @{override.package}")
    key = override.key_or_group
    if override.is_delete():
        return [Setting(key, None, word)]
    if override.is_discrete_sweep():
        try:
            values = tuple(override.sweep_string_iterator())
        except (HydraException, ValueError) as error:  # glob, which looks for members in a config; a step of 0
            raise UserError(f"{word}: cannot be translated", "list the values: KEY=A,B") from error
        typed = tuple(word.split("=", 1)[1].split(","))  # 1e-6 stays as it was typed
        return [Setting(key, typed if len(typed) == len(values) and "(" not in word else values, word)]
    value = override.value()
    if isinstance(value, dict):
        return [Setting(name, (text,), word) for name, text in flat({key: value})]
    return [Setting(key, (word.split("=", 1)[1],), word)]


def settings_of_flags(words: Sequence[str], flags: Mapping[str, str]) -> list[Setting]:
    """Flags as argparse reads them: --name VALUE, --name=VALUE, and switches.

    Args:
        flags: for each flag (without --) the guide's key, or KEY=VALUE for a switch.
    """
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--"):
            raise UserError(f"{word}: is neither a flag nor the value of one", "flags are --NAME VALUE")
        if name not in flags:
            found.append(Setting(word.partition("=")[0], ("",), word))
            if left and not left[0].startswith("--"):
                left.pop(0)
            continue
        key, switch, set_to = flags[name].partition("=")
        if switch and equals:
            raise UserError(f"{word}: is a switch, which takes no value", "leave it out to have it off")
        if switch:
            found.append(Setting(key, (set_to,), word))
            continue
        if not equals:
            if not left or left[0].startswith("--"):
                raise UserError(f"{word}: has no value", f"give one: {word} VALUE")
            value = left.pop(0)
        found.append(Setting(key, (rendered(value),), word))
    return found


def settings_of_file(path: Path) -> Iterator[Setting]:
    """A JSON experiment, or an experiment in YAML whose defaults list chooses members.

    Raises:
        UserError: the file is not there, or is none of both.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such file in {Path.cwd()}", "give the path of an experiment file, JSON or YAML"
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}", "correct the file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no mapping of settings", 'write one, such as {"training": {"max_steps": 100}}')
    yield from _of_defaults(content.pop("defaults", None) or [], path)
    try:
        leaves = list(flat(content))
    except RecursionError as error:  # an anchor of YAML's that holds itself, too
        raise UserError(f"{path}: its settings are nested too deeply", "write them as GROUP: {KEY: VALUE}") from error
    for key, value in leaves:
        yield Setting(key, (value,), f"{path.name}: {key}: {value}")


def _of_defaults(entries: Any, path: Path) -> Iterator[Setting]:
    """The members that a defaults list chooses."""
    if not isinstance(entries, list):
        raise UserError(f"{path}: defaults: is no list", "write one, such as [{override /model: small}]")
    for entry in entries:
        for group, member in entry.items() if isinstance(entry, dict) else ():
            if not isinstance(member, str):
                raise UserError(f"{path}: defaults: {group}: {member}: is no member's name", "choose one member")
            name = str(group).removeprefix("override ").strip().removeprefix("/")
            yield Setting(name, (member,), f"{path.name}: {group}: {member}")


def flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Each leaf with its dotted key, and its value as an override has it."""
    for name, value in content.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{key}.")
        else:
            yield key, rendered(value)


def rendered(value: Any) -> str:
    """A value as it stands in an override.

    Text is quoted where Hydra would read something else.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if _is_plain(value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, list):
        return f"[{','.join(map(rendered, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{rendered(one)}' for key, one in value.items())}}}"
    return str(value)


def _is_plain(text: str) -> bool:
    try:
        override: Override = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return False
    return not override.is_sweep_override() and not isinstance(override.value(), dict | list) and text.strip() != ""
