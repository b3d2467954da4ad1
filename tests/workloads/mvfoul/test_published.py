"""R3D, R(2+1)D and MViTv2 see what torchvision's see, by its weights under its names; others are refused."""

import json
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.workloads.mvfoul import reference
from trialfleet.errors import UserError
from trialfleet.training import restore, trees
from trialfleet.training.published import ONE
from trialfleet.training.setup import Setup
from trialfleet.workloads.mvfoul import Mvfoul, network

# What torchvision says of its models, and what the heads have of it, which are not read.
PARAMETERS = {"r3d_18": 33_371_472, "r2plus1d_18": 31_505_325, "mvit_v2_s": 34_537_744}
HEADS = {"r3d_18": 512 * 400 + 400, "r2plus1d_18": 512 * 400 + 400, "mvit_v2_s": 768 * 400 + 400}
MACS = {"r3d_18": 40.697e9, "r2plus1d_18": 40.519e9, "mvit_v2_s": 64.224e9}  # of clips of 16 frames
SIDES = {"r3d_18": 112, "r2plus1d_18": 112, "mvit_v2_s": 224}


def read(name: str, folder: Any) -> tuple[Any, Any]:
    """Parameters and statistics of the backbone, all of them read from a folder."""
    workload = Mvfoul(composed_with(name, folder))
    params, extra = jax.eval_shape(workload.init, jax.random.key(0))
    flat = {path: leaf.shape for path, leaf in trees.flatten(params["backbone"]).items()}
    loaded = {path: workload.load(f"backbone/{path}", tuple(map(slice, shape))) for path, shape in flat.items()}
    stored = {
        path: {kind: workload.load_extra(f"{path}/{kind}", (slice(None),)) for kind in kinds}
        for path, kinds in dict(extra).items()
    }
    return trees.unflatten(loaded), stored


def composed_with(name: str, folder: Any, *overrides: str) -> Any:
    return reference.config(name, f"model.weights={folder}", *overrides)


def seen(name: str, folder: Any) -> np.ndarray:
    """What our model makes of the views, by the weights of a folder."""
    model = reference.config(name).model
    params, extra = read(name, folder)
    x, features = jnp.asarray(reference.views()), network.backbone(model).features
    look = jax.jit(lambda params, extra: features(model, params, extra, x, jnp.ones(len(x)), {}, None, "none")[0])
    return np.asarray(look(params, extra))


@pytest.mark.parametrize("name", sorted(reference.SMALL))
def test_small_models_see_what_torchvisions_see(name, tmp_path):
    got, wanted = seen(name, reference.folder(tmp_path, name)), reference.said(name)
    assert np.abs(wanted).mean() > 0.1
    np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(reference.TRUE))
def test_true_models_see_what_torchvisions_see(name, tmp_path):
    of = reference.OF_SMALL_VIEWS.get(name, name)
    got, wanted = seen(name, reference.folder(tmp_path, of)), reference.said(of)
    assert np.abs(wanted).mean() > 0.1
    np.testing.assert_allclose(got, wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(reference.TRUE))
def test_true_models_have_the_published_arrays_and_no_others(name, tmp_path):
    hollow(tmp_path / ONE, reference.shapes(name))
    size = ("dataset.frames=16", f"dataset.size={SIDES[name]}")
    workload = Mvfoul(composed_with(name, tmp_path, *size))
    assert workload.load("heads/severity/w", (slice(0, 1),) * 2) is None
    params, _ = jax.eval_shape(workload.init, jax.random.key(0))
    count = sum(prod(leaf.shape) for leaf in jax.tree.leaves(params["backbone"]))
    assert count == PARAMETERS[name] - HEADS[name]
    for path, leaf in trees.flatten(params["backbone"]).items():
        assert workload.load(f"backbone/{path}", (slice(0, 1),) * leaf.ndim) is not None, path
    products = [product.flops / 2 for product in workload.flops(0)]
    assert sum(products) / workload.config.dataset.max_views == pytest.approx(MACS[name], rel=0.01)


def hollow(path: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    path.write_bytes(len(said).to_bytes(8, "little") + said)
    with open(path, "r+b") as file:
        file.truncate(8 + len(said) + end)


@pytest.mark.parametrize("name", ["small_r2plus1d", "small_mvit"])
def test_a_slice_is_a_part_of_the_whole(name, tmp_path):
    workload = Mvfoul(composed_with(name, reference.folder(tmp_path, name)))
    params, _ = jax.eval_shape(workload.init, jax.random.key(0))
    for path, leaf in trees.flatten(params["backbone"]).items():
        whole = workload.load(f"backbone/{path}", (slice(None),) * leaf.ndim)
        index = tuple(slice(size // 3, size // 2 + 1) for size in leaf.shape)
        np.testing.assert_array_equal(workload.load(f"backbone/{path}", index), whole[index], err_msg=path)


def test_a_training_begins_with_published_weights_and_statistics(tmp_path):
    arrays = reference.drawn(reference.shapes("small_r3d"))
    folder = reference.folder(tmp_path, "small_r3d")
    setup = Setup(
        composed_with("small_r3d", folder, "mesh.data=1", "training.global_batch=2", "training.ema_decay=0.9")
    )
    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    state, _ = restore.with_published(setup.workload, setup.program, state, frozen)
    stored = state.extra["backbone/block0/norm2"]
    np.testing.assert_array_equal(stored["mean"], arrays["layer1.0.conv2.1.running_mean"])
    np.testing.assert_array_equal(stored["var"], arrays["layer1.0.conv2.1.running_var"])
    conv = arrays["layer2.0.conv1.0.weight"].transpose(2, 3, 4, 1, 0)
    np.testing.assert_array_equal(state.params["backbone"]["block1"]["conv1"], conv)
    np.testing.assert_array_equal(state.ema["backbone"]["block1"]["conv1"], conv)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("small_r3d", ["model.widths=[8,8,12,24]"], r"model.weights: .*layer4.* has the shape .*, and .* wants"),
        ("small_r3d", ["model.depths=[1,1,1,1]"], r"has no place for layer2\.1\."),
        ("small_r3d", ["model.kind=r2plus1d"], r"has no array|has the shape"),
        ("small_mvit", ["dataset.size=64"], r"attn.rel_pos_h has the shape \(15, 8\), and .* \(31, 8\)"),
    ],
)
def test_weights_of_another_model_are_refused(name, changes, message, tmp_path):
    workload = Mvfoul(composed_with(name, reference.folder(tmp_path, name), *changes))
    with pytest.raises(UserError, match=message):
        workload.load("backbone/stem/norm_scale", (slice(0, 1),))


def test_a_folder_without_weights_is_refused(tmp_path):
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, tmp_path / ONE)
    with pytest.raises(UserError, match=r"model.weights: .* has no array 'stem.0.weight'"):
        Mvfoul(composed_with("small_r3d", tmp_path)).load("backbone/stem/conv", (slice(0, 1),) * 5)
