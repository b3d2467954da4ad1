"""What is held against a token before one is chosen: that it was said before, that it is too early to end.

Shapes: N texts of up to S tokens so far, V tokens of the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.training.mesh import by_rows
from trialfleet.workloads.decoder import PAD

NEVER = -1e9  # a score with which a token is not chosen; finite, so that no probability becomes no number


class Rules(NamedTuple):
    """Which tokens are held back. What is None is no part of the program.

    Attributes:
        repetition: by how much the score of each token counts less once the text has it; 1: not at all.
        least: tokens before which no text ends.
        ngram: so many tokens in a row come once in a text.
    """

    repetition: jax.Array | None = None
    least: jax.Array | None = None
    ngram: int | None = None


NO_RULES = Rules()


def held_back(scores: jax.Array, tokens: jax.Array, step: jax.Array, ends: tuple[int, ...], rules: Rules) -> jax.Array:
    """Scores (N, V) of the token at place `step` of the texts (N, S), after the rules."""
    if rules.repetition is not None:
        scores = _less_repeated(scores, tokens, rules.repetition)
    if rules.ngram is not None and rules.ngram < tokens.shape[1]:  # in a shorter text none could come twice
        scores = jnp.where(_repeating(scores.shape[-1], tokens, step, rules.ngram), NEVER, scores)
    if rules.least is not None:
        end = jnp.isin(jnp.arange(scores.shape[-1]), jnp.asarray(ends))
        scores = jnp.where(end & (step < rules.least), NEVER, scores)
    return scores


def _less_repeated(scores: jax.Array, tokens: jax.Array, penalty: jax.Array) -> jax.Array:
    """Keskar et al. 2019 (arXiv:1909.05858) divide what a token scores that the text has by the penalty.

    Of a score below 0 that would be more; it is multiplied instead, as the library transformers does it.
    """
    said = _marked(scores.shape[-1], tokens, tokens != PAD)
    return jnp.where(said, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def _repeating(vocabulary: int, tokens: jax.Array, step: jax.Array, size: int) -> jax.Array:
    """The tokens by which the last `size` tokens would be some that came before (N, V).

    Paulus et al. 2017 (arXiv:1705.04304) take them out of a beam.
    """
    before = size - 1
    padded = jnp.pad(tokens, ((0, 0), (0, before)))
    # Of each place of a text: whether what stands before it is what the text ends with now.
    places = jnp.arange(tokens.shape[1])

    def narrowed(n: jax.Array, same: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_slice_in_dim(padded, jnp.maximum(step - before, 0) + n, 1, 1)
        return same & (jax.lax.dynamic_slice_in_dim(padded, n, tokens.shape[1], 1) == own)

    # Unrolled as a whole a program would grow with the size, and its compilation with it.
    same = jax.lax.fori_loop(0, before, narrowed, jnp.ones(tokens.shape, bool), unroll=8)
    follows = jnp.roll(same, before, 1) & (places >= before) & (places < step)
    return _marked(vocabulary, tokens, follows)


def _marked(vocabulary: int, tokens: jax.Array, where: jax.Array) -> jax.Array:
    """Which tokens of the vocabulary stand in a text (N, V), at the places `where` (N, S)."""

    def of_own(tokens: jax.Array, where: jax.Array) -> jax.Array:
        rows = jnp.arange(len(tokens))[:, None]
        return jnp.zeros((len(tokens), vocabulary), bool).at[rows, tokens].max(where)

    return by_rows(of_own, tokens, where)
