"""Attention by the fused kernels of a device, where it has such and they fit."""

import os
from typing import Literal

import jax
import jax.numpy as jnp

from trialfleet.training.mesh import TP

_NEVER = -2.4e38  # a score of what may not be seen: as little as float32 holds but for rounding


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, scale: float | None = None
) -> jax.Array:
    """Softmax attention with grouped queries.

    Args:
        q: queries (B, T, N, H).
        k, v: keys and values (B, S, K, H); N is a multiple of K.
        mask: (B, T, S), True where a query may look; None: everywhere.
        scale: of the products of queries and keys; None: 1/√H.

    Returns:
        (B, T, N, H).
    """
    chosen = implementation(q.shape[1], k.shape[2], q.shape[3], q.dtype)
    if chosen == "cudnn":
        return even(q, k, v, mask, chosen, scale)
    if jax.default_backend() == "cpu":
        return grouped(q, k, v, mask, scale)
    seen = None if mask is None else mask[:, None]
    mixed: jax.Array = jax.nn.dot_product_attention(q, k, v, mask=seen, scale=scale, implementation=chosen)
    return mixed


def grouped(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, scale: float | None = None) -> jax.Array:
    """The same as products over groups of queries that share a key, which a CPU's compiler moves around less."""
    apart = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    scores = jnp.einsum("btkgh,bskh->bkgts", apart, k, preferred_element_type=jnp.float32)
    scores *= q.shape[3] ** -0.5 if scale is None else scale
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, _NEVER)
    shares = jax.nn.softmax(scores).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", shares, v).reshape(q.shape)


def even(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    chosen: Literal["xla", "cudnn"],
    scale: float | None = None,
) -> jax.Array:
    """The same with lengths made even, as cuDNN's kernels want them: nobody looks at the key that is added."""
    length, queries, keys = k.shape[1], q.shape[1] % 2, k.shape[1] % 2
    q, k, v = (jnp.pad(array, ((0, 0), (0, n), (0, 0), (0, 0))) for array, n in ((q, queries), (k, keys), (v, keys)))
    seen, lengths = None, None
    if mask is not None:
        mask = jnp.pad(jnp.pad(mask, ((0, 0), (0, 0), (0, keys))), ((0, 0), (0, queries), (0, 0)), mode="edge")
        seen = mask[:, None]
    elif keys:  # a length for each sequence costs the kernels nothing, as a mask would
        lengths = jnp.full(len(k), length, jnp.int32)
    mixed: jax.Array = jax.nn.dot_product_attention(
        q, k, v, mask=seen, scale=scale, key_value_seq_lengths=lengths, implementation=chosen
    )
    return mixed[:, : mixed.shape[1] - queries]


def implementation(queries: int, kv_heads: int, head: int, dtype: jnp.dtype) -> Literal["xla", "cudnn"]:
    """What computes attention on the devices there are.

    cuDNN's kernels, which never hold all scores, take numbers of 16 bits and heads of up to 128, on Hopper and later
    256, and want queries, keys and values split alike: not where `tp` splits heads of queries that share one of keys.
    Their gradient adds up in no fixed order: where the same bits are wanted, XLA does it all.
    """
    if jax.default_backend() != "gpu" or "xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", ""):
        return "xla"
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "0.0"))  # AMD's has another form, or none
    if not capability.replace(".", "", 1).isdigit():
        return "xla"
    major = int(capability.partition(".")[0])
    fits = dtype in (jnp.bfloat16, jnp.float16) and head % 8 == 0 and head <= (256 if major >= 9 else 128)
    return "cudnn" if major >= 8 and fits and queries > 1 and _split_alike(kv_heads) else "xla"


def _split_alike(kv_heads: int) -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.empty or kv_heads % mesh.shape[TP] == 0)
