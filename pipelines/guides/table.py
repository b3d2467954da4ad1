"""What a guide's commands mean here, as data: one YAML file for each guide, read into these classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
GUIDES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@dataclass(frozen=True)
class Program:
    """A way in which a guide's line begins.

    Attributes:
        front: how its words are read: 'hydra' overrides, 'flags' such as --learning-rate 1e-5, or a 'json' file.
        command: our module, for example pipelines.train.
        words: what it always adds, in the guide's own words.
        flags: the flags that mean something else to it than to the other programs.
    """

    front: str
    command: str
    words: tuple[str, ...] = ()
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Meaning:
    """What a key, or a member of a group, means here.

    Attributes:
        to: our key, or for a member our overrides; None if it has no meaning here.
        says: for a member, what it sets in the guide's own words, besides `to`.
        values: the guide's values and ours, where they differ.
        others: whether values that `values` does not have stay as they are.
        parts: where the value is a list, its parts and ours, of which one alternative is made.
        same: values that say what is so here anyway, of which nobody need be warned.
        within: our value, in which the guide's stands at {}; None if it is the value itself.
        also: overrides that come before all others.
        factor_of: our key to whose value this one contributes a factor.
        default: the factor where only others are given; None if without it there is nothing to multiply.
        command: the module that the setting asks for, where it is another than the program's.
        refused_values: why some values cannot be had.
        warn: why it is left out.
        refuse: why the line cannot be run, and what can.
    """

    to: tuple[str, ...] | None = None
    says: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)
    others: bool = False
    parts: dict[str, str] = field(default_factory=dict)
    same: tuple[str, ...] = ()
    within: str | None = None
    also: tuple[str, ...] = ()
    factor_of: str | None = None
    default: float | None = 1.0
    command: str | None = None
    refused_values: dict[str, str] = field(default_factory=dict)
    warn: str | None = None
    refuse: str | None = None


@dataclass(frozen=True)
class Guide:
    """One guide."""

    name: str
    programs: dict[str, Program]
    always: dict[str, tuple[str, ...]]  # by command of ours, the overrides that it always has
    config_names: dict[str, tuple[str, ...]]  # --config-name NAME: the guide's words
    groups: dict[str, dict[str, Meaning]]
    keys: dict[str, Meaning]
    flags: dict[str, str]  # a flag of the old front end: the guide's key, or KEY=VALUE for a switch
    lines: tuple[str, ...]  # every command of the guide


def load(name: str) -> Guide:
    """The table of a guide."""
    raw = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Guide(
        name=name,
        programs={
            begin: Program(one["front"], one["command"], tuple(one.get("words", ())), one.get("flags", {}))
            for begin, one in raw["programs"].items()
        },
        always={command: tuple(words) for command, words in raw["always"].items()},
        config_names={key: tuple(words) for key, words in raw.get("config_names", {}).items()},
        groups={
            group: {str(member): _meaning(what) for member, what in members.items()}
            for group, members in raw["groups"].items()
        },
        keys={key: _meaning(what) for key, what in raw["keys"].items()},
        flags=raw.get("flags", {}),
        lines=tuple(raw["lines"]),
    )


def _meaning(what: Any) -> Meaning:
    """A plain string is our key or override; a list is several; a mapping says all else."""
    if isinstance(what, str):
        return Meaning(to=(what,))
    if isinstance(what, list):
        return Meaning(to=tuple(what))
    fields = dict(what)
    if "to" in fields:
        fields["to"] = (fields["to"],) if isinstance(fields["to"], str) else tuple(fields["to"])
    if "values" in fields:
        fields["values"] = {str(old): str(new) for old, new in fields["values"].items()}
    several = {name: tuple(map(str, fields.get(name, ()))) for name in ("also", "says", "same")}
    return Meaning(**{**fields, **several})
