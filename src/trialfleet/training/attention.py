"""Attention by the fused kernels of a device, where it has such and they fit."""

import os
from typing import Literal

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention with grouped queries.

    Args:
        q: queries (B, T, N, H).
        k, v: keys and values (B, S, K, H); N is a multiple of K.
        mask: (B, T, S), True where a query may look.

    Returns:
        (B, T, N, H).
    """
    mixed: jax.Array = jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], implementation=implementation(q.shape[1], k.shape[1], q.shape[3], q.dtype)
    )
    return mixed


def implementation(queries: int, keys: int, head: int, dtype: jnp.dtype) -> Literal["xla", "cudnn"]:
    """What computes attention on the devices there are.

    cuDNN's kernels, which never hold all scores, take numbers of 16 bits, even lengths and heads of up to 128, on
    Hopper and later 256. Their gradient adds up in no fixed order: where the same bits are wanted, XLA does it all.
    """
    if jax.default_backend() != "gpu" or "xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", ""):
        return "xla"
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "0.0"))  # AMD's has another form, or none
    if not capability.replace(".", "", 1).isdigit():
        return "xla"
    major = int(capability.partition(".")[0])
    fits = dtype in (jnp.bfloat16, jnp.float16) and head % 8 == 0 and head <= (256 if major >= 9 else 128)
    return "cudnn" if major >= 8 and fits and queries > 1 and queries % 2 == keys % 2 == 0 else "xla"
