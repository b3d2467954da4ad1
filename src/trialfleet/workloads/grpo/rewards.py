"""What a completion is worth: its format, and its answer. Any function of a completion and the right answer will do."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache

from trialfleet.config.grpo import Reward
from trialfleet.errors import UserError
from trialfleet.workloads.grpo.tags import ANSWER, END_OF_ANSWER, END_OF_REASONING, REASONING, TAGS

LARGEST = 1e6  # of what a function may return: beyond it single precision forgets what is between

Function = Callable[[str, str], float]

_WHOLE = re.compile(rf"^\s*{REASONING}.+?{END_OF_REASONING}.*?{ANSWER}(.+?){END_OF_ANSWER}\s*$", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,9})?", re.ASCII)
_FARTHEST = 1000  # powers of ten from 1: what is further is no answer, and could not be divided
_NUMBER_INSIDE = re.compile(rf"{ANSWER}.*?([-+]?\$?\d[\d,]*(?:\.\d+)?)", re.DOTALL)


def format_exact(completion: str, gold: str) -> float:
    """3 for reasoning and answer in their tags, with nothing around them."""
    return 3.0 if _WHOLE.match(completion) else 0.0


def format_approximate(completion: str, gold: str) -> float:
    """.5 for each tag that is there exactly once, -.5 for each other."""
    return sum(0.5 if completion.count(tag) == 1 else -0.5 for tag in TAGS)


def answer(completion: str, gold: str) -> float:
    """3 for the very answer, 1.5 but for white space, .5 and .25 within 10 % and 20 %, less than 0 otherwise."""
    given = said(completion)
    if given is None:
        return 0.0
    if given == gold:
        return 3.0
    if given.strip() == gold.strip():
        return 1.5
    value, true = number(given), number(gold)
    if value is None or true is None:
        return -0.5
    if value == true:
        return 0.5
    if true == 0:
        return -0.5
    ratio = value / true
    if 0.9 <= ratio <= 1.1:
        return 0.5
    return 0.25 if 0.8 <= ratio <= 1.2 else -1.0


def number_inside(completion: str, gold: str) -> float:
    """1.5 if the first number behind the answer's tag is the right one."""
    found = _NUMBER_INSIDE.search(completion)
    value = number(found[1]) if found else None
    return 1.5 if value is not None and value == number(gold) else 0.0


def said(completion: str) -> str | None:
    """What a completion of the right format has between its answer tags."""
    found = _WHOLE.match(completion)
    return found[1] if found else None


def number(text: str) -> Decimal | None:
    """The number that a text is, to its last digit: with sign, currency and separators of thousands, if it likes."""
    plain = text.strip().replace("$", "").replace(",", "")
    if not _NUMBER.fullmatch(plain):
        return None
    value = Decimal(plain)
    return value if abs(value.adjusted()) <= _FARTHEST else None


def names(rewards: Mapping[str, Reward]) -> Sequence[str]:
    """The names of the functions, in the order of all arrays of their numbers."""
    return sorted(rewards)


def judged(rewards: Mapping[str, Reward], completion: str, gold: str) -> list[float]:
    """What each function says of a completion, in the order of `names`.

    Raises:
        UserError: a function cannot be imported, or does not return a number.
    """
    return [_called(name, rewards[name].function, completion, gold) for name in names(rewards)]


def weights(rewards: Mapping[str, Reward]) -> Sequence[float]:
    """The weight of each function in the sum, in the order of `names`."""
    return [rewards[name].weight for name in names(rewards)]


def check(rewards: Mapping[str, Reward]) -> None:
    """Refuses a function that cannot be imported, before anything has been drawn for it to judge."""
    for name in names(rewards):
        _imported(name, rewards[name].function)


@lru_cache(maxsize=64)
def _imported(name: str, path: str) -> Function:
    module, _, own = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), own)
    except Exception as error:  # whatever the module does
        raise UserError(
            f"rewards.{name}.function: {path} cannot be imported: {type(error).__name__}: {error}",
            "give package.module.function, and put the package's folder on PYTHONPATH",
        ) from error
    if not callable(found):
        raise UserError(f"rewards.{name}.function: {path} is no function", "give package.module.function")
    _refuse_other_arguments(name, path, found)
    function: Function = found
    return function


def _refuse_other_arguments(name: str, path: str, function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a built-in function, which does not tell
        return
    try:
        signature.bind("", "")
    except TypeError as error:
        raise UserError(
            f"rewards.{name}.function: {path}{signature} cannot be called with a completion and the right answer: "
            f"{error}",
            "give a function of these two texts, which returns a number",
        ) from error


def _called(name: str, path: str, completion: str, gold: str) -> float:
    function = _imported(name, path)
    try:
        value = float(function(completion, gold))
    except Exception as error:
        raise UserError(
            f"rewards.{name}.function: {path} failed on the completion {completion!r} with the answer {gold!r}: "
            f"{type(error).__name__}: {error}",
            "it is called with a completion and the right answer, and returns a number for any completion",
        ) from error
    if not abs(value) <= LARGEST:
        raise UserError(
            f"rewards.{name}.function: {path} returned {value} for the completion {completion!r}",
            f"return a number from -{LARGEST:g} to {LARGEST:g}",
        )
    return value
