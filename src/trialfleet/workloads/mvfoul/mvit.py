"""MViTv2: a transformer over space and time whose tokens become fewer and wider (Li et al. 2022, arXiv:2112.01526).

A convolution makes tokens of pixels, a class token is put before them, and what it is behind the last block stands for
the view. Each block pools queries, keys and values by convolutions of each channel, keys and values farther than
queries; the first block of each stage but the first halves the sides, and makes tokens wider. Attention knows how far a
query and a key are apart in rows, columns and frames, by tables that are learned. As torchvision has it (`mvit_v2_s`).

Shapes: N views, S tokens of D, G heads of H; a grid is (frames, rows, columns) of tokens.
"""

from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trialfleet.config.mvfoul_models import Mvit
from trialfleet.training.attention import attention
from trialfleet.training.convolution import Strides, of_each_channel, over_volume
from trialfleet.training.mesh import constrain
from trialfleet.training.random import uniforms
from trialfleet.training.remat import Remat, rematerialized
from trialfleet.training.workload import Extra, Hyperparameters, Params
from trialfleet.workloads.mvfoul.leaves import Leaf, norm
from trialfleet.workloads.mvfoul.normalisation import layer_norm

Grid = tuple[int, int, int]

_EPSILON = 1e-6  # of the layer norms
_TAPS = (3, 3, 3)  # of pooling
_EXPANSION = 4  # hidden width of a block's two-layer part, in widths
POOLED = ("query", "key", "value")
TABLES = ("frames", "rows", "columns")  # of positions, in a grid's order
_HEAD_ROOM = 8  # widths of heads that fused kernels take are multiples of it


class Block(NamedTuple):
    """A block: widths before and in it, heads, the grid it is given, and the strides of its pooling."""

    before: int
    width: int
    heads: int
    grid: Grid
    query_stride: Strides
    key_stride: Strides

    @property
    def queries(self) -> Grid:
        return _shrunk(self.grid, self.query_stride)

    @property
    def keys(self) -> Grid:
        return _shrunk(self.grid, self.key_stride)

    @property
    def head(self) -> int:
        return self.width // self.heads


