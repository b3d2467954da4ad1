"""The likeliest text of each prompt, looked for with a beam.

At each step the K likeliest beginnings go on, each by every token. Of the continuations the likeliest (1 + E) · K are
looked at, E being the number of end tokens: those among the first K that end are candidates for the result, the first K
others go on. A candidate's score is its log-probability, divided by its length to a power. So does the library
transformers, whose `length_penalty` is that power; Wu et al. 2016 (arXiv:1609.08144) take (5 + length) / 6 to it.

Shapes: B prompts, K beginnings of each, S tokens, V tokens of the vocabulary.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.config.decoder import Decoder
from trialfleet.training.mesh import by_rows, constrain
from trialfleet.training.workload import Hyperparameters, Params
from trialfleet.workloads.decoder import PAD, transformer
from trialfleet.workloads.decoder.generation import Drawn
from trialfleet.workloads.decoder.held_back import Rules, held_back
from trialfleet.workloads.decoder.unembedding import without_padding


class _Found(NamedTuple):
    """The best text of each prompt that has ended."""

    score: jax.Array  # (B,); minus infinity: none has
    tokens: jax.Array  # (B, S)
    length: jax.Array  # (B,)


class _Going(NamedTuple):
    step: jax.Array
    scores: jax.Array  # (B · K, V) of the next token
    cache: transformer.Cache
    tokens: jax.Array  # (B, K, S), the likeliest beginning first
    logs: jax.Array  # (B, K) of the beginnings; minus infinity where there is none
    found: _Found


def likeliest(
    config: Decoder,
    params: Params,
    prompt: jax.Array,
    valid: jax.Array,
    steps: int,
    ends: tuple[int, ...],
    beams: int,
    length_penalty: jax.Array,
    rules: Rules,
    hp: Hyperparameters,
) -> Drawn:
    """A text of each prompt, of up to `steps` tokens; ends as soon as none can become better.

    A text that is cut off after `steps` tokens is a candidate like one that has ended.

    Args:
        prompt: tokens (B, P), padded on the left, or what stands for them (B, P, D).
        valid: which of them are there (B, P).
        ends: tokens that end a text.
        beams: K.
        length_penalty: above 0 longer texts are preferred, below 0 shorter ones.
    """
    batch, length = prompt.shape[:2]
    scores, cache = transformer.start(config, params, prompt, valid, steps, hp)
    logs = jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0)  # there is one beginning: nothing
    nothing = jnp.full((batch, steps), PAD, jnp.int32)
    found = _Found(jnp.full(batch, -jnp.inf), nothing, jnp.zeros(batch, jnp.int32))
    begin = _Going(
        jnp.zeros((), jnp.int32),
        jnp.repeat(scores, beams, 0),
        transformer.repeated(cache, beams),
        jnp.repeat(nothing[:, None], beams, 1),
        logs,
        found,
    )

    def of_length(logs: jax.Array, length: jax.Array | int) -> jax.Array:
        return logs / jnp.asarray(length, jnp.float32) ** length_penalty

    def more(now: _Going) -> jax.Array:
        """Whether a beginning could still become the best: log-probabilities only fall."""
        best = now.logs[:, 0]
        bound = jnp.maximum(of_length(best, now.step + 1), of_length(best, steps))
        return (now.step < steps) & jnp.any(bound > now.found.score)

    def step(now: _Going) -> _Going:
        flat = held_back(without_padding(now.scores), now.tokens.reshape(-1, steps), now.step, ends, rules)
        said = jax.nn.log_softmax(constrain(flat, "batch", None)).reshape(batch, beams, -1)
        vocabulary = said.shape[-1]
        count = min((1 + len(ends)) * beams, beams * vocabulary)
        logs, which = by_rows(partial(jax.lax.top_k, k=count), (now.logs[..., None] + said).reshape(batch, -1))
        source, token = which // vocabulary, which % vocabulary
        ended = jnp.isin(token, jnp.asarray(ends))

        first = jnp.where(ended & (jnp.arange(count) < beams), of_length(logs, now.step + 1), -jnp.inf)
        best = jnp.argmax(first, 1)[:, None]
        text = _chosen(now.tokens, jnp.take_along_axis(source, best, 1))[:, 0]
        text = text.at[:, now.step].set(jnp.take_along_axis(token, best, 1)[:, 0])
        candidate = _Found(jnp.take_along_axis(first, best, 1)[:, 0], text, jnp.full(batch, now.step + 1))

        logs, going = by_rows(partial(jax.lax.top_k, k=beams), jnp.where(ended, -jnp.inf, logs))
        source, token = jnp.take_along_axis(source, going, 1), jnp.take_along_axis(token, going, 1)
        tokens = _chosen(now.tokens, source).at[:, :, now.step].set(token)
        kept = transformer.rearranged(now.cache, source)
        scores, cache = transformer.append(config, params, token.reshape(-1), length + now.step, kept, hp)
        return _Going(now.step + 1, scores, cache, tokens, logs, _better(now.found, candidate))

    done = jax.lax.while_loop(more, step, begin)
    cut = _Found(of_length(done.logs[:, 0], steps), done.tokens[:, 0], jnp.full(batch, steps))
    best = _better(done.found, cut)
    counted = (jnp.arange(steps) < best.length[:, None]).astype(jnp.float32)
    return Drawn(best.tokens, counted, (cut.score > done.found.score).astype(jnp.float32))


def _better(one: _Found, other: _Found) -> _Found:
    """Of each prompt the better text; the first one where they are as good."""
    second = other.score > one.score

    def chosen(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(second.reshape(-1, *(1,) * (a.ndim - 1)), b, a)

    found: _Found = jax.tree.map(chosen, one, other)
    return found


def _chosen(tokens: jax.Array, source: jax.Array) -> jax.Array:
    """The texts (B, C, S) at places (B, C) of those of each prompt (B, K, S)."""
    found: jax.Array = jax.vmap(lambda own, places: own[places])(tokens, source)
    return found
