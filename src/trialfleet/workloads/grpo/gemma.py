"""A decoder shaped like Gemma 3 (arXiv:2503.19786).

Shapes: B sequences of T tokens, D the width, N heads of H, K heads of keys and values, F hidden units. Sequences
are padded on the left; `valid` (B, T) says where tokens are. Weights are matrices (in, out).
"""

from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.config.grpo import Gemma3
from trialfleet.training import lora, trees
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals
from trialfleet.training.remat import rematerialized
from trialfleet.training.workload import Hyperparameters, Params
from trialfleet.workloads.grpo import tokens

Remat = Literal["none", "dots", "full"]

_FAR = -1e9


class Cache(NamedTuple):
    """Keys and values of what was seen, by layer (B, L, K, H), and which of the L places are taken (B, L)."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    valid: jax.Array


def init(config: Gemma3, key: jax.Array) -> Params:
    """Weights with the variance that keeps a signal's size; norm scales are stored less 1, so they are 0."""
    shapes: dict[str, tuple[int, ...]] = {"embedder/input_embedding": (tokens.SIZE, config.width)}
    for n in range(config.layers):
        shapes |= {f"layer{n}/{name}": shape for name, shape in _matrices(config).items()}
    flat = {path: draw / _inputs(path, shapes[path]) ** 0.5 for path, draw in normals(key, shapes).items()}
    for n in range(config.layers):
        flat |= {f"layer{n}/{name}": jnp.zeros(size) for name, size in _scales(config).items()}
    params = trees.unflatten({**flat, "final_norm": jnp.zeros(config.width)})
    if config.lora_rank is None:
        return params
    return lora.attach(params, config.lora_module_path, config.lora_rank, jax.random.fold_in(key, 1))


def _inputs(path: str, shape: tuple[int, ...]) -> int:
    return shape[1] if path.endswith("embedding") else prod(shape[:-1])


def _matrices(config: Gemma3) -> dict[str, tuple[int, int]]:
    width, queries, pairs = config.width, config.heads * config.head_dim, 2 * config.kv_heads * config.head_dim
    return {
        "attn/q_einsum": (width, queries),
        "attn/kv_einsum": (width, pairs),
        "attn/attn_vec_einsum": (queries, width),
        "mlp/gate_proj": (width, config.hidden),
        "mlp/up_proj": (width, config.hidden),
        "mlp/down_proj": (config.hidden, width),
    }


def _scales(config: Gemma3) -> dict[str, int]:
    names = ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm")
    return {
        **dict.fromkeys(names, config.width),
        **dict.fromkeys(("attn/query_norm", "attn/key_norm"), config.head_dim),
    }


def axes(config: Gemma3) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    layer: dict[str, tuple[str | None, ...]] = {
        "attn/q_einsum": ("embed", "heads"),
        "attn/kv_einsum": ("embed", "kv_heads"),
        "attn/attn_vec_einsum": ("heads", "embed"),
        "mlp/gate_proj": ("embed", "mlp"),
        "mlp/up_proj": ("embed", "mlp"),
        "mlp/down_proj": ("mlp", "embed"),
        **{name: (None,) if name.startswith("attn/") else ("embed",) for name in _scales(config)},
    }
    flat = {f"layer{n}/{name}": names for n in range(config.layers) for name, names in layer.items()}
    whole: dict[str, Any] = trees.unflatten(
        {**flat, "embedder/input_embedding": ("vocab", "embed"), "final_norm": ("embed",)}
    )
    if config.lora_rank is not None:
        whole = lora.attach_axes(whole, config.lora_module_path)
    return whole


def flops(config: Gemma3, length: int) -> float:
    """Floating-point operations of reading a sequence: matrix products with weights, and attention in full."""
    weights = config.layers * sum(prod(shape) for shape in _matrices(config).values()) + tokens.SIZE * config.width
    attention = 2 * config.layers * config.heads * config.head_dim * length
    return 2.0 * length * (weights + attention)


def logits(
    config: Gemma3,
    params: Params,
    sequence: jax.Array,
    valid: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
) -> jax.Array:
    """Scores of the token behind each one (B, T, vocabulary), float32.

    Args:
        sequence: (B, T) int32.
        adapter: False gives the model without its adapters.
    """
    scores, _ = _run(config, params, sequence, _positions(valid), valid, None, 0, hp, adapter, remat)
    return scores


def start(
    config: Gemma3, params: Params, prompt: jax.Array, valid: jax.Array, room: int, hp: Hyperparameters
) -> tuple[jax.Array, Cache]:
    """Scores of the first new token (B, vocabulary), and a cache with room for so many new ones."""
    batch, length = prompt.shape
    shape = (batch, length + room, config.kv_heads, config.head_dim)
    empty = tuple(jnp.zeros(shape, params["final_norm"].dtype) for _ in range(config.layers))
    taken = jnp.pad(valid, ((0, 0), (0, room)))
    cache = Cache(empty, empty, taken)
    scores, cache = _run(config, params, prompt, _positions(valid), taken, cache, 0, hp)
    return scores[:, -1], cache


