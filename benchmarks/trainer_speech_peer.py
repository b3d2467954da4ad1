"""The peer of `trainer_speech`: an encoder of Whisper's kind, a projector and a Llama in plain JAX, by hand.

No mesh, no scan over layers, no metrics; nothing of trialfleet is imported. Recordings are spectrograms (B, F, M) with
`frames` (B,) of them heard, texts are tokens (B, S) with 0 behind. Weights are trees of lists of layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


class Shape(NamedTuple):
    """What the weights do not say."""

    stack: int
    hears_silence: bool
    rope_base: float
    epsilon: float  # of the decoder's norms


# ---- the encoder ------------------------------------------------------------------------------------------------


def layer_norm(params: Tree, x: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, -1, keepdims=True)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-5)
    return centred * size * params["scale"] + params["b"]


def convolved(params: Tree, x: jax.Array, stride: int) -> jax.Array:
    kinds = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, params["w"], (stride,), [(1, 1)], dimension_numbers=kinds) + params["b"]


def positions(count: int, width: int) -> np.ndarray:
    angles = np.arange(count)[:, None] * np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """What queries (B, T, N, H) take of keys and values (B, L, K, H) where the mask (B, T, L) is true."""
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    scores = jnp.einsum("btkgh,blkh->bkgtl", grouped, k) * q.shape[3] ** -0.5
    shares = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30))
    return jnp.einsum("bkgtl,blkh->btkgh", shares, v).reshape(q.shape)


def encode(params: Tree, features: jax.Array, valid: jax.Array) -> jax.Array:
    x = jax.nn.gelu(convolved(params["conv1"], features, 1), approximate=False)
    x = jax.nn.gelu(convolved(params["conv2"], x, 2), approximate=False)
    x = x + positions(x.shape[1], x.shape[2])
    mask = jnp.broadcast_to(valid[:, None, :] > 0, (len(x), x.shape[1], x.shape[1]))
    for layer in params["layers"]:
        own, h = layer["attn"], layer_norm(layer["attn_norm"], x)
        q = jnp.einsum("btd,dnh->btnh", h, own["query"]["w"]) + own["query"]["b"]
        k = jnp.einsum("btd,dnh->btnh", h, own["key"]["w"])
        v = jnp.einsum("btd,dnh->btnh", h, own["value"]["w"]) + own["value"]["b"]
        x = x + jnp.einsum("btnh,nhd->btd", attend(q, k, v, mask), own["out"]["w"]) + own["out"]["b"]
        own, h = layer["mlp"], layer_norm(layer["mlp_norm"], x)
        hidden = jax.nn.gelu(h @ own["up"]["w"] + own["up"]["b"], approximate=False)
        x = x + hidden @ own["down"]["w"] + own["down"]["b"]
    return layer_norm(params["final_norm"], x)


# ---- the projector and the decoder ------------------------------------------------------------------------------


def rms_norm(scale: jax.Array, x: jax.Array, epsilon: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + epsilon) * scale


def told(shape: Shape, encoder: Tree, own: Tree, features: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the decoder reads of recordings, between two marks, and where there is something."""
    count = (features.shape[1] + 1) // 2
    valid = (jnp.arange(count) < (frames[:, None] + 1) // 2).astype(jnp.float32)
    seen = jnp.ones_like(valid) if shape.hears_silence else valid
    heard = encode(encoder, features, seen) * valid[..., None]
    padding = -count % shape.stack
    stacked = jnp.pad(heard, ((0, 0), (0, padding), (0, 0)))
    stacked = stacked.reshape(len(heard), -1, shape.stack * heard.shape[2])
    hidden = jax.nn.gelu(rms_norm(own["norm"], stacked, 1e-6) @ own["up"] + own["up_b"])
    projected = hidden @ own["down"] + own["down_b"]
    there = jnp.pad(valid, ((0, 0), (0, padding))).reshape(len(heard), -1, shape.stack).max(-1)
    marks = jnp.broadcast_to(own["marks"][:, None, None], (2, len(heard), 1, projected.shape[2]))
    one = jnp.ones((len(heard), 1))
    return jnp.concatenate([marks[0], projected, marks[1]], 1), jnp.concatenate([one, there, one], 1)


def rope(x: jax.Array, places: jax.Array, base: float) -> jax.Array:
    half = x.shape[-1] // 2
    angles = places[:, :, None, None] * base ** (-np.arange(half, dtype=np.float32) / half)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    one, other = jnp.split(x, 2, -1)
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1)


def decode(shape: Shape, params: Tree, x: jax.Array, valid: jax.Array) -> jax.Array:
    places = jnp.maximum(jnp.cumsum(valid, 1) - 1, 0)
    mask = (places[:, :, None] >= places[:, None, :]) & (valid[:, None, :] > 0)
    for layer in params["layers"]:
        own, h = layer["attn"], rms_norm(layer["pre_attention_norm"], x, shape.epsilon)
        q = rope(jnp.einsum("btd,dnh->btnh", h, own["q_einsum"]), places, shape.rope_base)
        pair = jnp.einsum("btd,dckh->btckh", h, own["kv_einsum"])
        k, v = rope(pair[:, :, 0], places, shape.rope_base), pair[:, :, 1]
        x = x + jnp.einsum("btnh,nhd->btd", attend(q, k, v, mask), own["attn_vec_einsum"])
        own, h = layer["mlp"], rms_norm(layer["pre_ffw_norm"], x, shape.epsilon)
        x = x + (jax.nn.silu(h @ own["gate_proj"]) * (h @ own["up_proj"])) @ own["down_proj"]
    return rms_norm(params["final_norm"], x, shape.epsilon)


# ---- the update -------------------------------------------------------------------------------------------------


def loss(shape: Shape, encoder: Tree, weights: Tree, batch: Tree) -> jax.Array:
    """Nats for each token of the texts."""
    read, there = told(shape, encoder, weights["projector"], batch["features"], batch["frames"])
    decoder, tokens = weights["decoder"], batch["tokens"]
    embedding = decoder["embedding"]
    x = jnp.concatenate([read, embedding[tokens[:, :-1]]], 1)
    valid = jnp.concatenate([there, (tokens[:, :-1] != 0).astype(jnp.float32)], 1)
    said = decode(shape, decoder, x, valid)[:, read.shape[1] - 1 :]
    scores = said @ embedding.T
    scores = jnp.where(jnp.arange(scores.shape[-1]) == 0, -1e9, scores)
    logs = jnp.take_along_axis(jax.nn.log_softmax(scores), tokens[..., None], -1)[..., 0]
    counted = (tokens != 0) * batch["weight"][:, None]
    return -jnp.sum(counted * jnp.where(tokens != 0, logs, 0)) / jnp.sum(counted)


def update(shape: Shape, tx: Any, weights: Tree, state: Tree, encoder: Tree, batch: Tree) -> Tree:
    """Weights, the optimizer's state and the loss after a step."""
    value, gradients = jax.value_and_grad(lambda weights: loss(shape, encoder, weights, batch))(weights)
    steps, state = tx.update(gradients, state, weights)
    return optax.apply_updates(weights, steps), state, value


def optimizer(own: Any, clip: float, decays: Tree) -> optax.GradientTransformation:
    """AdamW; `decays` says which leaves are decayed."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(own.learning_rate, own.beta1, own.beta2, own.eps, weight_decay=own.weight_decay, mask=decays),
    )
