"""A decoder's weights in the published layout: read whole or in slices, and refused in words."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.workloads.decoder.reference import GOLDEN, MODELS, config_of, weights_of
from trialfleet.errors import UserError
from trialfleet.training import trees
from trialfleet.training.published import PublishedWeights
from trialfleet.training.setup import Setup
from trialfleet.workloads.decoder import settings
from trialfleet.workloads.decoder.published import HEADS, DecoderWeights, shapes

FAMILIES = list(MODELS)


def arrays_of(family: str) -> dict[str, np.ndarray]:
    """The published arrays, from whatever files they are in."""
    files = sorted((GOLDEN / family).glob("*.safetensors"))
    return {name: array for file in files for name, array in load_file(file).items()}


def reader(config, folder=None) -> DecoderWeights:
    return DecoderWeights(config.model, PublishedWeights(Path(folder or config.model.weights), "model.weights"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_the_published_one(family):
    """Names and shapes as transformers has written them, and heads where they stand."""
    config, there = config_of(family).model, arrays_of(family)
    assert {name: array.shape for name, array in there.items()} == shapes(config)
    leaves, size = weights_of(config_of(family)), config.head_dim
    head, width = config.kv_heads - 1, 5  # of keys, and of the residual stream
    rows = slice(head * size, (head + 1) * size)
    np.testing.assert_array_equal(
        there["model.layers.1.self_attn.q_proj.weight"][rows, width], leaves["layers/attn/q_einsum"][1, width, head]
    )
    np.testing.assert_array_equal(
        there["model.layers.1.self_attn.o_proj.weight"][width, rows],
        leaves["layers/attn/attn_vec_einsum"][1, head, :, width],
    )
    for number, name in enumerate("kv"):
        np.testing.assert_array_equal(
            there[f"model.layers.0.self_attn.{name}_proj.weight"][rows, width],
            leaves["layers/attn/kv_einsum"][0, width, number, head],
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_in_slices_is_a_part_of_the_whole(family):
    config = config_of(family)
    weights, leaves = reader(config), weights_of(config)
    for path, leaf in leaves.items():
        whole = tuple(slice(None) for _ in leaf.shape)
        for axis, size in enumerate(leaf.shape):
            part = (*whole[:axis], slice(size // 2, size), *whole[axis + 1 :])
            np.testing.assert_array_equal(weights.read(path, part), leaf[part], err_msg=f"{path}, axis {axis}")
    assert weights.read("layers/attn/q_einsum_lora_a", (slice(None),) * 3) is None


@pytest.mark.parametrize("prefix", HEADS)
def test_names_of_a_text_part_and_a_longer_vocabulary_are_read(tmp_path, prefix):
    """As where a vision part stands beside it, whose arrays nobody reads."""
    there = arrays_of("llama")
    longer = {name: np.pad(array, ((0, 5), (0, 0))) for name, array in there.items() if len(array) == 80}
    renamed = {
        name.replace("model.", prefix, 1): array for name, array in (there | longer).items() if "head" not in name
    }
    renamed[HEADS[prefix]] = longer["lm_head.weight"]
    renamed["vision_tower.patch.weight"] = np.zeros((2, 2), np.float32)
    save_file(renamed, tmp_path / "model.safetensors")
    for path, leaf in weights_of(config_of("llama")).items():
        whole = tuple(slice(None) for _ in leaf.shape)
        np.testing.assert_array_equal(reader(config_of("llama"), tmp_path).read(path, whole), leaf, err_msg=path)


@pytest.mark.parametrize("mesh", [("mesh.data=1",), ("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2")], ids=["1", "2x2x2"])
def test_a_training_begins_from_them(mesh):
    from trialfleet.training.restore import with_published

    config = config_of("gemma3", *mesh)
    setup, wanted = Setup(config), weights_of(config)
    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    _, frozen = with_published(setup.workload, setup.program, state, frozen)
    for path, leaf in trees.flatten(frozen).items():
        np.testing.assert_array_equal(np.asarray(leaf), wanted[path], err_msg=path)


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        ("gemma3", ["model.width=16"], r"model\.embed_tokens\.weight has the shape \(80, 32\)"),
        ("gemma3", ["model.layers=3"], r"the config's model has no model\.layers\.3\.input_layernorm"),
        ("gemma3", ["model.name=llama"], r"the config's model has no .*self_attn\.k_norm"),
        ("gemma3", ["model.tied=false"], r"has no array 'lm_head\.weight'"),
        ("llama", ["model.tied=true"], r"matrix of their own there, lm_head\.weight"),
        ("llama", ["model.name=gemma3"], r"has no array 'model\.layers\.0\.self_attn\.q_norm\.weight'"),
    ],
)
def test_weights_of_another_model_are_refused(family, words, message):
    with pytest.raises(UserError, match=rf"model\.weights: .*{message}"):
        reader(config_of(family, *words))


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        ("gemma3", ["model.norm_epsilon=1e-5"], r"model\.norm_epsilon is 1e-05, and there 1e-06"),
        ("gemma3", ["model.query_scale=null"], r"model\.query_scale is 8, and there 12"),
        ("gemma3", ["model.window=6"], r"model\.window is 6, and there 5"),
        ("gemma3", ["model.global_every=3"], r"model\.global_every is 3, and there other layers are global"),
        ("gemma3", ["model.global_rope_factor=1.0"], r"model\.global_rope_factor is 1\.0, and there 8\.0"),
        ("gemma3", ["model.local_rope_base=1e6"], r"model\.local_rope_base is 1000000\.0, and there 10000\.0"),
        ("llama", ["model.heads=1", "model.head_dim=24"], r"model\.layers\.0\.self_attn\.k_proj\.weight has the shape"),
        ("llama", ["model.global_rope_base=1e4"], r"model\.global_rope_base is 10000\.0, and there 100000\.0"),
    ],
)
def test_a_config_that_is_not_the_folders_is_refused(family, words, message):
    """What no shape tells: the weights would say something else."""
    with pytest.raises(UserError, match=message):
        reader(config_of(family, *words))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"rope_theta": 1e5, "rope_scaling": None}, []),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, []),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["of the kind llama3"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "rope_theta": 1e4}}, ["there 10000.0", "kind yarn"]),
    ],
)
def test_older_and_newer_words_for_rotary_positions_are_understood(said, found):
    lines = settings.contradictions(config_of("llama").model, said, "model")
    assert len(lines) == len(found)
    assert all(part in line for part, line in zip(found, lines, strict=True))


def test_a_folder_that_is_no_decoders_is_refused(tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"there is no array model\.embed_tokens\.weight"):
        reader(config_of("gemma3"), tmp_path)
