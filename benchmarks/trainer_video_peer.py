"""The peer of `trainer_video`: its networks in plain JAX, as one writes them by hand for one size each.

A residual network over space and time with group norm, and a multiscale vision transformer; views are joined by an MLP
and attention pooling, two heads judge, plain cross-entropy with label smoothing, AdamW. No mesh, no masks of units, no
metrics but the loss; nothing of trialfleet is imported. Clips are (B, V, T, H, W, 3) with a mask (B, V).
"""

from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


class Shape(NamedTuple):
    """What is not told by the weights."""

    kind: str  # resnet3d or mvit
    groups: int  # of a group norm
    heads: tuple[int, ...]  # of each stage of a transformer
    depths: tuple[int, ...]
    patch_stride: tuple[int, int, int]
    key_stride: int
    smoothing: float
    dropout: float


def loss(shape: Shape, weights: Tree, batch: Tree, key: jax.Array) -> jax.Array:
    """The mean over clips of both questions' losses."""
    video, mask = batch["video"], batch["mask"]
    views = video.reshape(-1, *video.shape[2:]).astype(jnp.float32) / 127.5 - 1
    see = resnet3d if shape.kind == "resnet3d" else mvit
    x = see(shape, weights["backbone"], views).reshape(*mask.shape, -1)
    own = weights["heads"]
    layer = own["aggregator"]["layer0"]
    h = layer_norm(x, layer["norm_scale"], layer["norm_bias"], 1e-5)
    x = x + gelu(h @ layer["up"] + layer["up_bias"]) @ layer["down"] + layer["down_bias"]
    scores = (jnp.tanh(x @ own["attention"]["w"]) @ own["attention"]["score"])[..., 0]
    shares = jax.nn.softmax(jnp.where(mask > 0, scores, -1e9), 1)
    clips = jnp.einsum("bvc,bv->bc", x, shares)
    total = jnp.zeros(())
    for number, head in enumerate(("severity", "action")):
        hidden = jax.nn.relu(clips @ own[head]["w"] + own[head]["b"])
        if shape.dropout:
            chances = jax.random.uniform(jax.random.fold_in(key, number), hidden.shape)
            hidden = jnp.where(chances >= shape.dropout, hidden / (1 - shape.dropout), 0)
        logits = jnp.clip(hidden @ own[head]["out"] + own[head]["out_b"], -10, 10)
        target = optax.smooth_labels(jax.nn.one_hot(batch[head], logits.shape[-1]), shape.smoothing)
        total += jnp.mean(optax.softmax_cross_entropy(logits, target))
    return total


def gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + epsilon) * scale + bias


# ---- a residual network -----------------------------------------------------------------------------------------


