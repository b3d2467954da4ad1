"""The same training on any mesh, and meshes that cannot be."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.harness import losses_of
from trialfleet.config import schema
from trialfleet.errors import UserError
from trialfleet.training import train
from trialfleet.training.mesh import across_hosts, in_parts, make_mesh
from trialfleet.training.setup import Setup

MESHES = {
    "1": ["mesh.data=1"],
    "8 data": ["mesh.data=8"],
    "8 fsdp": ["mesh.data=1", "mesh.fsdp=8"],
    "2x2x2": ["mesh.data=2", "mesh.fsdp=2", "mesh.tp=2"],
}
LONG = ["training.max_steps=30", "training.report_every=1", "training.eval_every=30", "dataset.train_strings=320"]


def agree(config, names, steps):
    """The losses of so many steps are the same on these meshes."""
    losses = {name: losses_of(Setup(config(*LONG, *MESHES[name])), steps) for name in names}
    for name, curve in losses.items():
        assert curve == pytest.approx(losses["1"], abs=1e-5), name


@pytest.mark.slow
def test_losses_are_the_same_on_a_mesh(config):
    """On each mesh, and for longer, in benchmarks/proofs."""
    agree(config, ("1", "2x2x2"), steps=8)


@pytest.mark.slow
def test_micro_batches_add_up_to_the_global_batch(config, new_run):
    curves = []
    for per_device in ("null", "2"):
        run = new_run()
        quiet = ["model.dropout=0", "model.input_noise=0"]  # drawn for each micro-batch
        train(config("training.report_every=1", f"training.per_device_batch={per_device}", *quiet), run)
        curves.append(run.reported("train/loss"))
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)


def test_an_axis_that_the_mesh_does_not_divide_is_named(config, caplog):
    overrides = ("mesh.data=1", "mesh.fsdp=8", "model.width=12")
    Setup(config(*overrides))
    assert "(embed of 12 by fsdp=8)" in caplog.text
    assert caplog.text.count("mesh: does not divide") == 1
    with pytest.raises(UserError, match=r"mesh: does not divide .*embed of 12 by fsdp=8"):
        Setup(config(*overrides, "mesh.undivided=error"))


@dataclass(frozen=True)
class Elsewhere:
    """A device of one of several hosts."""

    id: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "some GPU"


@pytest.mark.parametrize(
    ("shape", "hosts", "between"),
    [((2, 4, 1), 2, "data"), ((1, 4, 2), 2, "fsdp"), ((4, 1, 2), 4, "data"), ((2, 2, 2), 4, "data and fsdp")],
)
def test_what_is_between_hosts_is_data_first(shape, hosts, between):
    devices = [Elsewhere(number, number * hosts // 8) for number in range(8)]
    grid = across_hosts(shape, devices, hosts)
    assert grid.shape == shape
    assert {device.id for device in grid.ravel()} == set(range(8))
    names = ("data", "fsdp", "tp")
    crossing = [
        name
        for axis, name in enumerate(names)
        if any(
            len({one.process_index for one in line}) > 1
            for line in np.moveaxis(grid, axis, -1).reshape(-1, shape[axis])
        )
    ]
    assert " and ".join(crossing) == between


@pytest.mark.parametrize(("per_device", "calls"), [(None, [8]), (4, [8]), (3, [4]), (1, [2])])
def test_a_batch_in_parts_gives_what_the_whole_gives(per_device, calls):
    """Two devices of four examples each: a part has as many of either."""
    seen = []

    def doubled(batch):
        seen.append(len(batch["x"]))
        return {"y": 2 * batch["x"]}

    batch = {"x": jnp.arange(16).reshape(8, 2)}
    assert jnp.array_equal(in_parts(doubled, batch, 2, per_device)["y"], 2 * batch["x"])
    assert seen == calls


def test_a_platform_that_is_not_here_is_named(monkeypatch):
    def unavailable():
        raise AssertionError  # as jax does for a platform without its plugin

    monkeypatch.setattr(jax, "devices", unavailable)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match=r"runtime\.platform: .*'cuda'"):
        make_mesh(schema.Mesh(data=1, fsdp=1, tp=1, undivided="warn"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mesh.data=4", "mesh.fsdp=4"], "data=4 x fsdp=4 x tp=1 = 16 devices, and there are 8"),
        (["mesh.data=-1", "mesh.fsdp=3"], "8 devices cannot be divided by 3"),
        (["mesh.data=8", "training.global_batch=12"], "12 is not a multiple of 8"),
        (["mesh.data=2", "training.per_device_batch=3"], r"8 is not a multiple of 6 \(mesh: .* x training.per_device"),
        (["mesh.data=8", "training.eval_batch=12"], "training.eval_batch: 12"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_the_arithmetic(config, new_run, overrides, message):
    with pytest.raises(UserError, match=message):
        train(config(*overrides), new_run())
