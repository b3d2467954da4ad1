"""A decoder of the Gemma 3 family (arXiv:2503.19786).

Shapes: B sequences of T tokens, D the width, N heads of H, K heads of keys and values, F hidden units, V tokens of the
vocabulary. Sequences are padded on the left; `valid` (B, T) says where tokens are.

Every `global_every`-th layer sees all tokens, the others `window` of them. The weights of all layers are stacked, leaf
by leaf, and a scan goes over the layers: whatever the depth, one layer is compiled, and what is gathered for a layer's
turn is that layer's weights. (What a scan is given must be used as it is: of a slice of it a copy is kept for the
gradient.) Heads are an axis of the weights, so that a mesh that splits them never splits a merged axis.
"""

import re
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.training import lora, trees
from trialfleet.training.attention import attention
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals
from trialfleet.training.remat import rematerialized
from trialfleet.training.workload import Hyperparameters, Params, Product
from trialfleet.workloads.decoder.unembedding import scores

Remat = Literal["none", "dots", "full"]


class Seen(NamedTuple):
    """What a kind of layer keeps of the tokens it may look back at.

    A token with the number n stands at place n of the L; in the ring of a local layer at n modulo L.

    Attributes:
        keys, values: one (B, L, K, H) for each layer of this kind.
        positions, valid: of the tokens (B, L).
    """

    keys: jax.Array  # (layers, B, L, K, H)
    values: jax.Array
    positions: jax.Array
    valid: jax.Array


class Cache(NamedTuple):
    """What was seen: local layers keep a window of it, global ones all."""

    local: Seen
    everything: Seen


def init(config: Decoder, key: jax.Array) -> Params:
    """Weights with the variance that keeps a signal's size; norm scales are stored less 1, so they are 0."""
    shapes: dict[str, tuple[int, ...]] = {"embedder/input_embedding": (config.vocab_size, config.width)}
    shapes |= {f"layers/{name}": (config.layers, *shape) for name, shape in _weights(config).items()}
    deviations = {}
    for path, shape in shapes.items():
        kinds = _axes_of(path)
        inputs = shape[kinds.stack : kinds.stack + kinds.inputs] if path.startswith("layers/") else shape[1:]
        deviations[path] = prod(inputs) ** -0.5
    flat = normals(key, shapes, deviations)
    flat |= {f"layers/{name}": jnp.zeros((config.layers, size)) for name, size in _scales(config).items()}
    params = trees.unflatten({**flat, "final_norm": jnp.zeros(config.width)})
    if config.lora_rank is None:
        return params
    own = jax.random.fold_in(key, len(shapes))
    return lora.attach(params, config.lora_module_path, config.lora_rank, own, _axes_of)


def _weights(config: Decoder) -> dict[str, tuple[int, ...]]:
    """The shapes of one layer's weights."""
    width, head = config.width, config.head_dim
    return {
        "attn/q_einsum": (width, config.heads, head),
        "attn/kv_einsum": (width, 2, config.kv_heads, head),
        "attn/attn_vec_einsum": (config.heads, head, width),
        "mlp/gate_proj": (width, config.hidden),
        "mlp/up_proj": (width, config.hidden),
        "mlp/down_proj": (config.hidden, width),
    }


def _axes_of(path: str) -> lora.Axes:
    return lora.Axes(stack=1, inputs=2 if path.endswith("attn_vec_einsum") else 1)


def _scales(config: Decoder) -> dict[str, int]:
    names = ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm")
    return {
        **dict.fromkeys(names, config.width),
        **dict.fromkeys(("attn/query_norm", "attn/key_norm"), config.head_dim),
    }


def axes(config: Decoder) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    layer: dict[str, tuple[str | None, ...]] = {
        "attn/q_einsum": ("embed", "heads", None),
        "attn/kv_einsum": ("embed", None, "kv_heads", None),
        "attn/attn_vec_einsum": ("heads", None, "embed"),
        "mlp/gate_proj": ("embed", "mlp"),
        "mlp/up_proj": ("embed", "mlp"),
        "mlp/down_proj": ("mlp", "embed"),
        **dict.fromkeys(_scales(config), (None,)),
    }
    flat = {f"layers/{name}": ("stack", *names) for name, names in layer.items()}
    whole: dict[str, Any] = trees.unflatten(
        {**flat, "embedder/input_embedding": ("vocab", "embed"), "final_norm": (None,)}
    )
    if config.lora_rank is not None:
        whole = lora.attach_axes(whole, config.lora_module_path, _axes_of)
    return whole


def gathered(config: Decoder, params: Params) -> Params:
    """The weights as each device needs them for whole layers: no longer split over fsdp, still over tp."""
    flat, names = trees.flatten(params), trees.flatten(axes(config))
    return trees.unflatten({path: constrain(leaf, *names[path]) for path, leaf in flat.items()})


