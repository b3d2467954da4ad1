"""The decoder: what it sees, how queries share keys, its adapters and the axes of its weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import composed
from tests.workloads.decoder.small import HP, logits, model, text_of
from trialfleet.training import lora, trees
from trialfleet.workloads.decoder import transformer


@pytest.mark.slow
def test_padding_on_the_left_changes_nothing():
    config, params = model()
    row = jnp.asarray([text_of("3+4=7")])
    padded = jnp.pad(row, ((0, 0), (5, 0)))
    one, other = (logits(config, params, x, (x != 0).astype(jnp.float32), HP) for x in (row, padded))
    assert jnp.allclose(one, other[:, 5:], atol=1e-5)


def test_local_layers_see_their_window_only_and_nothing_sees_ahead():
    config, params = model("model.layers=1", "model.global_every=2")  # one local layer
    row = jnp.arange(4, 16)[None]
    valid = jnp.ones((1, 12))
    before = logits(config, params, row, valid, HP)
    after = logits(config, params, row.at[0, 3].set(90), valid, HP)
    changed = jnp.abs(before - after).max((0, 2)) > 1e-6
    assert list(np.flatnonzero(changed)) == [3, 4, 5, 6]


@pytest.mark.slow
def test_queries_share_keys_and_positions_turn_them():
    """Against attention written out, head by head, for one layer."""
    config, params = model(
        "model.layers=1", "model.global_every=1", "model.heads=4", "model.kv_heads=2", "model.global_rope_base=100.0"
    )
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["layers"]["attn"])
    x = jax.random.normal(jax.random.key(5), (1, 5, 16))
    positions, mask = jnp.arange(5)[None], jnp.tril(jnp.ones((1, 5, 5), bool))
    own = jax.tree.map(lambda leaf: leaf[0], params["layers"]["attn"])
    turns = transformer._turns(config, positions, True)
    got = transformer._mixed(config, own, *transformer._projected(config, own, x, turns, 0.0, False), mask, 0.0, False)

    def normed(v: Any) -> Any:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6)

    def turned(v: Any, at: int) -> Any:
        angles = at * 100.0 ** (-np.arange(4) / 4)
        a, b = v[:4], v[4:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)])

    h = np.asarray(x[0], np.float64)
    q = normed(np.einsum("td,dnh->tnh", h, layer["q_einsum"]))
    k, v = np.moveaxis(np.einsum("td,dckh->tckh", h, layer["kv_einsum"]), 1, 0)
    k = normed(k)
    mixed = np.zeros((5, 4, 8))
    for t in range(5):
        for n in range(4):
            weights = [turned(q[t, n], t) @ turned(k[s, n // 2], s) / 8**0.5 for s in range(t + 1)]
            shares = np.exp(weights) / np.exp(weights).sum()
            mixed[t, n] = shares @ v[: t + 1, n // 2]
    wanted = np.einsum("tnh,nhd->td", mixed, layer["attn_vec_einsum"])
    assert np.asarray(got[0]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_the_reference_is_the_model_without_its_adapters():
    config, params = model()
    row, valid = jnp.arange(4, 14)[None], jnp.ones((1, 10))
    bare = trees.unflatten({p: x for p, x in trees.flatten(params).items() if not lora.is_adapter(p)})
    reference = logits(config, params, row, valid, HP, adapter=False)
    assert jnp.array_equal(reference, logits(config, bare, row, valid, HP))
    adapted = logits(config, params, row, valid, HP)
    assert jnp.abs(adapted - reference).max() > 0.01
    merged = lora.merged(params, 16.0 / 2)
    assert jnp.allclose(adapted, logits(config, merged, row, valid, HP, remat="full"), atol=1e-4)


@pytest.mark.parametrize("family", [(), ("model=llama_tiny", "model.tied=false")], ids=["gemma3", "llama"])
def test_axes_fit_the_parameters_and_a_pattern_chooses_what_is_adapted(family):
    config, params = model(*family, "model.lora_module_path='.*q_einsum'")
    axes = jax.tree.map(len, transformer.axes(config), is_leaf=lambda x: isinstance(x, tuple))
    assert jax.tree.map(jnp.ndim, params) == axes
    adapted = [path for path in trees.flatten(params) if lora.is_adapter(path)]
    assert adapted == [f"layers/attn/q_einsum_lora_{part}" for part in "ab"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gemma3_270m", 268_098_176),
        ("gemma3_1b", 999_885_952),
        ("gemma3_4b", 3_880_263_168),
        ("gemma3_27b", 27_009_346_304),
        ("smollm2_360m", 361_821_120),
        ("smollm2_1.7b", 1_711_376_384),
    ],
)
def test_a_published_shape_has_as_many_weights_as_published(name, count):
    """Of Gemma 3 4B and 27B the text's part; counted in transformers' models of the published configs."""
    config = composed("workload=grpo", f"model={name}", "training.init_from=somewhere").model
    params = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    assert sum(leaf.size for path, leaf in trees.flatten(params).items() if not lora.is_adapter(path)) == count