def append(
    config: Gemma3, params: Params, token: jax.Array, place: jax.Array, cache: Cache, hp: Hyperparameters
) -> tuple[jax.Array, Cache]:
    """Scores of the token behind a new one (B,), which takes a place of the cache, the same for all sequences."""
    valid = jax.lax.dynamic_update_slice(cache.valid, jnp.ones((len(token), 1), cache.valid.dtype), (0, place))
    positions = jnp.sum(valid, 1, keepdims=True).astype(jnp.int32) - 1
    scores, cache = _run(config, params, token[:, None], positions, valid, cache, place, hp)
    return scores[:, 0], cache


def _positions(valid: jax.Array) -> jax.Array:
    """0 for the first token of each sequence (B, T), and for the padding before it."""
    return jnp.maximum(jnp.cumsum(valid, 1).astype(jnp.int32) - 1, 0)


def _run(
    config: Gemma3,
    params: Params,
    sequence: jax.Array,
    positions: jax.Array,
    valid: jax.Array,
    cache: Cache | None,
    place: jax.Array | int,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
) -> tuple[jax.Array, Cache]:
    """All layers over some tokens, which stand at `place` of those that can be seen."""
    embedding = params["embedder"]["input_embedding"]
    scale = hp["model.lora_alpha"] / config.lora_rank if config.lora_rank is not None else 0.0
    x = constrain(embedding[sequence] * jnp.sqrt(config.width).astype(embedding.dtype), "batch", None, "embed")
    seen = _positions(valid)
    distance = positions[:, :, None] - seen[:, None, :]  # (B, T, L)
    before = (distance >= 0) & (valid[:, None, :] > 0)
    keys, values = [], []
    for n in range(config.layers):
        everywhere = (n + 1) % config.global_every == 0
        mask = before if everywhere else before & (distance < config.window)
        stored = None if cache is None else (cache.keys[n], cache.values[n])
        base = config.global_rope_base if everywhere else config.local_rope_base
        layer = rematerialized(partial(_layer, config, base, adapter), remat)
        x, k, v = layer(params[f"layer{n}"], x, positions, mask, stored, place, scale)
        keys.append(k)
        values.append(v)
    scores = (_norm(x, params["final_norm"]) @ embedding.T).astype(jnp.float32)
    return scores, Cache(tuple(keys), tuple(values), valid)


def _layer(
    config: Gemma3,
    base: float,
    adapter: bool,
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    stored: tuple[jax.Array, jax.Array] | None,
    place: jax.Array | int,
    scale: jax.Array | float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The residual stream (B, T, D) behind a layer, and all of its keys and values."""
    h = _norm(x, params["pre_attention_norm"])
    h, k, v = _attention(config, base, adapter, params["attn"], h, positions, mask, stored, place, scale)
    x = x + _norm(h, params["post_attention_norm"])
    h = _feed_forward(params["mlp"], _norm(x, params["pre_ffw_norm"]), scale, adapter)
    return constrain(x + _norm(h, params["post_ffw_norm"]), "batch", None, "embed"), k, v


def _attention(
    config: Gemma3,
    base: float,
    adapter: bool,
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    stored: tuple[jax.Array, jax.Array] | None,
    place: jax.Array | int,
    scale: jax.Array | float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Grouped-query attention with normalised queries and keys; also all keys and values (B, L, K, H)."""
    batch, length, _ = x.shape
    groups = config.heads // config.kv_heads
    q = lora.linear(params, "q_einsum", x, scale, adapter).reshape(batch, length, config.heads, config.head_dim)
    kv = lora.linear(params, "kv_einsum", x, scale, adapter)
    kv = kv.reshape(batch, length, 2, config.kv_heads, config.head_dim)
    q = _rotated(_norm(q, params["query_norm"]), positions, base) * config.head_dim**-0.5
    k, v = _rotated(_norm(kv[:, :, 0], params["key_norm"]), positions, base), kv[:, :, 1]
    if stored is not None:
        k, v = (
            jax.lax.dynamic_update_slice(old, new, (0, place, 0, 0)) for old, new in zip(stored, (k, v), strict=True)
        )
    q = q.reshape(batch, length, config.kv_heads, groups, config.head_dim)
    scores = jnp.einsum("btkgh,blkh->bkgtl", q, k).astype(jnp.float32)
    shares = jax.nn.softmax(jnp.where(mask[:, None, None], scores, _FAR), -1).astype(x.dtype)
    mixed = jnp.einsum("bkgtl,blkh->btkgh", shares, v).reshape(batch, length, -1)
    return lora.linear(params, "attn_vec_einsum", mixed, scale, adapter), k, v


def _feed_forward(params: Params, x: jax.Array, scale: jax.Array | float, adapter: bool) -> jax.Array:
    """GeGLU."""
    gate = jax.nn.gelu(lora.linear(params, "gate_proj", x, scale, adapter), approximate=True)
    hidden = constrain(gate * lora.linear(params, "up_proj", x, scale, adapter), "batch", None, "mlp")
    return lora.linear(params, "down_proj", hidden, scale, adapter)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMS norm with the factor 1 + scale."""
    wide = x.astype(jnp.float32)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + 1e-6)
    return (wide * size * (1 + scale.astype(jnp.float32))).astype(x.dtype)


def _rotated(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
    """Rotary positions: pairs (h, h + H/2) of x (B, T, heads, H) turned by position · base^(-2h/H)."""
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    one, other = jnp.split(x.astype(jnp.float32), 2, -1)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1).astype(x.dtype)
