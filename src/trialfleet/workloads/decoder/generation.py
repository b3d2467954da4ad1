"""Drawing completions: temperature, top-k, top-p, several end tokens, a cache of keys and values."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.config.decoder import Decoder, Generation
from trialfleet.training.mesh import FSDP, by_rows, constrain
from trialfleet.training.workload import Hyperparameters, Params
from trialfleet.workloads.decoder import PAD, transformer
from trialfleet.workloads.decoder.held_back import NO_RULES, Rules, held_back
from trialfleet.workloads.decoder.unembedding import without_padding


class Drawn(NamedTuple):
    """Completions, padded behind their end.

    Attributes:
        tokens: (B · R, S).
        counted: 1 for the tokens that are theirs (B · R, S), the end token included.
        truncated: 1 for those that had not ended after S tokens (B · R,).
    """

    tokens: jax.Array
    counted: jax.Array
    truncated: jax.Array


class _Going(NamedTuple):
    step: jax.Array
    scores: jax.Array  # (B · R, vocabulary) of the next token
    cache: transformer.Cache
    tokens: jax.Array
    counted: jax.Array
    open: jax.Array  # (B · R,) bool: not ended yet


def complete(
    config: Decoder,
    params: Params,
    prompt: jax.Array,
    steps: int,
    ends: tuple[int, ...],
    top_k: int | None,
    temperature: jax.Array,
    top_p: jax.Array,
    hp: Hyperparameters,
    keys: jax.Array,
    valid: jax.Array | None = None,
    rules: Rules = NO_RULES,
    unstacked: bool = False,
) -> Drawn:
    """Completions of each prompt (B, P), of up to `steps` tokens; ends as soon as all of them have ended.

    Args:
        prompt: padded on the left; or what stands for its tokens (B, P, D). It is read once, however many completions
            it gets.
        ends: tokens that end a completion.
        keys: one for each completion (B · R,), those of a prompt one after the other: what is drawn for one does not
            depend on which others are drawn beside it.
        valid: which tokens of the prompt are there (B, P); None: all that are no padding.
        rules: what is held against tokens; by default nothing is.
        unstacked: layers are taken out of their stack before the first token: quicker on a CPU, which does it for each
            token else, and with room for the layers' weights twice.
    """
    batch, length = len(keys), prompt.shape[1]
    if valid is None:
        valid = (prompt != PAD).astype(jnp.float32)
    scores, cache = transformer.start(config, params, prompt, valid, steps, hp)
    count = batch // len(prompt)
    scores, cache = jnp.repeat(scores, count, 0), transformer.repeated(cache, count)
    if unstacked:
        params, cache = transformer.unstacked(config, params, cache)
    nothing, none = jnp.full((batch, steps), PAD, jnp.int32), jnp.zeros((batch, steps), jnp.float32)
    begin = _Going(jnp.zeros((), jnp.int32), scores, cache, nothing, none, jnp.ones(batch, bool))

    def more(now: _Going) -> jax.Array:
        return (now.step < steps) & jnp.any(now.open)

    def step(now: _Going) -> _Going:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, now.step)
        scores = held_back(now.scores, now.tokens, now.step, ends, rules)
        token = draw(scores, top_k, temperature, top_p, own)
        token = jnp.where(now.open, token, PAD)
        tokens = now.tokens.at[:, now.step].set(token)
        counted = now.counted.at[:, now.step].set(now.open.astype(jnp.float32))
        still = now.open & ~jnp.isin(token, jnp.asarray(ends))
        scores, cache = transformer.append(config, params, token, length + now.step, now.cache, hp)
        return _Going(now.step + 1, scores, cache, tokens, counted, still)

    ended = jax.lax.while_loop(more, step, begin)
    return Drawn(ended.tokens, ended.counted, ended.open.astype(jnp.float32))


def unstacks(settings: Generation) -> bool:
    """Whether layers are taken out of their stack, by the settings and the mesh that this is traced for.

    Layers that fsdp splits, and that are to be gathered one at a time, stay in it: out of it a compiler sees that they
    never change, and gathers all of them before the first token.
    """
    mesh = jax.sharding.get_abstract_mesh()
    split = not mesh.empty and mesh.shape[FSDP] > 1
    return settings.unstack_weights and (settings.gather_weights or not split)


def keys_of(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """A key for each number (B,)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def draw(scores: jax.Array, top_k: int | None, temperature: jax.Array, top_p: jax.Array, keys: jax.Array) -> jax.Array:
    """A token for each row of scores (B, vocabulary), never padding.

    It is one of the `top_k` most probable ones, of which the first that make up `top_p` of the probability are left.
    """
    count = min(top_k or scores.shape[-1], scores.shape[-1])
    scores = constrain(without_padding(scores), "batch", None)
    best, which = by_rows(partial(jax.lax.top_k, k=count), scores / temperature)
    shares = jax.nn.softmax(best)
    before = jnp.cumsum(shares, -1) - shares  # the first one is always left
    kept = jnp.where(before < top_p, best, -jnp.inf)
    chosen = jax.vmap(jax.random.categorical)(keys, kept)
    return jnp.take_along_axis(which, chosen[:, None], -1)[:, 0]
