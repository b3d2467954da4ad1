"""A Gemma 3's weights in the published layout: read whole or in slices, and refused in words."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training import trees
from trialfleet.training.published import PublishedWeights
from trialfleet.training.setup import Setup
from trialfleet.workloads.decoder import transformer
from trialfleet.workloads.decoder.published import KEY, DecoderWeights, published, shapes

SMALL = ("workload=grpo", "model=gemma3_tiny", "model.vocab_size=128", "training.init_from=null")


@pytest.fixture(scope="module")
def model():
    """The config of a small model, and weights of it by path."""
    config = composed("workload=grpo_base", "model.vocab_size=128").model
    drawn = trees.flatten(transformer.init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return config, {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in drawn.items()}


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    save_file(dict(published(*model)), folder / "model.safetensors")
    return folder


def test_the_layout_is_the_published_one(model):
    """Names and shapes as transformers' Gemma3ForCausalLM has them."""
    config, leaves = model
    made = dict(published(config, leaves))
    assert {name: array.shape for name, array in made.items()} == {
        f"model.{name}": shape for name, shape in shapes(config).items()
    }
    assert made["model.layers.1.self_attn.q_proj.weight"].shape == (4 * 16, 64)
    assert made["model.layers.0.self_attn.v_proj.weight"].shape == (2 * 16, 64)
    assert made["model.layers.0.mlp.down_proj.weight"].shape == (64, 128)
    head, width = 3, 5  # of a query, and of the residual stream
    query = made["model.layers.1.self_attn.q_proj.weight"][head * 16 : (head + 1) * 16, width]
    np.testing.assert_array_equal(query, leaves["layers/attn/q_einsum"][1, width, head])
    output = made["model.layers.1.self_attn.o_proj.weight"][width, head * 16 : (head + 1) * 16]
    np.testing.assert_array_equal(output, leaves["layers/attn/attn_vec_einsum"][1, head, :, width])
    np.testing.assert_array_equal(
        made["model.layers.0.self_attn.v_proj.weight"][16:, width], leaves["layers/attn/kv_einsum"][0, width, 1, 1]
    )


def test_what_was_written_is_read_in_any_slices(model, folder):
    config, leaves = model
    weights = DecoderWeights(config, PublishedWeights(folder, KEY))
    for path, leaf in leaves.items():
        whole = tuple(slice(None) for _ in leaf.shape)
        np.testing.assert_array_equal(weights.read(path, whole), leaf, err_msg=path)
        for axis, size in enumerate(leaf.shape):
            part = (*whole[:axis], slice(size // 2, size), *whole[axis + 1 :])
            np.testing.assert_array_equal(weights.read(path, part), leaf[part], err_msg=f"{path}, axis {axis}")
    assert weights.read("layers/attn/q_einsum_lora_a", (slice(None),) * 3) is None


@pytest.mark.parametrize("mesh", [("mesh.data=1",), ("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2")], ids=["1", "2x2x2"])
def test_a_training_begins_from_them(model, folder, mesh):
    from trialfleet.training.restore import with_published

    setup = Setup(composed(*SMALL, f"model.weights={folder}", *mesh))
    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    _, frozen = with_published(setup.workload, setup.program, state, frozen)
    for path, leaf in trees.flatten(frozen).items():
        np.testing.assert_array_equal(np.asarray(leaf), model[1][path], err_msg=path)


def test_weights_of_another_model_are_refused(model, folder):
    config = composed("workload=grpo_base", "model.vocab_size=128", "model.width=32").model
    with pytest.raises(UserError, match=r"model\.weights: model\.embed_tokens\.weight has the shape \(128, 64\)"):
        DecoderWeights(config, PublishedWeights(folder, KEY))
