"""Characters as tokens, with Gemma's numbers for what is no character."""

from collections.abc import Sequence

import numpy as np

from trialfleet.workloads import decoder

PAD, EOS, BOS, UNKNOWN = decoder.PAD, 1, 2, 3
START_OF_TURN, END_OF_TURN = 105, 106
REASONING, END_OF_REASONING, ANSWER, END_OF_ANSWER = "<reasoning>", "</reasoning>", "<answer>", "</answer>"

_FIRST = 4
_CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
_SPECIAL = {
    "<start_of_turn>": START_OF_TURN,
    "<end_of_turn>": END_OF_TURN,
    REASONING: 107,
    END_OF_REASONING: 108,
    ANSWER: 109,
    END_OF_ANSWER: 110,
}
SIZE = 112  # a multiple of 16, so that meshes divide it

_TEXT = {index + _FIRST: character for index, character in enumerate(_CHARACTERS)}
_TEXT |= {number: text for text, number in _SPECIAL.items()}
_SILENT = (START_OF_TURN, END_OF_TURN)
_NUMBER = {text: number for number, text in _TEXT.items() if number not in _SPECIAL.values()}


def encode(text: str) -> list[int]:
    """Tokens of a text; tags are one token each, characters outside of printable ASCII are unknown."""
    found: list[int] = []
    while text:
        special = next((name for name in _SPECIAL if text.startswith(name)), None)
        found.append(_SPECIAL[special] if special else _NUMBER.get(text[0], UNKNOWN))
        text = text[len(special) if special else 1 :]
    return found


def decode(tokens: Sequence[int] | np.ndarray) -> str:
    """The text of tokens, tags included; padding, beginnings and ends are left out."""
    return "".join(_TEXT.get(int(token), "") for token in tokens if token not in _SILENT)
