"""Files of problems in the format of GSM8K (Cobbe et al. 2021, arXiv:2110.14168)."""

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from trialfleet.config.location import expanded
from trialfleet.errors import UserError

log = logging.getLogger(__name__)

MARK = "####"  # stands before the result
MOST_DAMAGED = 0.01  # share of a file's lines that may be damaged
_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's notes of what a calculator would say

_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3})")  # of thousands

Row = tuple[str, str, str]  # question, reasoning, answer


@lru_cache(maxsize=4)
def rows(key: str, path: str) -> Sequence[Row]:
    """Question, reasoning and answer of each line of a file. Damaged lines are named, counted and left out.

    Args:
        key: of the config, for messages.

    Raises:
        UserError: the file cannot be read, or too much of it is damaged.
    """
    where = Path(path)
    try:
        where = expanded(where)
        # JSON's texts may hold what splitlines() would cut at; some programs write a mark at a file's beginning.
        lines = where.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # the last: nobody has that home
        raise UserError(f"{key}: {where} cannot be read: {error}", "give a file of JSON lines") from error
    found, damaged = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_row(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            damaged.append(f"line {number}: {type(error).__name__}: {error}")
    if not found or len(damaged) > MOST_DAMAGED * (len(found) + len(damaged)):
        raise UserError(
            f"{key}: {where}: {len(damaged)} of {len(found) + len(damaged)} lines are no problems; "
            f"{damaged[0] if damaged else 'it is empty'}",
            f'each line must be like {{"question": "…", "answer": "… {MARK} 12"}}',
        )
    if damaged:
        log.warning("%s: %s: %d lines are no problems and are left out; %s", key, where, len(damaged), damaged[0])
    return tuple(found)


def _row(line: str) -> Row:
    content = json.loads(line)
    question, whole = content["question"].strip(), content["answer"]
    reasoning, mark, answer = whole.rpartition(MARK)
    if not question or not mark or not answer.strip():
        raise ValueError(f"a question and an answer with its result behind {MARK} are needed")
    (question + whole).encode()  # JSON can name half a character, which no tokenizer takes
    return question, _CALCULATION.sub("", reasoning).strip(), _SEPARATOR.sub("", answer.strip())
