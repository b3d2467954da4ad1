"""The video networks: what masks, blocks, freezing and stochastic depth mean for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training.workload import Hyperparameters
from trialfleet.workloads.mvfoul import Mvfoul, mvit, network

TINY = {
    "resnet3d_tiny": ("model=resnet3d_tiny", "model.widths=[8,8]", "model.depths=[2,1]"),
    "r2plus1d": ("model=resnet3d_tiny", "model.widths=[8,8]", "model.depths=[1,1]", "model.kind=r2plus1d", *(
        "model.norm=batch", "model.norm_momentum=0.5")),
    "mvit_tiny": ("model=mvit_tiny", "model.widths=[8,16]", "model.depths=[1,1]", "model.heads=[1,2]", *(
        "model.key_stride=2", "model.stochastic_depth=0.5")),
}  # fmt: skip
SHAPE = network.Shape(4, 16, (6, 10))
HP: Hyperparameters = {
    "model.dropout": jnp.asarray(0.0),
    "model.norm_momentum": jnp.asarray(0.5),
    "model.stochastic_depth": jnp.asarray(0.5),
}


def tiny(name: str, *overrides: str) -> Any:
    clips = ("dataset.frames=4", "dataset.size=16", "model.head_hidden=8", "runtime.compilation_cache=null")
    return composed("workload=mvfoul", *TINY[name], *clips, *overrides)


seen_by = jax.jit(network.scores, static_argnums=(0, 7))


@pytest.fixture(scope="module", params=sorted(TINY))
def built(request: pytest.FixtureRequest) -> Any:
    """A model, its parameters and statistics, two clips and which of their views there are."""
    config = tiny(request.param).model
    params, extra = jax.jit(network.init, static_argnums=(0, 1))(config, SHAPE, jax.random.key(0))
    video = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 16, 16, 3)).astype(np.uint8)
    return config, params, extra, video, np.asarray([[1, 1, 0], [1, 1, 1]], np.float32)


def test_what_a_masked_view_shows_changes_nothing(built):
    config, params, extra, video, mask = built
    other = video.copy()
    other[0, 2] = 255 - other[0, 2]
    one, two = (seen_by(config, params, extra, each, mask, HP, jax.random.key(1), "none") for each in (video, other))
    assert jnp.array_equal(one.joined.severity, two.joined.severity)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one.extra, two.extra))
    assert jnp.abs(one.joined.severity[0] - one.joined.severity[1]).max() > 1e-4


def test_each_parameter_has_its_axes_and_its_unit(built):
    config, params, *_ = built
    axes = jax.tree.map(len, network.axes(config, SHAPE), is_leaf=lambda x: isinstance(x, tuple))
    assert jax.tree.map(jnp.ndim, params) == axes
    assert sorted(params["backbone"]) == sorted(network.units(config))


@pytest.mark.slow
def test_what_is_calculated_again_is_the_same(built):
    config, params, extra, video, mask = built

    def loss(params: Any, remat: str) -> Any:
        return jnp.sum(jnp.square(seen_by(config, params, extra, video, mask, HP, jax.random.key(1), remat).joined[0]))

    plain, again = (jax.grad(loss)(params, remat) for remat in ("none", "full"))
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_blocks_are_released_last_first():
    assert Mvfoul(tiny("resnet3d_tiny")).release_order() == ["block2", "block1", "block0", "stem"]
    assert Mvfoul(tiny("mvit_tiny")).unit("backbone/block1/last_norm_scale") == "block1"
    assert len(Mvfoul(composed("workload=mvfoul", "model=mvit")).release_order()) == 17


def test_a_backbone_that_is_never_trained_keeps_its_statistics():
    workload = Mvfoul(tiny("r2plus1d", "freezing=none", "freezing.never=[backbone/stem/.*,backbone/block0/.*]"))
    assert workload._held == ["block0", "stem"]


def test_stochastic_depth_takes_more_of_later_blocks_and_keeps_the_mean():
    kept = np.asarray(mvit._kept(HP, jax.random.key(0), 4000, 5))
    assert kept.shape == (5, 2, 4000)
    assert (kept[0] == 1).all()
    for n in range(5):
        assert sorted(set(kept[n].ravel())) == pytest.approx(sorted({0.0, 1 / (1 - n / 8)} if n else {1.0}))
        assert kept[n].mean() == pytest.approx(1, abs=0.05)
    assert mvit._kept(HP, None, 3, 5) is None


def test_distances_are_in_units_of_the_longer_axis():
    assert mvit._distances(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert mvit._distances(4, 2).tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]  # as far as the table's 7 entries go
    assert mvit._distances(1, 2).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("mvit_tiny", ["model.heads=[1]"], "model.heads: 1 given for 2 stages of model.widths"),
        ("mvit_tiny", ["model.heads=[1,3]"], r"model.widths: \[8, 16\] must be multiples of model.heads=\[1, 3\]"),
        ("mvit_tiny", ["model.patch=[2,7,7]"], r"model.patch: must be odd"),
        ("mvit_tiny", ["dataset.frames=5"], r"dataset.frames: must be a multiple of model.patch_stride\[0\]=2"),
        ("mvit_tiny", ["dataset.size=20"], "dataset.size: must be a multiple of 8"),
        ("mvit_tiny", ["model.patch_stride=[2,4,2]"], "model.patch_stride: rows and columns must be alike"),
        ("resnet3d_tiny", ["model.depths=[1]"], "model.depths: 1 given for 2 stages of model.widths"),
        ("resnet3d_tiny", ["model.norm_groups=3"], "must be multiples of norm_groups=3"),
        ("resnet3d_tiny", ["model.pixel_std=[1,0,1]"], "model.pixel_std: must be more than 0"),
        (
            "resnet3d_tiny",
            ["model.aggregator=transformer", "model.aggregator_heads=3"],
            "model.aggregator_heads: 3 must divide the 8 features of a view",
        ),
    ],
)
def test_contradictions_are_refused(model, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny(model, *overrides)
