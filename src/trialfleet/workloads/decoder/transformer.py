"""A decoder-only transformer: Gemma 3 (arXiv:2503.19786), Llama (arXiv:2407.21783), by the table of families.py.

Shapes: B sequences of T tokens, D the width, N heads of H, K heads of keys and values, F hidden units, V tokens of the
vocabulary. Sequences are padded on the left; `valid` (B, T) says where tokens are.

Every `global_every`-th layer sees all tokens, the others `window` of them. A norm is there if its scale is. The
weights of all layers are stacked, leaf by leaf, and a scan goes over the layers: whatever the depth, one layer is
compiled, and what is gathered for a layer's turn is that layer's weights. (What a scan is given must be used as it is:
of a slice of it a copy is kept for the gradient.) Heads are an axis of the weights, so that a mesh that splits them
never splits a merged axis.
"""

# mypy: allow-untyped-calls
# (jax's optimization_barrier has no annotations.)

import re
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.decoder import Decoder
from trialfleet.training import lora, trees
from trialfleet.training.attention import attention
from trialfleet.training.dropout import Dropout
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals
from trialfleet.training.remat import Remat, rematerialized
from trialfleet.training.workload import Hyperparameters, Params, Product
from trialfleet.workloads.decoder import families
from trialfleet.workloads.decoder.unembedding import scores

Index = Any  # of a layer: a traced one, or an int where layers are not stacked
Layered = Any  # an array (layers, ...), or a tuple with one (...) for each layer


class Seen(NamedTuple):
    """What a kind of layer keeps of the tokens it may look back at.

    A token with the number n stands at place n of the L; in the ring of a local layer at n modulo L.

    Attributes:
        keys, values: one (B, L, K, H) for each layer of this kind, stacked or one by one.
        positions, valid: of the tokens (B, L).
    """

    keys: Layered
    values: Layered
    positions: jax.Array
    valid: jax.Array


_SEQUENCES = (1, 1, 0, 0)  # the axis of Seen's leaves on which the sequences are


class Cache(NamedTuple):
    """What was seen: local layers keep a window of it, global ones all."""

    local: Seen
    everything: Seen


def init(config: Decoder, key: jax.Array) -> Params:
    """Weights with the variance that keeps a signal's size; norms multiply by 1."""
    shapes: dict[str, tuple[int, ...]] = {"embedder/input_embedding": (config.vocab_size, config.width)}
    if not config.tied:
        shapes["unembedder"] = (config.vocab_size, config.width)
    shapes |= {f"layers/{name}": (config.layers, *shape) for name, shape in _weights(config).items()}
    deviations = {}
    for path, shape in shapes.items():
        kinds = _axes_of(path)
        inputs = shape[kinds.stack : kinds.stack + kinds.inputs] if path.startswith("layers/") else shape[1:]
        deviations[path] = prod(inputs) ** -0.5
    flat = normals(key, shapes, deviations)
    ones = 1.0 - families.of(config).norm_offset
    flat |= {f"layers/{name}": jnp.full((config.layers, size), ones) for name, size in norms(config).items()}
    params = trees.unflatten({**flat, "final_norm": jnp.full(config.width, ones)})
    if config.lora_rank is None:
        return params
    own = jax.random.fold_in(key, len(shapes))
    return lora.attach(params, _adapted_paths(config), config.lora_rank, own, _axes_of)


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


def norms(config: Decoder) -> dict[str, int]:
    """The sizes of one layer's norm scales: those within attention are of a head."""
    names = families.of(config).norms
    return {name: config.head_dim if name.startswith("attn/") else config.width for name in names}


def axes(config: Decoder) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    layer: dict[str, tuple[str | None, ...]] = {
        "attn/q_einsum": ("embed", "heads", None),
        "attn/kv_einsum": ("embed", None, "kv_heads", None),
        "attn/attn_vec_einsum": ("heads", None, "embed"),
        "mlp/gate_proj": ("embed", "mlp"),
        "mlp/up_proj": ("embed", "mlp"),
        "mlp/down_proj": ("mlp", "embed"),
        **dict.fromkeys(norms(config), (None,)),
    }
    flat: dict[str, tuple[str | None, ...]] = {f"layers/{name}": ("stack", *names) for name, names in layer.items()}
    flat |= {"embedder/input_embedding": ("vocab", "embed"), "final_norm": (None,)}
    if not config.tied:
        flat["unembedder"] = ("vocab", "embed")
    whole: dict[str, Any] = trees.unflatten(flat)
    if config.lora_rank is not None:
        whole = lora.attach_axes(whole, _adapted_paths(config), _axes_of)
    return whole


