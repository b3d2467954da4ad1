"""How what is seen in single views becomes one vector of a clip. Which view is which, and in what order, is nothing.

Layers first, around each of which the views are passed on as they are: of each view by itself (mlp), of views that look
at each other (transformer), or of one of several experts for each view (moe). Then the mean of the views, or one that
attention has weighted. Shapes: B clips of V views with C features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.config.mvfoul_models import FoulModel
from trialfleet.training.attention import attention
from trialfleet.training.mesh import constrain
from trialfleet.training.workload import Params
from trialfleet.workloads.mvfoul.leaves import Leaf, norm, under
from trialfleet.workloads.mvfoul.normalisation import layer_norm

_EPSILON = 1e-5  # of the layer norms


class Joined(NamedTuple):
    """Views that were joined.

    Attributes:
        clips: (B, C).
        load: how unevenly experts were chosen, a scalar: 1 if all were alike, up to their number; 0 without experts.
    """

    clips: jax.Array
    load: jax.Array


def leaves(config: FoulModel, features: int) -> dict[str, Leaf]:
    """The parameters, for views of so many features."""
    found: dict[str, Leaf] = {}
    if config.aggregator != "none":
        for n in range(config.aggregator_layers):
            found |= under(f"aggregator/layer{n}", _layer(config, features))
    if config.pooling == "attention":
        found["attention/w"] = Leaf((features, config.head_hidden), ("embed", "mlp"), (2 / features) ** 0.5)
        found["attention/score"] = Leaf((config.head_hidden, 1), ("mlp", None), config.head_hidden**-0.5)
    return found


def _layer(config: FoulModel, features: int) -> dict[str, Leaf]:
    hidden, experts, found = config.head_hidden, config.experts, norm("norm", features)
    if config.aggregator == "moe":
        return found | {
            "router": Leaf((features, experts), ("embed", None), features**-0.5),
            "up": Leaf((experts, features, hidden), (None, "embed", "mlp"), features**-0.5),
            "up_bias": Leaf((experts, hidden), ("stack", "mlp")),
            "down": Leaf((experts, hidden, features), (None, "mlp", "embed"), hidden**-0.5),
            "down_bias": Leaf((experts, features), ("stack", "embed")),
        }
    if config.aggregator == "transformer":
        heads = (config.aggregator_heads, features // config.aggregator_heads)
        found |= norm("attention_norm", features) | {
            "qkv": Leaf((features, 3, *heads), ("embed", None, "heads", None), features**-0.5),
            "qkv_bias": Leaf((3, *heads), ("stack", "heads", "stack")),
            "out": Leaf((*heads, features), ("heads", None, "embed"), features**-0.5),
            "out_bias": Leaf((features,), ("embed",)),
        }
    return found | {
        "up": Leaf((features, hidden), ("embed", "mlp"), features**-0.5),
        "up_bias": Leaf((hidden,), ("mlp",)),
        "down": Leaf((hidden, features), ("mlp", "embed"), hidden**-0.5),
        "down_bias": Leaf((features,), ("embed",)),
    }


def joined(config: FoulModel, params: Params, x: jax.Array, mask: jax.Array) -> Joined:
    """One vector for each clip.

    Args:
        x: features of views (B, V, C).
        mask: (B, V), 1 where there is a view.
    """
    load = jnp.zeros(())
    for n in range(0 if config.aggregator == "none" else config.aggregator_layers):
        own = params["aggregator"][f"layer{n}"]
        if config.aggregator == "transformer":
            x = x + _attended(own, layer_norm(own, "attention_norm", x, _EPSILON), mask)
        h = layer_norm(own, "norm", x, _EPSILON)
        if config.aggregator == "moe":
            said, uneven = _by_experts(own, h, mask)
            x, load = x + said, load + uneven / config.aggregator_layers
        else:
            hidden = jax.nn.gelu(h @ own["up"] + own["up_bias"], approximate=False)
            x = x + constrain(hidden, "batch", None, "mlp") @ own["down"] + own["down_bias"]
    return Joined(_pooled(config, params, x, mask), load)


def _attended(params: Params, x: jax.Array, mask: jax.Array) -> jax.Array:
    """What each view takes from those that are there."""
    q, k, v = jnp.einsum("bvd,dcgh->cbvgh", x, params["qkv"]) + params["qkv_bias"][:, None, None]
    there = jnp.broadcast_to(mask[:, None] > 0, (len(x), x.shape[1], x.shape[1]))
    seen = attention(q, k, v, there)
    return jnp.add(jnp.einsum("bvgh,ghd->bvd", seen, params["out"]), params["out_bias"])


def _by_experts(params: Params, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the likeliest expert of each view says, times its probability, and how unevenly experts were chosen.

    Switch routing (Fedus et al. 2021, arXiv:2101.03961) without a limit of views: all experts say something of the few
    views, and one of them is heard. Uneven is E · Σ f · p, over experts e of E: f is the share of views that e got, p
    the mean probability that it had; equation 4 there.
    """
    chances = jax.nn.softmax(x.astype(jnp.float32) @ params["router"].astype(jnp.float32))  # (B, V, E)
    chosen = jax.nn.one_hot(jnp.argmax(chances, -1), chances.shape[-1])
    hidden = jax.nn.gelu(jnp.einsum("bvd,edh->bveh", x, params["up"]) + params["up_bias"], approximate=False)
    said = jnp.einsum("bveh,ehd->bved", constrain(hidden, "batch", None, None, "mlp"), params["down"])
    heard = jnp.sum((said + params["down_bias"]) * (chosen * chances)[..., None].astype(said.dtype), 2)
    views = jnp.maximum(jnp.sum(mask), 1)
    shares, means = (jnp.sum(each * mask[..., None], (0, 1)) / views for each in (chosen, chances))
    return heard, chances.shape[-1] * jnp.sum(shares * means)


def _pooled(config: FoulModel, params: Params, x: jax.Array, mask: jax.Array) -> jax.Array:
    """The views' mean (B, C), or their sum with weights of attention pooling (Ilse et al. 2018, arXiv:1802.04712)."""
    if config.pooling == "mean":
        shares = mask / jnp.maximum(jnp.sum(mask, 1, keepdims=True), 1)
    else:
        own = params["attention"]
        score = (jnp.tanh(x @ own["w"]) @ own["score"])[..., 0].astype(jnp.float32)
        shares = jax.nn.softmax(jnp.where(mask > 0, score, -1e9), 1)
    return jnp.sum(x * shares[..., None].astype(x.dtype), 1)
