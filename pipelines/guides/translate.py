"""From a guide's line to our command."""

import difflib
import itertools
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from pipelines.guides.table import Guide, Meaning, Program
from pipelines.guides.words import Setting, settings_of_file, settings_of_flags, settings_of_override
from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError

INTERPRETERS = ("python", "python3")
WITH_A_VALUE = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd")  # options of Hydra's
WITHOUT = ("--help", "-h", "--hydra-help", "--resolve", "--multirun", "-m", "--dry-run")
EXPERIMENTS = ("experiment", "experiments")  # the groups of presets
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
        translator.settings(settings_of_flags(words, guide.flags))
    elif program.front == "json":
        if not words:
            raise UserError(f"{line[0]}: has no experiment file", "give its path, for example experiment.json")
        translator.file(Path(words[0]))
        translator.hydra(words[1:])
    else:
        translator.hydra(words)
    translator.multiply()
    if command.module.startswith("pipelines.") and command.module != "pipelines.doctor":
        command.first[:0] = guide.always
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
    shown = " ".join(words[:2]) or "nothing"
    raise UserError(
        f"{shown}: no line of the guide {guide.name} begins so{_nearest(shown, guide.programs)}",
        f"begin with one of {', '.join(sorted(guide.programs))}",
    )


class _Translator:
    """Fills a command, setting by setting."""

    def __init__(self, guide: Guide, command: Command) -> None:
        self.guide = guide
        self.command = command

    def hydra(self, words: Sequence[str]) -> None:
        """Words of a program that has Hydra's command line."""
        left = list(words)
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            if word in WITHOUT:
                self.command.options.append(word)
            elif name in ("--config-name", "-cn"):
                self._config_name(value if equals else _value(name, left))
            elif name in WITH_A_VALUE:
                self.command.options += [word] if equals else [word, _value(name, left)]
            elif word.startswith("-") and not equals:
                raise UserError(f"{word}: is no option of the guide's commands", f"use {', '.join(WITHOUT)}")
            else:
                self.settings(settings_of_override(word))

    def _config_name(self, name: str) -> None:
        """A whole config by its name: a preset of the guide's, or an experiment of the reader's."""
        if name in self.guide.config_names:
            self.hydra(self.guide.config_names[name])
        else:
            self._experiment(Setting("experiment", (name,), f"--config-name {name}"))

    def file(self, path: Path) -> None:
        """An experiment's file. Its keys may stand without their groups, as in the older ones."""
        for setting in settings_of_file(path):
            ends = [key for key in self.guide.keys if key.endswith(f".{setting.key}")]
            known = setting.key in (*self.guide.keys, *self.guide.groups)
            self._setting(setting if known or not ends else setting._replace(key=ends[0]))

    def settings(self, settings: Iterable[Setting]) -> None:
        for setting in settings:
            self._setting(setting)

    def _setting(self, setting: Setting) -> None:
        key, values = setting.key, setting.values
        if key in EXPERIMENTS and values is not None:
            self._experiment(setting)
        elif key in self.guide.groups and values is not None:
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
        assert setting.values is not None
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
        lists = [list(meaning.to or ()) for meaning in chosen]
        keys = [[word.partition("=")[0] for word in words] for words in lists]
        if any(one != keys[0] for one in keys) or not keys[0]:
            raise UserError(f"{setting.shown}: these cannot be swept together", "sweep them one by one")
        for words in zip(*lists, strict=True):
            key = words[0].partition("=")[0]
            values = list(dict.fromkeys(word.partition("=")[2] for word in words))
            self.command.overrides.append(f"{key}={','.join(values)}")

    def _experiment(self, setting: Setting) -> None:
        assert setting.values is not None
        (name,) = setting.values
        presets = self.guide.groups.get("experiment", {})
        if name in presets:
            return self._members(setting._replace(key="experiment"), presets)
        for folder in EXPERIMENT_FOLDERS:
            path = Path(folder) / f"{name}.yaml"
            if path.is_file() and not path.parent.samefile(conf_directory() / "experiment"):
                return self.file(path)
        self.command.overrides.append(f"+experiment={name}")
        return None

    def _key(self, setting: Setting, meaning: Meaning) -> None:
        self._check(setting, meaning)
        if meaning.warn is not None:
            return
        if meaning.factor_of is not None:
            if setting.values is None:
                raise UserError(f"{setting.shown}: cannot be taken out", f"set {setting.key} to a number")
            self.command.factors.setdefault(meaning.factor_of, {})[setting.key] = setting.values
        self.command.first += meaning.also
        for key in meaning.to or ():
            name, fixed, _ = key.partition("=")
            if fixed:
                self.command.overrides += [key] if setting.values == ("true",) else []
            elif setting.values is None:
                self.command.overrides.append(f"{name}=null")
            else:
                values = [_valued(setting, meaning, one) for one in setting.values]
                self.command.overrides.append(f"{name}={','.join(values)}")
        if meaning.command is not None:
            self.command.module = meaning.command

    def _check(self, setting: Setting, meaning: Meaning) -> None:
        if meaning.refuse is not None:
            raise UserError(f"{setting.shown}: {meaning.refuse}")
        if meaning.warn is not None:
            self.command.warnings.append(f"{setting.shown} is left out: {meaning.warn}")

    def multiply(self) -> None:
        """Our keys whose value is a product of several of the guide's."""
        for ours, given in self.command.factors.items():
            all_factors = {key: one for key, one in self.guide.keys.items() if one.factor_of == ours}
            factors = {key: given.get(key, (str(one.default),)) for key, one in all_factors.items()}
            if any(one.default is None and key not in given for key, one in all_factors.items()):
                continue
            try:
                products = [prod(map(float, combination)) for combination in itertools.product(*factors.values())]
            except ValueError:
                raise UserError(f"{', '.join(given)}: must be numbers, got {given}") from None
            self.command.overrides.append(f"{ours}={','.join(str(max(1, int(value))) for value in products)}")


def _valued(setting: Setting, meaning: Meaning, value: str) -> str:
    """A value in our words."""
    if value in meaning.refused_values:
        raise UserError(f"{setting.shown}: {meaning.refused_values[value]}")
    if not meaning.values:
        return value
    if value not in meaning.values:
        raise UserError(
            f"{setting.shown}: {value} has no meaning here{_nearest(value, meaning.values)}",
            f"use one of {', '.join(meaning.values)}",
        )
    return meaning.values[value]


def _value(option: str, left: list[str]) -> str:
    if not left:
        raise UserError(f"{option}: has no value", f"give one: {option} VALUE")
    return left.pop(0)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
