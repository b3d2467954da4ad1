"""How views are joined: whichever come first, only those that are there, and by experts that are used alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.mvfoul.test_networks import tiny
from trialfleet.workloads.mvfoul import leaves, views

FEATURES = 8


def built(kind: str, pooling: str = "attention") -> tuple[Any, Any]:
    words = (f"model.aggregator={kind}", f"model.pooling={pooling}", "model.aggregator_layers=2")
    config = tiny("mvit_tiny", *words).model
    return config, leaves.initial(views.leaves(config, FEATURES), jax.random.key(0))


@pytest.mark.parametrize("kind", ["none", "mlp", "transformer", "moe"])
def test_the_order_of_views_and_what_is_masked_mean_nothing(kind):
    config, params = built(kind)
    join = jax.jit(lambda x, mask: views.joined(config, params, x, mask).clips)
    x = np.random.default_rng(0).normal(size=(2, 4, FEATURES)).astype(np.float32)
    mask = np.asarray([[1, 1, 1, 0], [1, 0, 1, 1]], np.float32)
    whole = join(x, mask)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(join(x[:, order], mask[:, order]), whole, atol=1e-5)
    np.testing.assert_allclose(join(np.where(mask[..., None] > 0, x, 9.0), mask), whole, atol=1e-6)
    alone = join(x[:1, :1], np.ones((1, 1), np.float32))
    assert np.abs(alone[0] - whole[0]).max() > 1e-3  # the others are heard


def test_views_of_a_transformer_look_at_those_that_are_there():
    _, params = built("transformer", "mean")
    own = params["aggregator"]["layer0"]
    x = np.random.default_rng(1).normal(size=(1, 3, FEATURES)).astype(np.float32)
    got = views._attended(own, jnp.asarray(x), jnp.asarray([[1.0, 1.0, 0.0]]))
    q, k, v = np.einsum("bvd,dcgh->cbgvh", x, own["qkv"])
    scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1]))[..., :2]
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v[:, :, :2]
    np.testing.assert_allclose(got, np.einsum("bgvh,ghd->bvd", mixed, own["out"]), atol=1e-5)


def test_an_expert_is_heard_as_loud_as_it_is_likely_and_load_says_how_unevenly():
    config, params = built("moe", "mean")
    own = params["aggregator"]["layer0"]
    x = np.random.default_rng(2).normal(size=(3, 4, FEATURES)).astype(np.float32)
    mask = np.asarray([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], np.float32)
    heard, load = views._by_experts(own, jnp.asarray(x), jnp.asarray(mask))
    logits = x @ np.asarray(own["router"])
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = chances.argmax(-1)
    for b, v in np.ndindex(3, 4):
        e = chosen[b, v]
        hidden = jax.nn.gelu(x[b, v] @ own["up"][e], approximate=False)
        np.testing.assert_allclose(heard[b, v], chances[b, v, e] * (hidden @ own["down"][e]), atol=1e-5)
    there = mask > 0
    shares = np.bincount(chosen[there], minlength=config.experts) / there.sum()
    assert float(load) == pytest.approx(config.experts * (shares * chances[there].mean(0)).sum(), rel=1e-5)
    even = {**own, "router": jnp.zeros_like(own["router"])}  # all alike likely
    assert float(views._by_experts(even, jnp.asarray(x), jnp.asarray(mask))[1]) == pytest.approx(1)
