"""The peer of `trainer_grpo`: GRPO of a Gemma 3 with adapters in plain JAX, as one writes it by hand for one model.

No mesh, no scan over layers, no metrics but loss and divergence; nothing of trialfleet is imported. Prompts (B, P) are
padded with 0 on the left, which is never drawn; completions are (B, S). Weights are matrices (in, out).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


class Shape(NamedTuple):
    """Sizes of the model, and how completions are drawn from it."""

    layers: int
    heads: int
    kv_heads: int
    head: int
    window: int
    global_every: int
    local_base: float
    global_base: float
    epsilon: float
    lora_scale: float
    steps: int
    ends: tuple[int, ...]
    top_k: int


# ---- the model --------------------------------------------------------------------------------------------------


def norm(shape: Shape, x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + shape.epsilon) * (1 + scale)


def rope(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
    half = x.shape[-1] // 2
    angles = positions[:, :, None, None] * base ** (-np.arange(half, dtype=np.float32) / half)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    one, other = jnp.split(x, 2, -1)
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """What queries (B, T, N, H) take of keys and values (B, L, K, H) where the mask (B, T, L) is true."""
    batch, length, heads, head = q.shape
    grouped = q.reshape(batch, length, k.shape[2], -1, head)
    scores = jnp.einsum("btkgh,blkh->bkgtl", grouped, k) * head**-0.5
    shares = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30))
    return jnp.einsum("bkgtl,blkh->btkgh", shares, v).reshape(batch, length, heads * head)


def block(shape: Shape, n: int, weights: Tree, adapters: Tree, x: jax.Array, positions: jax.Array, look: Any) -> Any:
    """Layer `n`; `look(n, q, k, v)` is its attention. Without adapters it is the base model's."""

    def linear(name: str, x: jax.Array) -> jax.Array:
        y = x @ weights[name]
        if adapters is None:
            return y
        a, b = adapters[name]
        return y + shape.lora_scale * ((x @ a) @ b)

    base = shape.global_base if is_global(shape, n) else shape.local_base
    h = norm(shape, x, weights["before_attention"])
    q = linear("q", h).reshape(*h.shape[:2], shape.heads, shape.head)
    k, v = jnp.split(linear("kv", h).reshape(*h.shape[:2], 2 * shape.kv_heads, shape.head), 2, 2)
    q = rope(norm(shape, q, weights["query_norm"]), positions, base)
    k = rope(norm(shape, k, weights["key_norm"]), positions, base)
    mixed, kept = look(n, q, k, v)
    x = x + norm(shape, linear("out", mixed), weights["after_attention"])
    h = norm(shape, x, weights["before_mlp"])
    h = linear("down", jax.nn.gelu(linear("gate", h), approximate=True) * linear("up", h))
    return x + norm(shape, h, weights["after_mlp"]), kept


def is_global(shape: Shape, n: int) -> bool:
    return (n + 1) % shape.global_every == 0


def through(shape: Shape, base: Tree, adapters: Tree, tokens: jax.Array, positions: jax.Array, look: Any) -> Any:
    """The stream behind all layers (B, T, D), and what each layer keeps."""
    x, kept = base["embedding"][tokens] * base["embedding"].shape[1] ** 0.5, []
    for n, weights in enumerate(base["layers"]):
        x, one = block(shape, n, weights, None if adapters is None else adapters[n], x, positions, look)
        kept.append(one)
    return norm(shape, x, base["final_norm"]), kept


def whole(shape: Shape, base: Tree, adapters: Tree, tokens: jax.Array) -> Any:
    """The stream of whole sequences, and the keys and values of all layers."""
    positions = jnp.maximum(jnp.cumsum(tokens != 0, 1) - 1, 0)
    far = positions[:, :, None] - positions[:, None, :]
    causal = (far >= 0) & (tokens != 0)[:, None, :]
    masks = {True: causal, False: causal & (far < shape.window)}
    return through(
        shape,
        base,
        adapters,
        tokens,
        positions,
        lambda n, q, k, v: (attend(q, k, v, masks[is_global(shape, n)]), (k, v)),
    )


def logits(base: Tree, x: jax.Array, temperature: jax.Array | float) -> jax.Array:
    scores = x @ base["embedding"].T
    return jnp.where(jnp.arange(scores.shape[-1]) == 0, -1e9, scores) / temperature


def said(shape: Shape, base: Tree, adapters: Tree, prompts: jax.Array, drawn: jax.Array, heat: jax.Array) -> jax.Array:
    """Log-probabilities of completions (B, S)."""
    x, _ = whole(shape, base, adapters, jnp.concatenate([prompts, drawn], 1)[:, :-1])
    scores = jax.nn.log_softmax(logits(base, x[:, prompts.shape[1] - 1 :], heat))
    return jnp.where(drawn == 0, 0, jnp.take_along_axis(scores, drawn[..., None], -1)[..., 0])


