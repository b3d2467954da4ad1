"""From a guide's line to our command."""

import difflib
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan, prod
from pathlib import Path
from typing import NoReturn

from pipelines.guides.table import Guide, Meaning, Program
from pipelines.guides.words import Setting, settings_of_file, settings_of_flags, settings_of_override
from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError

INTERPRETERS = ("python", "python3")
WITH_A_VALUE = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd")  # options of Hydra's
WITHOUT = ("--help", "-h", "--hydra-help", "--resolve", "--multirun", "-m", "--dry-run")
WITHOUT_FLAGS = ("--help", "-h", "--dry-run")  # what the front ends with flags know of them
EXPERIMENTS = ("experiment", "experiments")  # the groups of presets
CONFIG_NAME = "--config-name"
CONFIG_NAMES = (CONFIG_NAME, "-cn")
OUR_EXPERIMENT = "our experiment"  # one of conf/experiment
QUOTES = ("'", '"')
# Where the guides' readers keep experiments of their own.
EXPERIMENT_FOLDERS = ("conf/experiment", "configs/hydra/experiments", "conf/presets")


@dataclass
class Command:
    """Our command.

    Attributes:
        module: what `python -m` runs.
        options: of Hydra's.
        first: overrides that all others may change.
        overrides: in the order in which they were typed.
        factors: for each of our keys, the factors of its value by the guide's key.
        warnings: what was left out, and why.
    """

    module: str
    options: list[str] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    factors: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def argv(self) -> list[str]:
        """The words after `python -m`."""
        return [self.module, *self.options, *self.settled()]

    def settled(self) -> list[str]:
        """The overrides; of several of a key the last one."""
        words = [*self.first, *self.overrides]
        last = {word.lstrip("+~").partition("=")[0]: index for index, word in enumerate(words)}
        return [words[index] for index in sorted(last.values())]

    def __str__(self) -> str:
        return f"python -m {shlex.join(self.argv())}"


def translate(guide: Guide, line: Sequence[str]) -> Command:
    """Our command for a line of a guide.

    Args:
        line: its words from the program's name on, quotes already taken off, as a shell gives them.

    Raises:
        UserError: the line cannot be run here, or has a word that the guide does not know.
    """
    line, own = _without_own_words(line)
    program, words = _program(guide, line)
    command = Command(program.command)
    translator = _Translator(guide, command)
    words = [*program.words, *words]
    if program.front == "flags":
        asked = [word for word in words if word in WITHOUT_FLAGS]
        command.options += asked
        flags = {**guide.flags, **program.flags}
        translator.settings(settings_of_flags([word for word in words if word not in asked], flags))
    elif program.front == "json":
        if not words:
            begin = " ".join(line)
            raise UserError(f"{begin}: has no experiment file", f"give its path, for example {begin} experiment.json")
        translator.hydra(words[1:], translator.of_file(Path(words[0])))
    else:
        translator.hydra(words)
    translator.multiply()
    if command.module.startswith("pipelines.") and command.module != "pipelines.doctor":
        command.first[:0] = guide.always.get(command.module, ())
    command.overrides += own
    return command


def _without_own_words(line: Sequence[str]) -> tuple[list[str], list[str]]:
    """What follows `--` is ours already."""
    words = list(line)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _program(guide: Guide, line: Sequence[str]) -> tuple[Program, list[str]]:
    words = list(line)
    if words and words[0] in INTERPRETERS:
        del words[0]
    for length in (3, 2, 1):
        begin = " ".join(words[:length]).removeprefix("./")
        if len(words) >= length and begin in guide.programs:
            return guide.programs[begin], words[length:]
    shown = " ".join(words[:2])
    if not shown:
        some = next(iter(guide.programs))
        raise UserError(
            f"guide {guide.name}: there is no line to translate",
            f"type one from the program's name on, such as {some}; `python -m pipelines.guide --list {guide.name}` "
            "shows all that there is",
        )
    raise UserError(
        f"{shown}: no line of the guide {guide.name} begins so{_nearest(shown, guide.programs)}",
        f"begin with one of {', '.join(sorted(guide.programs))}",
    )


