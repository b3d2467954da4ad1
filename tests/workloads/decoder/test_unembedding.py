"""What is said of tokens: in parts as at once, and nothing of padding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trialfleet.workloads.decoder import PAD, unembedding
from trialfleet.workloads.grpo import policy


@pytest.mark.slow
def test_nothing_is_said_of_padding():
    """What two models would say of it may differ by more than a ratio of probabilities can be."""
    x, embedding = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 7, 16), (50, 16)]))
    targets = jnp.asarray([[5, 6, 7, 8, 9, 10, 11], [5, 6, PAD, PAD, PAD, PAD, PAD]])
    counted = (targets != PAD).astype(jnp.float32)

    def loss(x: jax.Array, temperature: float) -> jax.Array:
        own, reference = (unembedding.say(8 * one, embedding, targets, temperature).logs for one in (x, 1.7 * x))
        return jnp.sum(policy.by_completion(policy.divergence("low_var_kl", own, reference), counted))

    for temperature in (0.4, 0.5, 0.9):
        said = unembedding.say(x, embedding, targets, temperature).logs
        assert not jnp.any(jnp.where(counted > 0, 0.0, said))
        value, gradient = jax.value_and_grad(loss)(x, temperature)
        assert jnp.isfinite(value)
        assert jnp.all(jnp.isfinite(gradient))


def test_what_is_said_of_tokens_is_the_same_in_chunks(monkeypatch):
    x, embedding = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 7, 16), (50, 16)]))
    targets = jax.random.randint(jax.random.key(3), (2, 7), 1, 50)

    def both() -> tuple[unembedding.Said, Any]:
        def total(x: jax.Array, embedding: jax.Array) -> tuple[jax.Array, unembedding.Said]:
            said = unembedding.say(x, embedding, targets, 0.7)
            return jnp.sum(said.logs * jnp.arange(7) + 0.1 * said.entropy), said

        (_, said), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, embedding)
        return said, gradients

    whole = both()
    monkeypatch.setattr(unembedding, "LARGEST", 2 * 50 * 3)  # three positions at a time
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), both(), whole)
    # By hand, with padding out of the question.
    scores = np.asarray(x @ embedding.T, np.float64)[:, :, 1:] / 0.7
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    own = np.take_along_axis(logs, np.asarray(targets)[..., None] - 1, -1)[..., 0]
    assert np.asarray(whole[0].logs) == pytest.approx(own, abs=1e-5)
    assert np.asarray(whole[0].entropy) == pytest.approx(-(np.exp(logs) * logs).sum(-1), abs=1e-5)