# ---- completions ------------------------------------------------------------------------------------------------


def generate(shape: Shape, base: Tree, adapters: Tree, prompts: jax.Array, key: jax.Array, hp: Tree) -> jax.Array:
    """Completions, by a cache of keys and values: a ring in local layers."""
    batch, length = prompts.shape
    padding = jnp.sum(prompts == 0, 1)
    x, kept = whole(shape, base, adapters, prompts)
    total = length + shape.steps
    sizes = [total if is_global(shape, n) else min(shape.window, total) for n in range(shape.layers)]

    def in_ring(size: int, array: jax.Array) -> jax.Array:
        """Token number n at place n modulo the size; what has no token yet is masked later."""
        number = length - 1 - (length - 1 - np.arange(size)) % size
        return array[:, np.maximum(number, 0)]

    cache = [tuple(in_ring(size, array) for array in pair) for size, pair in zip(sizes, kept, strict=True)]

    def step(now: Any) -> Any:
        t, scores, cache, drawn, going = now
        token = jnp.where(going, draw(shape, scores, jax.random.fold_in(key, t), hp["top_p"]), 0)
        number = length + t

        def look(n: int, q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
            size = sizes[n]
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, new, number % size, 1)
                for old, new in zip(cache[n], (k, v), strict=True)
            )
            there = number - (number - jnp.arange(size)) % size >= padding[:, None]
            return attend(q, keys, values, there[:, None]), (keys, values)

        x, cache = through(shape, base, adapters, token[:, None], (number - padding)[:, None], look)
        going = going & ~jnp.isin(token, jnp.asarray(shape.ends))
        return t + 1, logits(base, x[:, 0], hp["temperature"]), cache, drawn.at[:, t].set(token), going

    begin = (
        0,
        logits(base, x[:, -1], hp["temperature"]),
        cache,
        jnp.zeros((batch, shape.steps), jnp.int32),
        prompts[:, 0] >= 0,
    )
    drawn: jax.Array = jax.lax.while_loop(lambda now: (now[0] < shape.steps) & jnp.any(now[4]), step, begin)[3]
    return drawn


def draw(shape: Shape, scores: jax.Array, key: jax.Array, top_p: jax.Array) -> jax.Array:
    best, which = jax.lax.top_k(scores, shape.top_k)
    shares = jax.nn.softmax(best)
    kept = jnp.where(jnp.cumsum(shares, -1) - shares < top_p, best, -jnp.inf)
    return jnp.take_along_axis(which, jax.random.categorical(key, kept)[:, None], -1)[:, 0]


def rollout(shape: Shape, base: Tree, adapters: Tree, prompts: jax.Array, key: jax.Array, hp: Tree) -> Any:
    """Completions, and what the base model says of them."""
    drawn = generate(shape, base, adapters, prompts, key, hp)
    return drawn, said(shape, base, None, prompts, drawn, hp["temperature"])


# ---- the update -------------------------------------------------------------------------------------------------


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Of rewards (prompts, completions), flat."""
    apart = rewards - rewards.mean(1, keepdims=True)
    found: np.ndarray = (apart / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)).ravel()
    return found


def optimizer(rate: float, steps: int, warmup: float, clip: float, b1: float, b2: float, eps: float, wd: float) -> Any:
    def schedule(count: jax.Array) -> jax.Array:
        after = jnp.clip((count - warmup) / (steps - warmup), 0, 1)
        return rate * jnp.minimum(1, (count + 1) / (warmup + 1)) * 0.5 * (1 + jnp.cos(jnp.pi * after))

    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(schedule, b1, b2, eps, weight_decay=wd))


def update(shape: Shape, tx: Any, adapters: Tree, opt: Tree, base: Tree, batch: Tree, hp: Tree) -> Any:
    """(adapters, opt, (loss, divergence)); the batch: prompt, drawn, reference, advantage, one row a completion."""
    counted = batch["drawn"] != 0
    each = counted / jnp.maximum(jnp.sum(counted, 1, keepdims=True), 1) / len(counted)

    def loss_of(adapters: Tree) -> Any:
        logs = said(shape, base, adapters, batch["prompt"], batch["drawn"], hp["temperature"])
        ratio = jnp.exp(logs - jax.lax.stop_gradient(logs))
        advantage = batch["advantage"][:, None]
        gain = jnp.minimum(advantage * ratio, advantage * jnp.clip(ratio, 1 - hp["epsilon"], 1 + hp["epsilon"]))
        apart = batch["reference"] - logs
        divergence = jnp.exp(apart) - apart - 1
        return jnp.sum(each * (hp["beta"] * divergence - gain)), jnp.sum(each * divergence)

    (loss, divergence), grads = jax.value_and_grad(loss_of, has_aux=True)(adapters)
    updates, opt = tx.update(grads, opt, adapters)
    return optax.apply_updates(adapters, updates), opt, (loss, divergence)
