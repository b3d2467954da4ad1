"""Completions: those that reading anew would give, their ends, and the draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.decoder.small import HP, logits, model, prompts
from trialfleet.workloads.decoder import PAD, generation
from trialfleet.workloads.grpo import policy

complete = jax.jit(generation.complete, static_argnums=(0, 3, 4, 5), static_argnames="unstacked")


def completed(
    params: Any, config: Any, ends: tuple[int, ...], top_k: int | None, temperature: float, unstacked: bool = False
) -> Any:
    return complete(
        config,
        params,
        prompts(),
        10,
        ends,
        top_k,
        jnp.asarray(temperature),
        jnp.asarray(1.0),
        HP,
        generation.keys_of(jax.random.key(0), jnp.arange(2)),
        unstacked=unstacked,
    )


@pytest.mark.slow
def test_the_cache_gives_what_reading_anew_gives_and_any_end_token_ends():
    config, params = model()
    params["embedder"]["input_embedding"] *= 3  # far from ties
    drawn = completed(params, config, (111, 110), 1, 1.0)
    greedy = np.asarray(drawn.tokens)
    assert not np.isin(greedy, (111, 110, 0)).any()
    assert np.asarray(drawn.counted).all()
    whole = jnp.concatenate([prompts(), drawn.tokens], 1)
    scores = logits(config, params, whole, (whole != 0).astype(jnp.float32), HP)
    assert np.array_equal(greedy, np.argmax(scores[:, 8:-1], -1))
    logs = jax.nn.log_softmax(scores[:, 8:-1, 1:])  # padding is never drawn
    read = policy.read(config, params, prompts(), drawn.tokens, HP)
    assert np.asarray(read.logs) == pytest.approx(np.asarray(logs.max(-1)), abs=1e-4)
    assert np.asarray(read.entropy) == pytest.approx(np.asarray(-(jnp.exp(logs) * logs).sum(-1)), abs=1e-4)
    apart = completed(params, config, (111, 110), 1, 1.0, unstacked=True)
    assert np.array_equal(apart.tokens, greedy)
    # The tokens in the middle of both completions are made ends: each stops at its own.
    ends = tuple(int(row[4]) for row in greedy)
    short = completed(params, config, ends, 1, 1.0)
    for n in range(2):
        length = 1 + int(np.flatnonzero(np.isin(greedy[n], ends))[0])
        assert list(short.tokens[n]) == [*greedy[n, :length], *[PAD] * (10 - length)]
        assert float(short.counted[n].sum()) == length


@pytest.mark.slow
def test_a_completion_does_not_depend_on_those_beside_it():
    config, params = model()

    def drawn(rows: slice, keys: slice) -> Any:
        own = generation.keys_of(jax.random.key(5), jnp.arange(4))[keys]
        arguments = (8, (1,), None, jnp.asarray(1.0), jnp.asarray(1.0), HP, own)
        return complete(config, params, prompts()[rows], *arguments).tokens

    alone = drawn(slice(1, 2), slice(3, 4))
    assert np.array_equal(drawn(slice(0, 2), slice(2, 4))[1], alone[0])
    # A prompt that is read once for two completions gets what it gets for one.
    assert np.array_equal(drawn(slice(0, 2), slice(0, 4))[3], alone[0])


@pytest.mark.slow
def test_draws_keep_to_top_k_and_top_p_and_follow_the_temperature():
    scores = jnp.log(jnp.asarray([[0.9, 0.4, 0.3, 0.2, 0.1]]))  # the first is padding

    def drawn(top_k: int | None, top_p: float, temperature: float) -> np.ndarray:
        keys = jax.random.split(jax.random.key(0), 4000)
        one = jax.vmap(
            lambda key: generation.draw(scores, top_k, jnp.asarray(temperature), jnp.asarray(top_p), key[None])
        )
        return np.bincount(np.asarray(one(keys))[:, 0], minlength=5)[1:] / 4000

    assert drawn(None, 1.0, 1.0) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    assert drawn(2, 1.0, 1.0) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    assert drawn(None, 0.5, 1.0) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.03)
    assert drawn(None, 0.39, 1.0) == pytest.approx([1, 0, 0, 0])
    squared = np.asarray([0.16, 0.09, 0.04, 0.01]) / 0.3
    assert drawn(2000, 1.0, 0.5) == pytest.approx(squared, abs=0.03)
    assert drawn(1, 1.0, 1e-4) == pytest.approx([1, 0, 0, 0])