def _shrunk(grid: Grid, strides: Strides) -> Grid:
    frames, rows, columns = (-(-size // step) for size, step in zip(grid, strides, strict=True))
    return frames, rows, columns


def blocks(config: Mvit, frames: int, size: int) -> list[Block]:
    """All blocks for clips of so many frames and pixels."""
    found, before, grid = [], config.widths[0], _shrunk((frames, size, size), config.patch_stride)
    for stage, (width, depth, heads) in enumerate(zip(config.widths, config.depths, config.heads, strict=True)):
        key = max(config.key_stride // 2**stage, 1)
        for number in range(depth):
            query = 2 if stage > 0 and number == 0 else 1
            block = Block(before, width, heads, grid, (1, query, query), (1, key, key))
            found.append(block)
            before, grid = width, block.queries
    return found


def units(config: Mvit) -> list[str]:
    """The freeze units, from pixels on."""
    return ["stem", *(f"block{n}" for n in range(sum(config.depths)))]


def leaves(config: Mvit, frames: int, size: int) -> dict[str, Leaf]:
    """The parameters."""
    width = config.widths[0]
    found = {
        "stem/patch": Leaf(
            (*config.patch, 3, width), (*("kernel",) * 3, None, "embed"), (3 * prod(config.patch)) ** -0.5
        ),
        "stem/patch_bias": Leaf((width,), ("embed",)),
        "stem/class_token": Leaf((width,), ("embed",), 0.02),
    }
    for n, block in enumerate(blocks(config, frames, size)):
        found |= {f"block{n}/{name}": leaf for name, leaf in _of_block(block).items()}
    return found | norm(f"block{n}/last_norm", config.widths[-1])


def _of_block(block: Block) -> dict[str, Leaf]:
    before, width, heads, head = block.before, block.width, block.heads, block.head
    # 'stack' here: these are vectors side by side, and no matrix.
    found = norm("norm1", before) | {
        "qkv": Leaf((before, 3, heads, head), ("embed", None, "heads", None), before**-0.5),
        "qkv_bias": Leaf((3, heads, head), ("stack", "heads", "stack")),
        "out": Leaf((heads, head, width), ("heads", None, "embed"), width**-0.5),
        "out_bias": Leaf((width,), ("embed",)),
    }
    for name in POOLED:
        found[f"pool_{name}"] = Leaf((*_TAPS, head), (*("kernel",) * 3, None), prod(_TAPS) ** -0.5)
        found |= norm(f"pool_{name}_norm", head, None)
    for name, queries, keys in zip(TABLES, block.queries, block.keys, strict=True):
        found[f"apart_{name}"] = Leaf((2 * max(queries, keys) - 1, head), ("stack", None), 0.02)
    if before != width:
        found |= {
            "widen": Leaf((before, width), ("embed", None), before**-0.5),
            "widen_bias": Leaf((width,), ("embed",)),
        }
    hidden = _EXPANSION * width
    return (
        found
        | norm("norm2", width)
        | {
            "up": Leaf((width, hidden), ("embed", "mlp"), width**-0.5),
            "up_bias": Leaf((hidden,), ("mlp",)),
            "down": Leaf((hidden, width), ("mlp", "embed"), hidden**-0.5),
            "down_bias": Leaf((width,), ("embed",)),
        }
    )


def stored(config: Mvit) -> Extra:
    """There are no statistics."""
    return ()


def features(
    config: Mvit,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
    key: jax.Array | None,
    remat: Remat,
) -> tuple[jax.Array, Extra]:
    """The class token of each view behind the last block, normalised (N, D).

    Args:
        x: pixels (N, T, H, W, 3), scaled.
        mask: (N,); not used, as views do not see each other.
        key: for stochastic depth (arXiv:1603.09382); None: as in evaluation.
    """
    found = blocks(config, x.shape[1], x.shape[2])
    kept = _kept(hp, key, len(x), len(found))
    x = over_volume(x, params["stem"]["patch"], config.patch_stride) + params["stem"]["patch_bias"]
    token = jnp.broadcast_to(params["stem"]["class_token"].astype(x.dtype), (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([token, x.reshape(len(x), -1, x.shape[-1])], 1)
    for n, block in enumerate(found):
        one = rematerialized(partial(_block, block), remat)
        x = one(params[f"block{n}"], x, None if kept is None else kept[n])
    return layer_norm(params[f"block{n}"], "last_norm", x[:, 0], _EPSILON), extra


def _kept(hp: Hyperparameters, key: jax.Array | None, views: int, count: int) -> jax.Array | None:
    """What the two branches of each block are multiplied by in each view (blocks, 2, N): 0 or 1 / (1 - chance)."""
    if key is None:
        return None
    chance = hp["model.stochastic_depth"] * jnp.arange(count) / max(count - 1, 1)
    drawn = uniforms(key, (views,), [2 * count])[0].T.reshape(count, 2, views)
    chance = chance[:, None, None]
    return jnp.where(drawn >= chance, 1 / (1 - chance), 0)


def _block(block: Block, params: Params, x: jax.Array, kept: jax.Array | None) -> jax.Array:
    """(N, S, D) to (N, fewer, wider)."""
    h = layer_norm(params, "norm1", x, _EPSILON)
    mixed = _attention(block, params, h)
    if block.before != block.width:
        x = h @ params["widen"] + params["widen_bias"]
    x = _skipped(block, x) + _scaled(mixed, kept, 0)
    x = constrain(x, "batch", None, "embed")
    h = jax.nn.gelu(layer_norm(params, "norm2", x, _EPSILON) @ params["up"] + params["up_bias"], approximate=False)
    h = constrain(h, "batch", None, "mlp")
    x = x + _scaled(h @ params["down"] + params["down_bias"], kept, 1)
    return constrain(x, "batch", None, "embed")


def _scaled(branch: jax.Array, kept: jax.Array | None, number: int) -> jax.Array:
    return branch if kept is None else branch * kept[number].astype(branch.dtype)[:, None, None]


def _skipped(block: Block, x: jax.Array) -> jax.Array:
    """What goes past the attention: the largest of each channel around every token that is kept."""
    if prod(block.query_stride) == 1:
        return x
    grid = x[:, 1:].reshape(len(x), *block.grid, -1)
    taps = [step + 1 if step > 1 else 1 for step in block.query_stride]
    pads = [(0, 0), *((size // 2, size // 2) for size in taps), (0, 0)]
    least = -jnp.inf
    pooled = jax.lax.reduce_window(grid, least, jax.lax.max, (1, *taps, 1), (1, *block.query_stride, 1), pads)
    return jnp.concatenate([x[:, :1], pooled.reshape(len(x), -1, x.shape[-1])], 1)


def _attention(block: Block, params: Params, x: jax.Array) -> jax.Array:
    """Pooled attention (N, queries, D), with pooled queries added to what they find."""
    found = jnp.einsum("nsd,dcgh->cnsgh", x, params["qkv"]) + params["qkv_bias"][:, None, None]
    q, k, v = (constrain(each, "batch", None, "heads", None) for each in found)
    q = _pooled(block.grid, block.query_stride, params, "query", q)
    k = _pooled(block.grid, block.key_stride, params, "key", k)
    v = _pooled(block.grid, block.key_stride, params, "value", v)
    seen = _looked(block, params, q, k, v)
    seen = seen + jnp.pad(q[:, 1:], ((0, 0), (1, 0), (0, 0), (0, 0)))  # but for the class token's
    return jnp.add(jnp.einsum("nsgh,ghd->nsd", seen, params["out"]), params["out_bias"])


def _pooled(grid: Grid, strides: Strides, params: Params, name: str, x: jax.Array) -> jax.Array:
    """Tokens (N, S, G, H) of a grid, pooled and normalised; the class token stays."""
    tokens = x[:, 1:].reshape(len(x), *grid, *x.shape[2:])
    tokens = of_each_channel(tokens, params[f"pool_{name}"], strides)
    x = jnp.concatenate([x[:, :1], tokens.reshape(len(x), -1, *x.shape[2:])], 1)
    return layer_norm(params, f"pool_{name}_norm", x, _EPSILON)


def _looked(block: Block, params: Params, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """What queries (N, Q, G, H) take from values, by keys and by how far both are apart.

    That is a sum of three numbers by a key's frame, row and column, and so a product of vectors: queries have a number
    for each frame, row and column that there is, and keys a 1 at their own. Attention then is plain, and its kernels
    never hold all scores.
    """
    head = q.shape[-1]
    asked, own = _apart(block, params, q), _places(block.keys)
    room = -(head + own.shape[1]) % _HEAD_ROOM
    asked = jnp.pad(asked, ((0, 0), (1, 0), (0, 0), (0, room)))
    there = jnp.asarray(np.pad(own, ((1, 0), (0, room))), k.dtype)[None, :, None]
    there = jnp.broadcast_to(there, (*k.shape[:3], there.shape[-1]))
    wide_q = jnp.concatenate([q * head**-0.5, asked], -1)
    wide_k = jnp.concatenate([k, there], -1)
    wide_v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, there.shape[-1])))
    return attention(wide_q, wide_k, wide_v, None, scale=1.0)[..., :head]


def _apart(block: Block, params: Params, q: jax.Array) -> jax.Array:
    """What a query adds to the scores of keys in each frame, row and column (N, Q, G, frames + rows + columns)."""
    grid = q[:, 1:].reshape(len(q), *block.queries, *q.shape[2:])
    found = []
    for axis, name, queries, keys in zip("thw", TABLES, block.queries, block.keys, strict=True):
        table = params[f"apart_{name}"][_distances(queries, keys)]  # (queries, keys, H)
        found.append(jnp.einsum(f"nthwgd,{axis}kd->nthwgk", grid, table))
    return jnp.concatenate(found, -1).reshape(len(q), -1, q.shape[2], sum(block.keys))


def _distances(queries: int, keys: int) -> np.ndarray:
    """Where in a table the distance of each query from each key stands; the longer axis has its unit."""
    of_query, of_key = max(keys / queries, 1.0), max(queries / keys, 1.0)
    apart = np.arange(queries)[:, None] * of_query - np.arange(keys)[None] * of_key + (keys - 1) * of_key
    return apart.astype(np.int32)


def _places(grid: Grid) -> np.ndarray:
    """The frame, row and column of each of a grid's tokens: a 1 at each (tokens, frames + rows + columns)."""
    places = np.indices(grid).reshape(3, -1)
    return np.concatenate([np.eye(size)[place] for size, place in zip(grid, places, strict=True)], 1)


def products(config: Mvit, frames: int, size: int) -> list[tuple[str, float]]:
    """FLOPs of those of one view, with the weights that are multiplied; '' where there is none."""
    found = blocks(config, frames, size)
    patches = prod(found[0].grid) * prod(config.patch) * 3 * config.widths[0]
    counts: list[tuple[str, float]] = [("stem/patch", patches)]
    for n, block in enumerate(found):
        given, queries, keys = (prod(grid) + 1 for grid in (block.grid, block.queries, block.keys))
        own: dict[str, float] = {"qkv": 3 * given * block.before * block.width}
        for name, count in zip(POOLED, (queries, keys, keys), strict=True):
            own[f"pool_{name}"] = (count - 1) * prod(_TAPS) * block.width
        for name, places in zip(TABLES, block.keys, strict=True):
            own[f"apart_{name}"] = (queries - 1) * places * block.width
        counts += [(f"block{n}/{name}", count) for name, count in own.items()]
        counts.append(("", 2 * queries * keys * block.width))
        behind = {"out": queries * block.width**2}
        if block.before != block.width:
            behind["widen"] = given * block.before * block.width
        behind |= dict.fromkeys(("up", "down"), queries * _EXPANSION * block.width**2)
        counts += [(f"block{n}/{name}", count) for name, count in behind.items()]
    return [(path, 2.0 * count) for path, count in counts]