def unembedding(params: Params) -> jax.Array:
    """What makes scores of the stream (V, D): a matrix of its own, or the embeddings."""
    found: jax.Array = params["unembedder"] if "unembedder" in params else params["embedder"]["input_embedding"]
    return found


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
        looks = _reach(config, _is_global(config, n), length)
        for name, shape in _weights(config).items():
            if name == "attn/attn_vec_einsum":
                found.append(Product(2.0 * length * 2 * looks * config.heads * config.head_dim))
            found += lora.products(f"layers/{name}", shape, length, adapted(config, name), _axes_of(name).inputs)
    scored = Product(2.0 * said * config.vocab_size * config.width, embedding if config.tied else "unembedder")
    return [Product(0.0, embedding), *found, scored]


def adapted(config: Decoder, name: str) -> int | None:
    """The rank of a weight's adapter, if it has one."""
    return config.lora_rank if name in config.adapted() else None


def _adapted_paths(config: Decoder) -> str:
    """A regular expression of the weights that have adapters, which are never norms or embeddings."""
    return "|".join(re.escape(f"layers/{name}") for name in config.adapted())


def stream(
    config: Decoder,
    params: Params,
    sequence: jax.Array,
    valid: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
    key: jax.Array | None = None,
) -> jax.Array:
    """The residual stream behind the last layer, normalised (B, T, D).

    Args:
        sequence: tokens (B, T) int32, or what stands for them, as `embedded` gives it (B, T, D).
        adapter: False gives the model without its adapters.
        key: for what adapters do not see of their inputs in training; None: they see all.
    """
    return _read(config, params, sequence, valid, hp, adapter, remat, key)[0]


def start(
    config: Decoder, params: Params, prompt: jax.Array, valid: jax.Array, room: int, hp: Hyperparameters
) -> tuple[jax.Array, Cache]:
    """Scores of the first new token (B, V), and a cache with room for so many new ones.

    Args:
        prompt: tokens (B, P), or what stands for them (B, P, D).
    """
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
    return _last(params, x), Cache(kept(local, _reach(config, False, whole)), kept(everywhere, whole))


def repeated(cache: Cache, count: int) -> Cache:
    """The same for so many of each sequence, one after the other."""
    return Cache(
        *(Seen(*(jnp.repeat(x, count, axis) for x, axis in zip(seen, _SEQUENCES, strict=True))) for seen in cache)
    )


def rearranged(cache: Cache, source: jax.Array) -> Cache:
    """What was seen by the sequences at places (G, K) of their group of K, group after group."""
    groups, size = source.shape

    def moved(leaf: jax.Array, axis: int) -> jax.Array:
        grouped = leaf.reshape(*leaf.shape[:axis], groups, size, *leaf.shape[axis + 1 :])
        taken = jax.vmap(lambda own, places: jnp.take(own, places, axis, mode="clip"), (axis, 0), axis)(grouped, source)
        return taken.reshape(leaf.shape)

    return Cache(*(Seen(*map(moved, seen, _SEQUENCES)) for seen in cache))


def unstacked(config: Decoder, params: Params, cache: Cache) -> tuple[Params, Cache]:
    """Weights and cache with layers one by one, as `append` takes them, too.

    A CPU's compiler copies a layer out of a stack for each token; a GPU's does not.
    """

    def layer(number: int) -> Params:
        return jax.tree.map(lambda leaf: leaf[number], params["layers"])

    def apart(seen: Seen) -> Seen:
        return seen._replace(keys=tuple(seen.keys), values=tuple(seen.values))

    return {**params, "layers": [layer(number) for number in range(config.layers)]}, Cache(*map(apart, cache))


