"""Which kernels compute attention, and that what they are given is attention."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trialfleet.training.attention import attention, even, implementation


@pytest.mark.slow
def test_lengths_made_even_change_nothing():
    keys = jax.random.split(jax.random.key(1), 3)
    q, k, v = (jax.random.normal(key, (2, 7, heads, 8)) for key, heads in zip(keys, (4, 2, 2), strict=True))
    mask = jnp.tril(jnp.ones((7, 7), bool))[None].repeat(2, 0).at[1, 1:, 0].set(False)
    np.testing.assert_allclose(even(q, k, v, mask, "xla"), attention(q, k, v, mask), atol=1e-6)
    (gradient,) = jax.grad(lambda *given: even(*given, mask, "xla")[1:].sum(), (0,))(q, k, v)
    assert jnp.all(jnp.isfinite(gradient))


def test_queries_of_a_group_look_at_one_key_head():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 6, heads, 8)) for key, heads in zip(keys, (4, 2, 2), strict=True))
    mask = jnp.tril(jnp.ones((6, 6), bool))[None].repeat(2, 0)
    scores = np.einsum("btnh,bsnh->bnts", q, np.repeat(k, 2, 2)) / 8**0.5
    weights = np.exp(np.where(mask[:, None], scores, -np.inf))
    expected = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), np.repeat(v, 2, 2))
    np.testing.assert_allclose(attention(q, k, v, mask), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("masked", [True, False])
def test_a_cpu_calculates_what_jax_does(dtype, masked):
    keys = jax.random.split(jax.random.key(2), 3)
    q, k, v = (jax.random.normal(key, (2, 6, n, 8), dtype) for key, n in zip(keys, (4, 2, 2), strict=True))
    mask = jnp.tril(jnp.ones((6, 6), bool))[None].repeat(2, 0).at[1, 0].set(False) if masked else None
    expected = jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[:, None], scale=0.3)
    found = attention(q, k, v, mask, 0.3)
    assert found.dtype == dtype
    atol = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=atol)


@pytest.mark.parametrize(
    ("capability", "flags", "queries", "head", "dtype", "chosen"),
    [
        ("8.0", "", 512, 128, jnp.bfloat16, "cudnn"),
        ("9.0", "", 512, 256, jnp.bfloat16, "cudnn"),
        ("8.0", "", 512, 256, jnp.bfloat16, "xla"),  # too wide a head
        ("7.5", "", 512, 128, jnp.float16, "xla"),  # too old a GPU
        ("gfx942", "", 512, 128, jnp.bfloat16, "xla"),  # not NVIDIA's
        ("9.0", "", 512, 128, jnp.float32, "xla"),
        ("9.0", "", 511, 128, jnp.bfloat16, "cudnn"),
        ("9.0", "", 1, 128, jnp.bfloat16, "xla"),  # one new token
        ("9.0", "--xla_gpu_deterministic_ops=true", 512, 128, jnp.bfloat16, "xla"),
    ],
)
def test_fused_kernels_are_taken_where_they_fit(monkeypatch, capability, flags, queries, head, dtype, chosen):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert implementation(queries, 4, head, dtype) == chosen


@pytest.mark.parametrize(("kv_heads", "tp", "chosen"), [(1, 1, "cudnn"), (4, 2, "cudnn"), (1, 4, "xla")])
def test_queries_that_are_split_otherwise_than_keys_are_left_to_xla(monkeypatch, kv_heads, tp, chosen):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability="9.0")])
    monkeypatch.setenv("XLA_FLAGS", "")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((8 // tp, 1, tp), ("data", "fsdp", "tp"))):
        assert implementation(512, kv_heads, 256, jnp.bfloat16) == chosen


def test_a_cpu_has_none():
    assert implementation(512, 4, 128, jnp.bfloat16) == "xla"
