"""Published weights say what they say in the library transformers: whole sequences, padded ones, and token by token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.decoder.reference import MODELS, config_of, said, weights_of
from tests.workloads.decoder.small import logits
from trialfleet.training import trees
from trialfleet.workloads.decoder import transformer

NEAR = 2e-5  # float32, of logits that are about 1
PROMPT = 4  # tokens, less than a window


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> tuple[Any, Any, jax.Array, np.ndarray]:
    """A config, weights without adapters, tokens, and their logits."""
    config = config_of(request.param)
    tokens, wanted = said(request.param)
    return config.model, trees.unflatten(weights_of(config)), jnp.asarray(tokens), wanted


HP = {"model.lora_alpha": jnp.asarray(16.0)}


def test_a_sequence_read_as_a_whole(model):
    config, params, tokens, wanted = model
    assert np.abs(wanted).mean() > 0.5
    # Padding before it moves no token.
    padded = jnp.pad(tokens, ((0, 0), (3, 0)))
    got = logits(config, params, padded, (padded != 0).astype(jnp.float32), HP)
    np.testing.assert_allclose(got[:, 3:], wanted, atol=NEAR, rtol=0)


def test_a_sequence_read_token_by_token(model):
    config, params, tokens, wanted = model
    length = tokens.shape[1]

    @jax.jit
    def read(params: Any, tokens: jax.Array) -> jax.Array:
        prompt = tokens[:, :PROMPT]
        first, cache = transformer.start(config, params, prompt, jnp.ones(prompt.shape), length - PROMPT, HP)

        def step(cache: transformer.Cache, number: jax.Array) -> tuple[transformer.Cache, jax.Array]:
            scores, cache = transformer.append(config, params, tokens[:, number], number, cache, HP)
            return cache, scores

        rest = jax.lax.scan(step, cache, jnp.arange(PROMPT, length))[1]
        return jnp.concatenate([first[:, None], jnp.moveaxis(rest, 0, 1)], 1)

    np.testing.assert_allclose(read(params, tokens), wanted[:, PROMPT - 1 :], atol=NEAR, rtol=0)