def append(
    config: Decoder, params: Params, token: jax.Array, number: jax.Array, cache: Cache, hp: Hyperparameters
) -> tuple[jax.Array, Cache]:
    """Scores of the token behind a new one (B,), which is token `number` of each of the sequences."""
    position = jnp.max(cache.everything.positions * cache.everything.valid, 1).astype(jnp.int32) + 1
    position = jnp.where(jnp.any(cache.everything.valid > 0, 1), position, 0)[:, None]
    cache = Cache(*(_with_token(seen, position, number) for seen in cache))
    scale, every, layers = _scale(config, hp), config.global_every, params["layers"]

    def read(x: jax.Array, cache: Cache, n: Index, own: Index, everywhere: bool) -> tuple[jax.Array, Cache]:
        """Layer `n`, which is number `own` of its kind."""
        layer = layers[n] if isinstance(layers, list) else _taken(layers, n)
        seen = cache.everything if everywhere else cache.local
        turns = _turns(config, position, everywhere)
        q, k, v = _projected(config, layer["attn"], _norm(config, layer, "pre_attention_norm", x), turns, scale, True)
        seen = _with_seen(seen, own, number % seen.positions.shape[1], k, v)
        mask = _mask(config, everywhere, position, seen.positions, seen.valid)
        mixed = _mixed(config, layer["attn"], q, seen.keys[own], seen.values[own], mask, scale, True)
        grown = cache._replace(everything=seen) if everywhere else cache._replace(local=seen)
        return _behind(config, layer, x, mixed, scale, True), grown

    def period(now: tuple[jax.Array, Cache], index: Index) -> tuple[tuple[jax.Array, Cache], None]:
        """The layers up to a global one, which is the last of them."""
        for n in range(every - 1):
            now = read(*now, index * every + n, index * (every - 1) + n, everywhere=False)
        return read(*now, index * every + every - 1, index, everywhere=True), None

    periods, rest = divmod(config.layers, every)
    now = (embedded(config, params, token[:, None]), cache)
    if isinstance(layers, list):
        for index in range(periods):
            now, _ = period(now, index)
    elif periods:
        now, _ = jax.lax.scan(period, now, jnp.arange(periods))
    for n in range(rest):
        now = read(*now, periods * every + n, periods * (every - 1) + n, everywhere=False)
    return _last(params, _norm(config, params, "final_norm", now[0])), now[1]