def products(config: Decoder, length: int, said: int) -> list[Product]:
    """Those of reading a sequence: with weights and adapters, and attention within each layer's window.

    Args:
        length: tokens that are read.
        said: tokens of them behind which all of the vocabulary is scored.
    """
    embedding, found = "embedder/input_embedding", []
    for n in range(config.layers):
        looks = length if _is_global(config, n) else min(length, config.window)
        for name, shape in _weights(config).items():
            if name == "attn/attn_vec_einsum":
                found.append(Product(2.0 * length * 2 * looks * config.heads * config.head_dim))
            found += lora.products(f"layers/{name}", shape, length, _adapted(config, name), _axes_of(name).inputs)
    scored = Product(2.0 * said * config.vocab_size * config.width, embedding)
    return [Product(0.0, embedding), *found, scored]


def _adapted(config: Decoder, name: str) -> int | None:
    """The rank of a weight's adapter, if it has one."""
    return config.lora_rank if re.fullmatch(config.lora_module_path, f"layers/{name}") else None


def stream(
    config: Decoder,
    params: Params,
    sequence: jax.Array,
    valid: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
) -> jax.Array:
    """The residual stream behind the last layer, normalised (B, T, D).

    Args:
        sequence: (B, T) int32.
        adapter: False gives the model without its adapters.
    """
    return _read(config, params, sequence, valid, hp, adapter, remat)[0]


def start(
    config: Decoder, params: Params, prompt: jax.Array, valid: jax.Array, room: int, hp: Hyperparameters
) -> tuple[jax.Array, Cache]:
    """Scores of the first new token (B, V), and a cache with room for so many new ones."""
    x, keys, values = _read(config, params, prompt, valid, hp)
    length = prompt.shape[1]
    positions = _positions(valid)

    def kept(layers: Sequence[int], size: int) -> Seen:
        """The last tokens of the prompt, each at its place among `size`."""
        number = np.asarray([length - 1 - (length - 1 - place) % size for place in range(size)])
        taken, place = number >= 0, np.maximum(number, 0)
        if size >= length:  # no ring: tokens stand where they stood
            taken, place = np.arange(size) < length, np.minimum(np.arange(size), length - 1)
        chosen = np.asarray(layers, int)
        return Seen(
            keys[chosen][:, :, place],
            values[chosen][:, :, place],
            positions[:, place],
            valid[:, place] * taken,
        )

    whole = length + room
    everywhere = [n for n in range(config.layers) if _is_global(config, n)]
    local = [n for n in range(config.layers) if not _is_global(config, n)]
    return _last(params, x), Cache(kept(local, min(config.window, whole)), kept(everywhere, whole))


def append(
    config: Decoder, params: Params, token: jax.Array, number: jax.Array, cache: Cache, hp: Hyperparameters
) -> tuple[jax.Array, Cache]:
    """Scores of the token behind a new one (B,), which is token `number` of each of the sequences."""
    position = jnp.max(cache.everything.positions * cache.everything.valid, 1).astype(jnp.int32) + 1
    position = jnp.where(jnp.any(cache.everything.valid > 0, 1), position, 0)[:, None]
    cache = Cache(*(_with_token(seen, position, number) for seen in cache))
    scale, every = _scale(config, hp), config.global_every

    def read(x: jax.Array, cache: Cache, n: jax.Array, own: jax.Array, everywhere: bool) -> tuple[jax.Array, Cache]:
        """Layer `n`, which is number `own` of its kind."""
        layer = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, n, keepdims=False), params["layers"])
        seen = cache.everything if everywhere else cache.local
        turns = _turns(config, position, _base(config, everywhere))
        q, k, v = _projected(layer["attn"], _norm(x, layer["pre_attention_norm"]), turns, scale, True)
        seen = _with_seen(seen, own, number % seen.positions.shape[1], k, v)
        mask = _mask(config, everywhere, position, seen.positions, seen.valid)
        mixed = _mixed(layer["attn"], q, seen.keys[own], seen.values[own], mask, scale, True)
        grown = cache._replace(everything=seen) if everywhere else cache._replace(local=seen)
        return _behind(layer, x, mixed, scale, True), grown

    def period(now: tuple[jax.Array, Cache], index: jax.Array) -> tuple[tuple[jax.Array, Cache], None]:
        """The layers up to a global one, which is the last of them."""
        for n in range(every - 1):
            now = read(*now, index * every + n, index * (every - 1) + n, everywhere=False)
        return read(*now, index * every + every - 1, index, everywhere=True), None

    periods, rest = divmod(config.layers, every)
    now = (_embedded(config, params, token[:, None]), cache)
    if periods:
        now, _ = jax.lax.scan(period, now, jnp.arange(periods))
    for n in range(rest):
        number_of_all, own = jnp.asarray(periods * every + n), jnp.asarray(periods * (every - 1) + n)
        now = read(*now, number_of_all, own, everywhere=False)
    return _last(params, _norm(now[0], params["final_norm"])), now[1]


def _with_seen(seen: Seen, layer: jax.Array, place: jax.Array, key: jax.Array, value: jax.Array) -> Seen:
    """With the key and the value (B, 1, K, H) of a new token in one of the layers."""
    at = (layer, 0, place, 0, 0)
    return seen._replace(
        keys=jax.lax.dynamic_update_slice(seen.keys, key[None], at),
        values=jax.lax.dynamic_update_slice(seen.values, value[None], at),
    )


