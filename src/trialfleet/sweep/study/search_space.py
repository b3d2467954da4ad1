"""The search space: from Hydra's override grammar to Optuna's distributions, and back to overrides.

Hydra writes a space as overrides (`x=interval(0,1)`, `model=a,b`); Optuna wants distributions and hands
back values; a job wants overrides again. On the way back a value must mean to Hydra's parser exactly what
the user wrote, so each choice keeps the override text it came from.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import ceil, isfinite, ulp
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
    Transformer,
)
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import create_trial

from trialfleet.errors import UserError

Value = str | int | float | bool | None  # what Optuna can store of a parameter


@dataclass(frozen=True)
class Space:
    """What a study varies and what it holds fixed.

    Attributes:
        distributions: Optuna's distribution of each parameter, in the order given.
        fixed: override text of each parameter that has one value ("key=value", "~key").
        texts: for parameters with choices, the override text of each value.
        written: each parameter as it was written, for people.
    """

    distributions: dict[str, BaseDistribution]
    fixed: dict[str, str]
    texts: dict[str, dict[Value, str]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict, compare=False)

    def overrides(self, params: Mapping[str, Value]) -> list[str]:
        """A job's overrides: the fixed ones, then `params` as Hydra must read them."""
        sampled = [f"{name}={self._text(name, value)}" for name, value in params.items()]
        return [*self.fixed.values(), *sampled]

    def _text(self, name: str, value: Value) -> str:
        for choice, text in self.texts.get(name, {}).items():
            if choice == value and type(choice) is type(value):
                return text
        return quoted(name, value)


def parse(arguments: Sequence[str]) -> Space:
    """The space that a list of overrides describes; of several for one key the last counts.

    Raises:
        UserError: an override that the grammar or Optuna cannot take, named.
    """
    parser = _parser()
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    texts: dict[str, dict[Value, str]] = {}
    written: dict[str, str] = {}
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except HydraException as error:
            raise UserError(f"cannot read the override {argument!r}: {error}", "quote it as Hydra wants") from None
        key = override.get_key_element()
        for known in (distributions, fixed, texts, written):
            known.pop(key, None)
        if override.is_delete() or not override.is_sweep_override():
            fixed[key] = argument
            continue
        try:
            distributions[key], choices = _distribution(override)
        except HydraException as error:  # glob(), which only Hydra itself can look up
            raise UserError(f"{argument}: {error}", "name the choices one by one") from None
        written[key] = argument
        if choices:
            texts[key] = choices
    return Space(distributions, fixed, texts, written)


def arguments_of(params: Mapping[str, Any] | DictConfig | None) -> list[str]:
    """`hydra.sweeper.params` as overrides. Strings are taken as grammar, as upstream does; the rest as values."""
    plain: Any = OmegaConf.to_container(params, resolve=True) if isinstance(params, DictConfig) else params
    return [f"{key}={value if isinstance(value, str) else _grammar(value)}" for key, value in (plain or {}).items()]


def grid(space: Space) -> dict[str, list[Value]]:
    """All values of each parameter, for the grid sampler.

    Raises:
        UserError: a parameter with infinitely many values, named.
    """
    return {name: _values(name, distribution) for name, distribution in space.distributions.items()}