def _taken(layers: Params, number: Index) -> Params:
    """One of the layers of a stack."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), layers)


def _with_seen(seen: Seen, layer: Index, place: jax.Array, key: jax.Array, value: jax.Array) -> Seen:
    """With the key and the value (B, 1, K, H) of a new token in one of the layers."""

    def added(all_layers: Layered, one: jax.Array) -> Layered:
        if isinstance(all_layers, tuple):
            own = jax.lax.dynamic_update_slice(all_layers[layer], one, (0, place, 0, 0))
            return (*all_layers[:layer], own, *all_layers[layer + 1 :])
        return jax.lax.dynamic_update_slice(all_layers, one[None], (layer, 0, place, 0, 0))

    return seen._replace(keys=added(seen.keys, key), values=added(seen.values, value))


def _with_token(seen: Seen, position: jax.Array, number: jax.Array) -> Seen:
    place = (0, number % seen.positions.shape[1])
    return seen._replace(
        positions=jax.lax.dynamic_update_slice(seen.positions, position, place),
        valid=jax.lax.dynamic_update_slice(seen.valid, jnp.ones_like(position, seen.valid.dtype), place),
    )


def _last(params: Params, x: jax.Array) -> jax.Array:
    """Scores behind the last of some tokens (B, V)."""
    return scores(x[:, -1], unembedding(params))


def _positions(valid: jax.Array) -> jax.Array:
    """0 for the first token of each sequence (B, T), and for the padding before it."""
    return jnp.maximum(jnp.cumsum(valid, 1).astype(jnp.int32) - 1, 0)


def _is_global(config: Decoder, layer: int) -> bool:
    return (layer + 1) % config.global_every == 0


def _reach(config: Decoder, everywhere: bool, length: int) -> int:
    """How many of so many tokens a kind of layer sees at most."""
    return length if everywhere or config.window is None else min(length, config.window)


def _scale(config: Decoder, hp: Hyperparameters) -> jax.Array | float:
    return hp["model.lora_alpha"] / config.lora_rank if config.lora_rank is not None else 0.0


def embedded(config: Decoder, params: Params, sequence: jax.Array) -> jax.Array:
    """What stands for tokens (B, T) at the beginning of the residual stream (B, T, D)."""
    embedding = params["embedder"]["input_embedding"]
    x = embedding[sequence]
    if families.of(config).scaled_embeddings:
        x = x * jnp.sqrt(config.width).astype(embedding.dtype)
    return constrain(x, "batch", None, "embed")


def _mask(config: Decoder, everywhere: bool, own: jax.Array, seen: jax.Array, valid: jax.Array) -> jax.Array:
    """Which of the tokens at `seen` (B, L) those at `own` (B, T) look at (B, T, L)."""
    distance = own[:, :, None] - seen[:, None, :]
    before = (distance >= 0) & (valid[:, None, :] > 0)
    return before if everywhere or config.window is None else before & (distance < config.window)


def _read(
    config: Decoder,
    params: Params,
    sequence: jax.Array,
    valid: jax.Array,
    hp: Hyperparameters,
    adapter: bool = True,
    remat: Remat = "none",
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All layers over whole sequences: the stream, normalised, and all keys and values (layers, B, T, K, H)."""
    positions, scale = _positions(valid), _scale(config, hp)
    of_layers = [_is_global(config, n) for n in range(config.layers)]
    kinds = sorted(set(of_layers))
    masks = jnp.stack([_mask(config, kind, positions, positions, valid) for kind in kinds])
    turns = jnp.stack([_turns(config, positions, kind) for kind in kinds])

    keys = None  # of the layers' dropout
    if key is not None and config.lora_rank is not None and config.lora_dropout != 0:
        keys = jax.random.split(key, config.layers)

    def one(x: jax.Array, of_layer: tuple[Params, jax.Array, Any]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        layer, kind, own = of_layer
        dropout = None if own is None else Dropout(hp["model.lora_dropout"], own)
        h = _norm(config, layer, "pre_attention_norm", x)
        q, k, v = _projected(config, layer["attn"], h, turns[kind], scale, adapter, dropout)
        mixed = _mixed(config, layer["attn"], q, k, v, masks[kind], scale, adapter, dropout)
        return _behind(config, layer, x, mixed, scale, adapter, dropout), (k, v)

    numbers = jnp.asarray([kinds.index(kind) for kind in of_layers])
    x = sequence if sequence.ndim == 3 else embedded(config, params, sequence)
    block, each = rematerialized(one, remat), (params["layers"], numbers, keys)
    x, (seen, values) = jax.lax.scan(block, x, each, unroll=not config.scan_layers)
    return _norm(config, params, "final_norm", x), seen, values


def _projected(
    config: Decoder,
    params: Params,
    x: jax.Array,
    turns: jax.Array,
    scale: jax.Array | float,
    adapter: bool,
    dropout: Dropout | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries (B, T, N, H), keys and values (B, T, K, H), turned by their positions."""
    q = lora.linear(params, "q_einsum", x, scale, adapter, dropout)
    pair = lora.linear(params, "kv_einsum", x, scale, adapter, dropout)
    q = _rotated(_norm(config, params, "query_norm", q), turns)
    k = _rotated(_norm(config, params, "key_norm", pair[:, :, 0]), turns)
    return constrain(q, "batch", None, "heads", None), k, pair[:, :, 1]


def _mixed(
    config: Decoder,
    params: Params,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    scale: jax.Array | float,
    adapter: bool,
    dropout: Dropout | None = None,
) -> jax.Array:
    """Grouped-query attention: what each token takes from those that the mask (B, T, L) lets it see (B, T, D)."""
    mixed = attention(q, k, v, mask, None if config.query_scale is None else config.query_scale**-0.5)
    return lora.linear(params, "attn_vec_einsum", mixed, scale, adapter, dropout, inputs=2)


def _behind(
    config: Decoder,
    params: Params,
    x: jax.Array,
    mixed: jax.Array,
    scale: jax.Array | float,
    adapter: bool,
    dropout: Dropout | None = None,
) -> jax.Array:
    """The residual stream behind a layer, from that before it and what its attention gave."""
    x = x + _norm(config, params, "post_attention_norm", mixed)
    h = _feed_forward(config, params["mlp"], _norm(config, params, "pre_ffw_norm", x), scale, adapter, dropout)
    return constrain(x + _norm(config, params, "post_ffw_norm", h), "batch", None, "embed")


def _feed_forward(
    config: Decoder,
    params: Params,
    x: jax.Array,
    scale: jax.Array | float,
    adapter: bool,
    dropout: Dropout | None,
) -> jax.Array:
    """A gated linear unit (Shazeer 2020, arXiv:2002.05202)."""
    gate = families.of(config).gate(lora.linear(params, "gate_proj", x, scale, adapter, dropout))
    hidden = constrain(gate * lora.linear(params, "up_proj", x, scale, adapter, dropout), "batch", None, "mlp")
    return lora.linear(params, "down_proj", hidden, scale, adapter, dropout)


def _norm(config: Decoder, params: Params, name: str, x: jax.Array) -> jax.Array:
    """RMS norm by the scale of that name; x itself where the family has none."""
    if name not in params:
        return x
    wide, scale = x.astype(jnp.float32), params[name].astype(jnp.float32)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + config.norm_epsilon)
    normed: jax.Array = (wide * size * (families.of(config).norm_offset + scale)).astype(x.dtype)
    return normed


def _turns(config: Decoder, positions: jax.Array, everywhere: bool) -> jax.Array:
    """Sines and cosines of position / factor · base^(-2h/H), for the first half of a head (2, B, T, 1, H/2)."""
    base, factor = config.local_rope_base, 1.0
    if everywhere:
        base, factor = config.global_rope_base, config.global_rope_factor
    half = config.head_dim // 2
    frequencies = base ** (-np.arange(half) / half) / factor
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies.astype(np.float32)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)])


def _rotated(x: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotary positions: pairs (h, h + H/2) of x (B, T, heads, H) turned by their angles."""
    one, other = jnp.split(x.astype(jnp.float32), 2, -1)
    sin, cos = turns
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1).astype(x.dtype)