def _with_token(seen: Seen, position: jax.Array, number: jax.Array) -> Seen:
    place = (0, number % seen.positions.shape[1])
    return seen._replace(
        positions=jax.lax.dynamic_update_slice(seen.positions, position, place),
        valid=jax.lax.dynamic_update_slice(seen.valid, jnp.ones_like(position, seen.valid.dtype), place),
    )


def _last(params: Params, x: jax.Array) -> jax.Array:
    """Scores behind the last of some tokens (B, V)."""
    return scores(x[:, -1], params["embedder"]["input_embedding"])


def _positions(valid: jax.Array) -> jax.Array:
    """0 for the first token of each sequence (B, T), and for the padding before it."""
    return jnp.maximum(jnp.cumsum(valid, 1).astype(jnp.int32) - 1, 0)


def _is_global(config: Decoder, layer: int) -> bool:
    return (layer + 1) % config.global_every == 0


def _base(config: Decoder, everywhere: bool) -> float:
    return config.global_rope_base if everywhere else config.local_rope_base


def _scale(config: Decoder, hp: Hyperparameters) -> jax.Array | float:
    return hp["model.lora_alpha"] / config.lora_rank if config.lora_rank is not None else 0.0


def _embedded(config: Decoder, params: Params, sequence: jax.Array) -> jax.Array:
    embedding = params["embedder"]["input_embedding"]
    return constrain(embedding[sequence] * jnp.sqrt(config.width).astype(embedding.dtype), "batch", None, "embed")


def _mask(config: Decoder, everywhere: bool, own: jax.Array, seen: jax.Array, valid: jax.Array) -> jax.Array:
    """Which of the tokens at `seen` (B, L) those at `own` (B, T) look at (B, T, L)."""
    distance = own[:, :, None] - seen[:, None, :]
    before = (distance >= 0) & (valid[:, None, :] > 0)
    return before if everywhere else before & (distance < config.window)


def _read(
    config: Decoder,
    params: Params,
    sequence: jax.Array,
    valid: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All layers over whole sequences: the stream, normalised, and all keys and values (layers, B, T, K, H)."""
    positions, scale = _positions(valid), _scale(config, hp)
    masks = jnp.stack([_mask(config, kind, positions, positions, valid) for kind in (False, True)])
    turns = jnp.stack([_turns(config, positions, _base(config, kind)) for kind in (False, True)])

    def one(x: jax.Array, of_layer: tuple[Params, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer, kind = of_layer
        h = _norm(x, layer["pre_attention_norm"])
        q, k, v = _projected(layer["attn"], h, turns[kind], scale, adapter)
        mixed = _mixed(layer["attn"], q, k, v, masks[kind], scale, adapter)
        return _behind(layer, x, mixed, scale, adapter), (k, v)

    kinds = jnp.asarray([int(_is_global(config, n)) for n in range(config.layers)])
    x = _embedded(config, params, sequence)
    x, (keys, values) = jax.lax.scan(rematerialized(one, remat), x, (params["layers"], kinds))
    return _norm(x, params["final_norm"]), keys, values


def _projected(
    params: Params, x: jax.Array, turns: jax.Array, scale: jax.Array | float, adapter: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries (B, T, N, H), keys and values (B, T, K, H), normalised and turned by their positions."""
    q = lora.linear(params, "q_einsum", x, scale, adapter)
    pair = lora.linear(params, "kv_einsum", x, scale, adapter)
    q = _rotated(_norm(q, params["query_norm"]), turns)
    k = _rotated(_norm(pair[:, :, 0], params["key_norm"]), turns)
    return constrain(q, "batch", None, "heads", None), k, pair[:, :, 1]


def _mixed(
    params: Params,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    scale: jax.Array | float,
    adapter: bool,
) -> jax.Array:
    """Grouped-query attention: what each token takes from those that the mask (B, T, L) lets it see (B, T, D)."""
    mixed = attention(q, k, v, mask)
    return lora.linear(params, "attn_vec_einsum", mixed, scale, adapter, inputs=2)


def _behind(params: Params, x: jax.Array, mixed: jax.Array, scale: jax.Array | float, adapter: bool) -> jax.Array:
    """The residual stream behind a layer, from that before it and what its attention gave."""
    x = x + _norm(mixed, params["post_attention_norm"])
    h = _feed_forward(params["mlp"], _norm(x, params["pre_ffw_norm"]), scale, adapter)
    return constrain(x + _norm(h, params["post_ffw_norm"]), "batch", None, "embed")


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


def _turns(config: Decoder, positions: jax.Array, base: float) -> jax.Array:
    """Sines and cosines of position · base^(-2h/H), for the first half of a head (2, B, T, 1, H/2)."""
    half = config.head_dim // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)])


def _rotated(x: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotary positions: pairs (h, h + H/2) of x (B, T, heads, H) turned by their angles."""
    one, other = jnp.split(x.astype(jnp.float32), 2, -1)
    sin, cos = turns
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1).astype(x.dtype)