def contains(name: str, distribution: BaseDistribution, value: Value) -> bool:
    """Whether a trial may have a value. Optuna would take true for 1, and the text of a number for the number."""
    if isinstance(distribution, CategoricalDistribution):
        return any(
            choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in distribution.choices
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        create_trial(params={name: value}, distributions={name: distribution}, value=0.0)
    except ValueError:
        return False
    return True


def in_words(distribution: BaseDistribution) -> str:
    """A distribution as it is written in a search space."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(map(element, distribution.choices))})"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log or step is None:
        whole = isinstance(distribution, IntDistribution)
        interval = f"int(interval({low},{high}))" if whole else f"interval({low},{high})"
        return f"tag(log,{interval})" if distribution.log else interval
    stop = type(high)(Decimal(repr(high)) + Decimal(repr(step)))  # Hydra's end is exclusive, Optuna's is not
    return f"range({low},{stop})" if step == 1 and isinstance(step, int) else f"range({low},{stop},{step})"


def quoted(name: str, value: Value) -> str:
    """The override text of a value that no choice of the space explains (a custom search space suggested it).

    Text that Hydra reads as a plain value goes in as it is, as upstream pastes it; any other is quoted.
    """
    if not isinstance(value, str):
        return _grammar(value)
    try:
        override = _parser().parse_override(f"{name}={value}")
        plain = not override.is_sweep_override()
    except HydraException:
        plain = False
    return value if plain and value else _string(value)


@cache
def _parser() -> OverridesParser:
    functions = create_functions()

    # Hydra's choice() does not take null. In hydra.sweeper.params it may well be meant.
    def choice(*args: str | int | float | bool | dict[Any, Any] | list[Any] | ChoiceSweep | None) -> ChoiceSweep:
        if len(args) == 1 and isinstance(args[0], ChoiceSweep):
            return args[0]
        return ChoiceSweep(list=list(args))  # type: ignore[arg-type]  # upstream's annotation leaves null out

    functions.functions.pop("choice", None)
    functions.definitions.pop("choice", None)
    functions.register("choice", choice)
    return OverridesParser(functions)


def _distribution(override: Override) -> tuple[BaseDistribution, dict[Value, str]]:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(override, value), {}
    if isinstance(value, RangeSweep) and not (value.shuffle or value.transformers):
        return _range(override, value)
    if isinstance(value, ChoiceSweep | RangeSweep):
        value.shuffle = False  # the order means nothing to a sampler, and must be the same after a restart
    return _choices(override, list(override.sweep_iterator()))


def _interval(override: Override, sweep: IntervalSweep) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None  # the grammar requires both
    assert high is not None
    try:
        if not (isfinite(low) and isfinite(high)):
            raise ValueError("the ends must be finite")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    except ValueError as error:
        above = "0 < low <= high" if log else "low <= high"
        raise UserError(f"{override.input_line}: {error}", f"give interval(low, high) with {above}") from None


def _range(override: Override, sweep: RangeSweep) -> tuple[BaseDistribution, dict[Value, str]]:
    if sweep.step == 0:
        raise UserError(f"{override.input_line}: a step of 0", "give range(start, stop, step) a step")
    values = sweep.range()
    if isinstance(values, range):
        if not values:
            raise UserError(f"{override.input_line}: has no value in it", "stop is exclusive: make it larger")
        low, high = sorted((values[0], values[-1]))
        return IntDistribution(low, high, step=abs(values.step)), {}
    start, stop, step = Decimal(values.start), Decimal(values.stop), Decimal(values.step)
    count = ceil((Fraction(stop) - Fraction(start)) / Fraction(step))
    if count <= 0:
        raise UserError(f"{override.input_line}: has no value in it", "stop is exclusive: make it larger")
    last = start + (count - 1) * step  # Optuna's end is inclusive, Hydra's is not
    low_end, high_end = sorted((float(start), float(last)))
    width = float(abs(step))
    exact = Decimal(repr(low_end)) == min(start, last) and Decimal(repr(high_end)) == max(start, last)
    exact = exact and Decimal(repr(width)) == abs(step)
    if exact and (count == 1 or width >= max(ulp(low_end), ulp(high_end))):
        return FloatDistribution(low_end, high_end, step=width), {}
    return _choices(override, [float(start + index * step) for index in range(count)])


def _choices(override: Override, elements: list[Any]) -> tuple[BaseDistribution, dict[Value, str]]:
    """Choices become a categorical distribution; what Optuna cannot store (lists, dicts) is stored as its text."""
    if not elements:
        raise UserError(f"{override.input_line}: no choice in it", "name at least one value")
    if any(isinstance(element, Sweep) for element in elements):
        raise UserError(f"{override.input_line}: a choice is a sweep of its own", "name the choices one by one")
    texts: dict[Value, str] = {}
    for element in elements:
        texts[stored(element)] = _grammar(element)
    if len(texts) < len(elements):
        message = f"{override.input_line}: the same choice is there twice (Python takes 1, 1.0 and true for equal)"
        raise UserError(message, "name each choice once")
    return CategoricalDistribution(list(texts)), texts


def stored(element: Any) -> Value:
    """A choice as Optuna can store it."""
    if isinstance(element, QuotedString):
        return element.text
    if element is None or isinstance(element, str | int | float | bool):
        return element
    return _grammar(element)


def _grammar(value: Any) -> str:
    """What Hydra's parser reads as `value`."""
    if isinstance(value, str):
        return _string(value)
    return element(value)


def _string(value: str) -> str:
    """Bare if that reads as this very string (group names must be bare), in quotes otherwise ('1', 'a,b')."""
    try:
        override = _parser().parse_override(f"x={value}")
        bare = bool(value) and not override.is_sweep_override() and override.value() == value
    except HydraException:
        bare = False
    return value if bare else element(value)


def element(value: Any) -> str:
    """What Hydra's parser reads as `value` within a list or a mapping, where fewer strings may be bare."""
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, str):
        bare = _NAME.fullmatch(value) and value.lower() not in _WORDS
        return value if bare else QuotedString(text=value, quote=Quote.single).with_quotes()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(element, value)) + "]"
    if isinstance(value, dict):
        pairs = [f"{Transformer.str(key)}:{element(item)}" for key, item in value.items()]
        return "{" + ",".join(pairs) + "}"
    return Transformer.str(value)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = ("null", "true", "false", "nan", "inf")  # names that Hydra reads as something else


def _values(name: str, distribution: BaseDistribution) -> list[Value]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        low, step = Decimal(repr(distribution.low)), Decimal(repr(distribution.step))
        count = int((Decimal(repr(distribution.high)) - low) / step) + 1
        return [float(low + index * step) for index in range(count)]
    raise UserError(
        f"{name}: the grid sampler needs a list of values, not an interval",
        f"write {name}=a,b,c or {name}=range(start,stop,step), or choose another hydra/sweeper/sampler",
    )
