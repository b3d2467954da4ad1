"""What a completion is worth: its format, and its answer."""

import math
import re
from collections.abc import Callable, Mapping

from trialfleet.workloads.grpo.tokens import ANSWER, END_OF_ANSWER, END_OF_REASONING, REASONING

_WHOLE = re.compile(rf"^\s*{REASONING}.+?{END_OF_REASONING}.*?{ANSWER}(.+?){END_OF_ANSWER}\s*$", re.DOTALL)
_NUMBER_INSIDE = re.compile(rf"{ANSWER}.*?([-+]?\$?\d[\d,]*(?:\.\d+)?)", re.DOTALL)


def format_exact(completion: str, gold: str) -> float:
    """3 for reasoning and answer in their tags, with nothing around them."""
    return 3.0 if _WHOLE.match(completion) else 0.0


def format_approximate(completion: str, gold: str) -> float:
    """.5 for each tag that is there exactly once, -.5 for each other."""
    tags = (REASONING, END_OF_REASONING, ANSWER, END_OF_ANSWER)
    return sum(0.5 if completion.count(tag) == 1 else -0.5 for tag in tags)


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
    if value is None or true is None or true == 0:
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


FUNCTIONS: Mapping[str, Callable[[str, str], float]] = {
    "format_exact": format_exact,
    "format_approximate": format_approximate,
    "answer": answer,
    "number": number_inside,
}


def said(completion: str) -> str | None:
    """What a completion of the right format has between its answer tags."""
    found = _WHOLE.match(completion)
    return found[1] if found else None


def number(text: str) -> float | None:
    """The number that a text is: with sign, currency and separators of thousands, if it likes."""
    try:
        value = float(text.strip().replace("$", "").replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