def conv(x: jax.Array, weight: jax.Array, strides: Any) -> jax.Array:
    """A convolution over frames, rows and columns; frames that meet are channels of one, which CPUs like better."""
    taps, rows, columns, channels, width = weight.shape
    pad, last = taps // 2, x.shape[1]
    x = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0), (0, 0)))
    x = jnp.concatenate([x[:, tap : tap + last : strides[0]] for tap in range(taps)], -1)
    flat = weight.transpose(1, 2, 0, 3, 4).reshape(rows, columns, taps * channels, width)
    pads = [(rows // 2, rows // 2), (columns // 2, columns // 2)]
    kinds = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x.reshape(-1, *x.shape[2:]), flat, strides[1:], pads, dimension_numbers=kinds)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def group_norm(shape: Shape, weights: Tree, name: str, x: jax.Array) -> jax.Array:
    parts = x.reshape(*x.shape[:-1], shape.groups, -1)
    mean = jnp.mean(parts, (1, 2, 3, 5), keepdims=True)
    var = jnp.mean(jnp.square(parts - mean), (1, 2, 3, 5), keepdims=True)
    x = ((parts - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(x.shape)
    return x * weights[f"{name}_scale"] + weights[f"{name}_bias"]


def resnet3d(shape: Shape, weights: Tree, x: jax.Array) -> jax.Array:
    """Views (N, T, H, W, 3) to (N, C)."""
    x = jax.nn.relu(group_norm(shape, weights["stem"], "norm", conv(x, weights["stem"]["conv"], (1, 2, 2))))
    n = 0
    for stage, depth in enumerate(shape.depths):
        for number in range(depth):
            own, step = weights[f"block{n}"], 2 if stage > 0 and number == 0 else 1
            h = jax.nn.relu(group_norm(shape, own, "norm1", conv(x, own["conv1"], (step,) * 3)))
            h = group_norm(shape, own, "norm2", conv(h, own["conv2"], (1, 1, 1)))
            if "shortcut" in own:
                x = group_norm(shape, own, "shortcut_norm", x[:, ::step, ::step, ::step] @ own["shortcut"])
            x, n = jax.nn.relu(x + h), n + 1
    return jnp.mean(x, (1, 2, 3))


# ---- a multiscale transformer -----------------------------------------------------------------------------------


def mvit(shape: Shape, weights: Tree, x: jax.Array) -> jax.Array:
    """Views (N, T, H, W, 3) to (N, D)."""
    x = conv(x, weights["stem"]["patch"], shape.patch_stride) + weights["stem"]["patch_bias"]
    grid = x.shape[1:4]
    token = jnp.broadcast_to(weights["stem"]["class_token"], (len(x), 1, x.shape[-1]))
    x, n = jnp.concatenate([token, x.reshape(len(x), -1, x.shape[-1])], 1), 0
    for stage, depth in enumerate(shape.depths):
        for number in range(depth):
            own, step = weights[f"block{n}"], 2 if stage > 0 and number == 0 else 1
            x, grid = block(own, x, grid, shape.heads[stage], step, max(shape.key_stride >> stage, 1))
            n += 1
    return layer_norm(x[:, 0], own["last_norm_scale"], own["last_norm_bias"], 1e-6)


def block(own: Tree, x: jax.Array, grid: Any, heads: int, step: int, reach: int) -> tuple[jax.Array, Any]:
    h = layer_norm(x, own["norm1_scale"], own["norm1_bias"], 1e-6)
    mixed, after = attend(own, h, grid, heads, step, reach)
    if "widen" in own:
        x = h @ own["widen"] + own["widen_bias"]
    if step > 1:
        places = x[:, 1:].reshape(len(x), *grid, -1)
        pads, window = [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], (1, 1, 3, 3, 1)
        places = jax.lax.reduce_window(places, -jnp.inf, jax.lax.max, window, (1, 1, 2, 2, 1), pads)
        x = jnp.concatenate([x[:, :1], places.reshape(len(x), -1, x.shape[-1])], 1)
    x = x + mixed
    h = layer_norm(x, own["norm2_scale"], own["norm2_bias"], 1e-6)
    return x + gelu(h @ own["up"] + own["up_bias"]) @ own["down"] + own["down_bias"], after


def attend(own: Tree, x: jax.Array, grid: Any, heads: int, step: int, reach: int) -> tuple[jax.Array, Any]:
    qkv = jnp.einsum("nsd,dcgh->cnsgh", x, own["qkv"]) + own["qkv_bias"][:, None, None]
    q, after = pool(own, "query", qkv[0], grid, step)
    k, seen = pool(own, "key", qkv[1], grid, reach)
    v, _ = pool(own, "value", qkv[2], grid, reach)
    scores = jnp.einsum("nqgh,nkgh->ngqk", q, k) * q.shape[-1] ** -0.5
    places = q[:, 1:].reshape(len(q), *after, heads, -1)
    shares = []
    for axis, name, one, other in zip("thw", ("frames", "rows", "columns"), after, seen, strict=True):
        longer, further = max(other / one, 1), max(one / other, 1)
        apart = np.arange(one)[:, None] * longer - np.arange(other) * further + (other - 1) * further
        shares.append(jnp.einsum(f"nthwgd,{axis}kd->ngthwk", places, own[f"apart_{name}"][apart.astype(int)]))
    t, h, w = shares
    apart = t[..., None, None] + h[..., None, :, None] + w[..., None, None, :]
    apart = apart.reshape(len(q), heads, q.shape[1] - 1, k.shape[1] - 1)
    weights = jax.nn.softmax(scores + jnp.pad(apart, ((0, 0), (0, 0), (1, 0), (1, 0))))
    found = jnp.einsum("ngqk,nkgh->nqgh", weights, v) + jnp.pad(q[:, 1:], ((0, 0), (1, 0), (0, 0), (0, 0)))
    return jnp.einsum("nqgh,ghd->nqd", found, own["out"]) + own["out_bias"], after


def pool(own: Tree, name: str, x: jax.Array, grid: Any, step: int) -> tuple[jax.Array, Any]:
    """Tokens (N, S, G, H) of a grid as a sum of shifted copies, normalised."""
    weight = own[f"pool_{name}"]
    places = jnp.pad(x[:, 1:].reshape(len(x), *grid, *x.shape[2:]), ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0), (0, 0)))
    t, h, w = grid
    total: Any = sum(
        weight[a, b, c] * places[:, a : a + t, b : b + h : step, c : c + w : step]
        for a, b, c in product(range(3), repeat=3)
    )
    x = jnp.concatenate([x[:, :1], total.reshape(len(x), -1, *x.shape[2:])], 1)
    return layer_norm(x, own[f"pool_{name}_norm_scale"], own[f"pool_{name}_norm_bias"], 1e-6), total.shape[1:4]


# ---- learning ---------------------------------------------------------------------------------------------------


def optimizer(own: Any, clip: float, rates: Tree, decays: Tree) -> optax.GradientTransformation:
    """AdamW with a rate for each leaf.

    Args:
        rates: of each leaf.
        decays: which leaves are decayed.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(own.beta1, own.beta2, own.eps),
        optax.add_decayed_weights(own.weight_decay, decays),
        optax.stateless(lambda steps, _: jax.tree.map(lambda step, rate: -rate * step, steps, rates)),
    )


def update(shape: Shape, tx: Any, weights: Tree, state: Tree, batch: Tree, key: jax.Array) -> Tree:
    """Weights, the optimizer's state and the loss after a step."""
    value, gradients = jax.value_and_grad(lambda weights: loss(shape, weights, batch, key))(weights)
    steps, state = tx.update(gradients, state, weights)
    return optax.apply_updates(weights, steps), state, value