class _Translator:
    """Fills a command, setting by setting."""

    def __init__(self, guide: Guide, command: Command) -> None:
        self.guide = guide
        self.command = command

    def hydra(self, words: Sequence[str], before: Sequence[Setting] = ()) -> None:
        """Words of a program that has Hydra's command line, which win over the settings before them."""
        self.settings(self._typed(words), before)

    def _typed(self, words: Sequence[str]) -> list[Setting]:
        """The settings among the words; the options are taken over."""
        left, found = list(words), []
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            if word in WITHOUT:
                self.command.options.append(word)
            elif name in CONFIG_NAMES:
                config = (value or _missing(name)) if equals else _value(name, left)
                found.append(Setting(CONFIG_NAME, (config.removesuffix(".yaml"),), f"{name} {config}"))
            elif name in WITH_A_VALUE:
                self.command.options += [word] if equals else [word, _value(name, left)]
            elif word.startswith("-") and not equals:
                known = ", ".join((*CONFIG_NAMES, *WITH_A_VALUE, *WITHOUT))
                raise UserError(f"{word}: is no option of the guide's commands", f"use {known}")
            else:
                found += settings_of_override(word)
        return found

    def of_file(self, path: Path) -> list[Setting]:
        """An experiment's file. Its keys may stand without their groups, as in the older ones."""
        found = []
        for setting in settings_of_file(path):
            ends = [key for key in self.guide.keys if key.endswith(f".{setting.key}")]
            known = setting.key in (*self.guide.keys, *self.guide.groups)
            found.append(setting if known or not ends else setting._replace(key=ends[0]))
        return found

    def settings(self, typed: Sequence[Setting], before: Sequence[Setting] = ()) -> None:
        """Translate all settings of a line.

        As in Hydra the order of the words does not matter: what is typed wins over what a preset says, and a key over
        the member of its group.
        """
        presets, own = list(before), []
        for setting in typed:
            said = self._said_by_preset(setting)
            presets += said if said is not None else []
            own += [setting] if said is None else []
        groups = self.guide.groups
        members = {one.key: one for one in [*presets, *own] if one.key in groups}
        for setting in [
            *(one for member in members.values() for one in self._said_by_member(member)),
            *self._ranked([one for one in presets if one.key not in groups]),
            *self._ranked([one for one in own if one.key not in groups]),
        ]:
            self._setting(setting)

    def _said_by_preset(self, setting: Setting) -> list[Setting] | None:
        """What a preset or an experiment's file says in the guide's words; None if the setting is neither."""
        if setting.values is None or setting.key not in (*EXPERIMENTS, CONFIG_NAME):
            return None
        presets = self.guide.groups.get("experiment", {})
        if len(setting.values) > 1:
            raise UserError(f"{setting.shown}: presets cannot be swept", "run the line once for each of them")
        (name,) = setting.values
        if setting.key == CONFIG_NAME and name in self.guide.config_names:
            return [one for word in self.guide.config_names[name] for one in settings_of_override(word)]
        if name in presets:
            return self._said_by_member(setting._replace(key="experiment"))
        for folder in EXPERIMENT_FOLDERS:
            path = Path(folder) / f"{name}.yaml"
            if path.is_file() and not path.parent.samefile(conf_directory() / "experiment"):
                return self.of_file(path)
        return [setting._replace(key=OUR_EXPERIMENT)]

    def _said_by_member(self, setting: Setting) -> list[Setting]:
        """A member whose meaning stands in the guide's words is these words, besides what it is; all else is itself."""
        members = self.guide.groups.get(setting.key, {})
        if setting.values is None or len(setting.values) != 1 or setting.values[0] not in members:
            return [setting]
        meaning = members[setting.values[0]]
        said = [one for word in meaning.says for one in settings_of_override(word)]
        return [setting, *said] if meaning.to or not said else said

    def _ranked(self, settings: Sequence[Setting]) -> list[Setting]:
        """The settings, and last those of several keys that mean the same key here.

        Of these a switch that is on wins over one that is off, and then the one that is further down in the table.
        """
        once = list({one.key: one for one in settings}.values())
        keys = list(self.guide.keys)
        targets = {one.key: _targets(self.guide.keys[one.key]) for one in once if one.key in keys}

        def shared(setting: Setting) -> bool:
            mine = targets.get(setting.key, set())
            others = [target for key, all_ in targets.items() if key != setting.key for target in all_]
            return any(_overlap(one, other) for one in mine for other in others)

        def rank(setting: Setting) -> tuple[bool, int]:
            on = setting.values is not None and setting.values[0].lower() != "false"
            return on, keys.index(setting.key) * (1 if on else -1)

        return [*(one for one in once if not shared(one)), *sorted(filter(shared, once), key=rank)]

    def _setting(self, setting: Setting) -> None:
        key = setting.key
        if key == OUR_EXPERIMENT and setting.values is not None:
            self.command.overrides.append(f"+experiment={setting.values[0]}")
        elif key in self.guide.groups:
            self._members(setting, self.guide.groups[key])
        elif key in self.guide.keys:
            self._key(setting, self.guide.keys[key])
        elif key.startswith(("hydra.", "hydra/")):
            self.command.overrides.append(setting.shown)
        else:
            known = [*self.guide.keys, *self.guide.groups, *(f"--{flag}" for flag in self.guide.flags)]
            raise UserError(
                f"{setting.shown}: the guide {self.guide.name} has no {key}{_nearest(key, known)}",
                "`python -m pipelines.guide --list " + self.guide.name + "` shows all that there is",
            )

    def _members(self, setting: Setting, members: dict[str, Meaning]) -> None:
        """The choice of a group's member, or of several in a sweep."""
        if setting.values is None:
            raise UserError(f"{setting.shown}: a group cannot be taken out", f"choose one of {', '.join(members)}")
        chosen = []
        for member in setting.values:
            if member not in members:
                raise UserError(
                    f"{setting.shown}: the guide's group {setting.key} has no {member}{_nearest(member, members)}",
                    f"choose one of {', '.join(members)}",
                )
            meaning = members[member]
            self._check(setting, meaning)
            chosen.append(meaning)
        if len(chosen) == 1:
            self.command.first += chosen[0].also
            self.command.overrides += chosen[0].to or ()
            return
        self._choices(setting, chosen)

    def _choices(self, setting: Setting, chosen: Sequence[Meaning]) -> None:
        """Several members: they must differ in one override of ours."""
        lists = [list(meaning.to or meaning.says) for meaning in chosen]
        keys = [[word.partition("=")[0] for word in words] for words in lists]
        if any(one != keys[0] for one in keys) or len(keys[0]) != 1 or any(meaning.says for meaning in chosen):
            raise UserError(f"{setting.shown}: these cannot be swept together", "run the line once for each of them")
        self.command.first += dict.fromkeys(word for meaning in chosen for word in meaning.also)
        values = dict.fromkeys(word.partition("=")[2] for (word,) in lists)
        self.command.overrides.append(f"{keys[0][0]}={','.join(values)}")

    def _key(self, setting: Setting, meaning: Meaning) -> None:
        self._check(setting, meaning)
        if meaning.warn is not None:
            return
        if meaning.command is not None and setting.values in (None, ("null",)):
            return
        if meaning.factor_of is not None:
            if setting.values is None:
                raise UserError(f"{setting.shown}: cannot be taken out", f"set {setting.key} to a number")
            if meaning.to and len(setting.values) > 1:
                raise UserError(
                    f"{setting.shown}: {meaning.to[0]} and {meaning.factor_of} would have to change together",
                    "run the line once for each value",
                )
            self.command.factors.setdefault(meaning.factor_of, {})[setting.key] = setting.values
        self.command.first += meaning.also
        for key in meaning.to or ():
            name, fixed, _ = key.partition("=")
            if fixed:
                on = _switched(setting)
                self.command.overrides += [key] if on else []
            elif setting.values is None:
                self.command.overrides.append(f"{name}=null")
            else:
                values = dict.fromkeys(_valued(setting, meaning, one) for one in setting.values)
                self.command.overrides.append(f"{name}={','.join(values)}")
        if meaning.command is not None:
            self.command.module = meaning.command

    def _check(self, setting: Setting, meaning: Meaning) -> None:
        if setting.values is not None and {value.strip("'\"") for value in setting.values} <= set(meaning.same):
            return
        if meaning.refuse is not None:
            raise UserError(f"{setting.shown}: {meaning.refuse}")
        if meaning.warn is not None:
            self.command.warnings.append(f"{setting.shown} is left out: {meaning.warn}")

    def multiply(self) -> None:
        """Our keys whose value is a product of several of the guide's, unless the line says the product itself."""
        said = {word.partition("=")[0] for word in self.command.overrides}
        for ours, given in self.command.factors.items():
            all_factors = {key: one for key, one in self.guide.keys.items() if one.factor_of == ours}
            incomplete = any(one.default is None and key not in given for key, one in all_factors.items())
            if ours in said or incomplete:
                continue
            factors = [
                [_factor(key, text) for text in given.get(key, (str(one.default),))] for key, one in all_factors.items()
            ]
            products = dict.fromkeys(str(max(1, int(prod(one)))) for one in itertools.product(*factors))
            self.command.overrides.append(f"{ours}={','.join(products)}")


