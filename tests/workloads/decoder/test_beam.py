"""The likeliest text: against all texts of a tiny vocabulary, and against a search by hand that reads all anew."""

import itertools
from collections.abc import Mapping
from functools import cache
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.decoder.small import HP, logits, model
from trialfleet.workloads.decoder import PAD, beam
from trialfleet.workloads.decoder.held_back import NO_RULES

pytestmark = pytest.mark.slow

ENDS, WORDS, STEPS = (1, 5), (2, 3, 4), 4
PROMPTS = ((2, 3, 4, 4, 3), (0, 0, 4, 2, 2))  # the second one is padded
Text = tuple[int, ...]
Table = Mapping[Text, np.ndarray]  # log-probabilities of the token behind each beginning

likeliest = jax.jit(beam.likeliest, static_argnums=(0, 4, 5, 6))


@cache
def small() -> tuple[Any, Any]:
    config, params = model("model.vocab_size=6", "generation.eos_tokens=[1]")
    params["embedder"]["input_embedding"] *= 3  # far from ties
    return config, params


@cache
def table(prompt: Text) -> Table:
    """By reading each text as a whole."""
    config, params = small()
    texts = list(itertools.product(WORDS, repeat=STEPS - 1))
    whole = jnp.asarray([(*prompt, *text) for text in texts])
    scores = np.array(logits(config, params, whole, (whole != PAD).astype(jnp.float32), HP))
    scores[..., PAD] = -inf
    logs = np.asarray(jax.nn.log_softmax(scores))
    lengths = range(STEPS)
    return {text[:n]: row[len(prompt) - 1 + n] for text, row in zip(texts, logs, strict=True) for n in lengths}


def of_all(said: Table, power: float) -> tuple[float, Text]:
    """The best of all texts that end, or are as long as they may be."""
    found = []
    for length in range(1, STEPS + 1):
        for text in itertools.product((*WORDS, *ENDS), repeat=length):
            if set(text[:-1]) & set(ENDS) or (text[-1] not in ENDS and length < STEPS):
                continue
            logs = sum(float(said[text[:n]][token]) for n, token in enumerate(text))
            found.append((logs / length**power, text))
    return max(found)


def by_hand(said: Table, power: float, beams: int) -> tuple[float, Text]:
    """The same search without a cache, and to its end."""
    going: list[tuple[float, Text]] = [(0.0, ())]
    best: tuple[float, Text] = (-inf, ())
    for length in range(1, STEPS + 1):
        each = [(logs + float(said[text][token]), (*text, token)) for logs, text in going for token in (*WORDS, *ENDS)]
        each = sorted(each, reverse=True)[: (1 + len(ENDS)) * beams]
        ended = [(logs / length**power, text) for logs, text in each[:beams] if text[-1] in ENDS]
        best = max([best, *ended])
        going = [one for one in each if one[1][-1] not in ENDS][:beams]
    return max(best, (going[0][0] / STEPS**power, going[0][1]))


def found(beams: int, power: float) -> Any:
    config, params = small()
    prompts = jnp.asarray(PROMPTS)
    valid = (prompts != PAD).astype(jnp.float32)
    return likeliest(config, params, prompts, valid, STEPS, ENDS, beams, jnp.asarray(power), NO_RULES, HP)


def check(beams: int, power: float, expected: list[tuple[float, Text]]) -> None:
    drawn = found(beams, power)
    for n, (_, text) in enumerate(expected):
        assert tuple(drawn.tokens[n].tolist()) == (*text, *[PAD] * (STEPS - len(text)))
        assert float(drawn.counted[n].sum()) == len(text)
        assert float(drawn.truncated[n]) == (text[-1] not in ENDS)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0, -1.0])
def test_a_beam_for_all_beginnings_finds_the_best_of_all_texts(power: float) -> None:
    check(len(WORDS) ** (STEPS - 1), power, [of_all(table(prompt), power) for prompt in PROMPTS])


@pytest.mark.parametrize("beams", [2, 3])
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_a_narrow_beam_finds_what_a_search_by_hand_finds(beams: int, power: float) -> None:
    check(beams, power, [by_hand(table(prompt), power, beams) for prompt in PROMPTS])


def test_a_longer_text_wins_with_a_higher_power() -> None:
    lengths = [float(found(3, power).counted.sum()) for power in (-1.0, 3.0)]
    assert lengths[0] < lengths[1]
