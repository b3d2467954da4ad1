"""What is held against tokens, rule by rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trialfleet.workloads.decoder.held_back import NEVER, NO_RULES, Rules, held_back

SCORES = jnp.asarray([[0.0, 2.0, -2.0, 1.0, -1.0, 3.0]])
ENDS = (1, 5)


def after(tokens: list[int], rules: Rules) -> list[float]:
    """The scores behind so many tokens of a text of six."""
    text = jnp.asarray([[*tokens, *[0] * (6 - len(tokens))]])
    found: list[float] = held_back(SCORES, text, jnp.asarray(len(tokens)), ENDS, rules)[0].tolist()
    return found


def held(tokens: list[int], rules: Rules) -> list[int]:
    return np.flatnonzero(np.asarray(after(tokens, rules)) == NEVER).tolist()


def test_nothing_is_held_back_without_a_rule() -> None:
    text = jnp.zeros((1, 6), jnp.int32)
    assert held_back(SCORES, text, jnp.asarray(0), ENDS, NO_RULES) is SCORES


def test_a_repeated_token_scores_less_whatever_its_sign() -> None:
    assert after([3, 2, 3], Rules(repetition=jnp.asarray(2.0))) == pytest.approx([0.0, 2.0, -4.0, 0.5, -1.0, 3.0])


def test_no_text_ends_too_early() -> None:
    least = Rules(least=jnp.asarray(2.0))
    assert held([4], least) == [1, 5]
    assert held([4, 4], least) == []


@pytest.mark.parametrize(
    ("size", "tokens", "expected"),
    [
        (1, [3, 2], [2, 3]),
        (2, [3], []),
        (2, [3, 2, 3], [2]),
        (2, [3, 2, 3, 4, 3], [2, 4]),
        (3, [3, 2, 4, 3, 2], [4]),
        (3, [2, 2, 2], [2]),
        (3, [3, 2, 4, 3], []),
        (5, [3, 3, 3, 3, 3], [3]),
        (6, [3, 3, 3, 3, 3], []),
        (10**12, [3, 3, 3, 3, 3], []),
    ],
)
def test_what_would_repeat_some_tokens_in_a_row_is_never_chosen(
    size: int, tokens: list[int], expected: list[int]
) -> None:
    assert held(tokens, Rules(ngram=size)) == expected


def test_a_long_run_makes_no_longer_program() -> None:
    """What it takes to compile grew with it."""

    def lines(size: int) -> int:
        text = jnp.zeros((1, 2000), jnp.int32)
        compiled = jax.jit(lambda text: held_back(SCORES, text, jnp.asarray(0), ENDS, Rules(ngram=size)))
        return compiled.lower(text).as_text().count("\n")

    assert lines(1001) == lines(17)