def _targets(meaning: Meaning) -> set[str]:
    return {word.partition("=")[0] for word in meaning.to or ()}


def _overlap(one: str, other: str) -> bool:
    """Whether two keys are the same, or one is part of the other; what is chosen in a group comes first anyway."""
    short, long = sorted((one, other), key=len)
    return short == long or ("." in short and long.startswith(f"{short}."))


def _factor(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 < value < inf:
        raise UserError(f"{key}={text}: the factors of a number of steps or examples must be numbers above 0")
    return value


def _switched(setting: Setting) -> bool:
    """Whether a switch is on."""
    values = [value.lower() for value in setting.values or ("false",)]
    if values not in (["true"], ["false"]):
        raise UserError(f"{setting.shown}: is a switch", f"set {setting.key} to true or false")
    return values == ["true"]


def _valued(setting: Setting, meaning: Meaning, value: str) -> str:
    """A value in our words."""
    if value.lower() in ("true", "false"):
        value = value.lower()
    if meaning.values and value[:1] in QUOTES:
        value = value.strip(value[0])
    if value in meaning.refused_values:
        raise UserError(f"{setting.shown}: {meaning.refused_values[value]}")
    if meaning.within is not None and value != "null":
        return meaning.within.replace("{}", value)
    if meaning.parts:
        return _alternative(setting, meaning.parts, value)
    if not meaning.values or (meaning.others and value not in meaning.values):
        return value
    if value not in meaning.values:
        raise UserError(
            f"{setting.shown}: {value} has no meaning here{_nearest(value, meaning.values)}",
            f"use one of {', '.join(meaning.values)}",
        )
    return meaning.values[value]


def _alternative(setting: Setting, parts: Mapping[str, str], value: str) -> str:
    """A list's parts in our words, as one regular expression."""
    found = [one.strip(" '\"") for one in value.strip("[]").split(",")]
    if strange := [one for one in found if one not in parts]:
        raise UserError(
            f"{setting.shown}: {strange[0]} has no meaning here{_nearest(strange[0], parts)}",
            f"use some of {', '.join(parts)}",
        )
    return "|".join(dict.fromkeys(parts[one] for one in found))


def _value(option: str, left: list[str]) -> str:
    return left.pop(0) if left else _missing(option)


def _missing(option: str) -> NoReturn:
    raise UserError(f"{option}: has no value", f"give one: {option} VALUE")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
