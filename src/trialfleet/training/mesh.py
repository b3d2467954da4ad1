"""The mesh of devices, and where arrays go on it.

Parameters carry logical axis names; one table says which mesh axes they are split over. A dimension that an
axis does not divide stays whole, so any model runs on any mesh; `mesh.undivided` says whether that is a warning or an
error.
"""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

import os
from collections.abc import Callable, Sequence
from functools import partial
from math import gcd, prod
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trialfleet.config import schema
from trialfleet.errors import UserError
from trialfleet.training.workload import Axes

T = TypeVar("T")

DATA, FSDP, TP = "data", "fsdp", "tp"
BATCH = (DATA, FSDP)  # the mesh axes that a batch is split over

# Logical axis -> mesh axis. None: never split.
RULES: dict[str, str | None] = {
    "embed": FSDP,  # the residual stream
    "mlp": TP,  # hidden units
    "heads": TP,
    "kv_heads": TP,
    "vocab": TP,
    "kernel": None,  # taps, patches, input features
    "stack": None,  # layers that are stacked for a scan
    "low_rank": FSDP,  # the inner axis of an adapter, where its other axis is not split already
}
_OPTIONAL = ("low_rank",)  # so small that nobody needs to hear if it stays whole


def _all_devices() -> Sequence[jax.Device]:
    """The devices of all processes.

    Raises:
        UserError: there are none of the kind that was asked for.
    """
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # jax has no better words for a platform without its plugin
        said = str(error)
        if jax.distributed.is_initialized() or not (said == "" or "Unable to initialize backend" in said):
            raise
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"runtime.platform: jax finds no device of the platform {asked!r} here" + (f": {said}" if said else ""),
            "install jax's plugin for it (jax[cuda12], jax[tpu]), go where such a device is, or take "
            "runtime.platform=cpu; `trialfleet doctor` says what there is",
        ) from error


def make_mesh(sizes: schema.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh (data, fsdp, tp) over `devices` (all there are, unless given).

    Raises:
        UserError: if there are too few devices, or, with several processes, if any would be left out.
    """
    devices = _all_devices() if devices is None else devices
    shape = _resolved(sizes, len(devices))
    needed = prod(shape)
    if needed > len(devices) or (needed < len(devices) and jax.process_count() > 1):
        raise UserError(
            f"mesh: data={shape[0]} x fsdp={shape[1]} x tp={shape[2]} = {needed} devices, and there are {len(devices)}",
            f"choose sizes whose product is {len(devices)}, or mesh.data=-1 for whatever the others leave"
            + ("; on a CPU, runtime.simulated_devices=N makes N of it" if devices[0].platform == "cpu" else ""),
        )
    # Auto, not jax's default Explicit: plain indexing and optax's matrices-as-vectors fail on explicit axes.
    axis_types = (AxisType.Auto,) * 3
    hosts = len({device.process_index for device in devices[:needed]})
    if hosts == 1:
        return jax.make_mesh(shape, (DATA, FSDP, TP), axis_types, devices=devices[:needed])
    grid = across_hosts(shape, devices[:needed], hosts)
    return Mesh(grid, (DATA, FSDP, TP), axis_types=axis_types)


def across_hosts(shape: tuple[int, int, int], devices: Sequence[jax.Device], hosts: int) -> np.ndarray:
    """Devices of several hosts, or of several slices of TPUs, in the mesh's shape.

    What is between hosts, whose network is slower than what joins the devices of one, is data as far as it goes, then
    fsdp, then tp.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    left, between = slices if slices > 1 else hosts, []
    for size in shape:
        between.append(gcd(left, size))
        left //= between[-1]
    if left > 1:  # the hosts' devices do not make blocks of this mesh
        return np.asarray(jax.make_mesh(shape, (DATA, FSDP, TP), devices=devices).devices)
    within = [size // part for size, part in zip(shape, between, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, process_is_granule=slices == 1)


def _resolved(sizes: schema.Mesh, available: int) -> tuple[int, int, int]:
    """The sizes with -1 replaced by whatever devices the others leave."""
    given = (sizes.data, sizes.fsdp, sizes.tp)
    others = prod(size for size in given if size != -1)
    if -1 in given and available % others:
        raise UserError(
            f"mesh: {available} devices cannot be divided by {others} "
            f"(data={given[0]}, fsdp={given[1]}, tp={given[2]})",
            f"choose sizes whose product divides {available}",
        )
    data, fsdp, tp = (max(1, available // others) if size == -1 else size for size in given)
    return data, fsdp, tp


def put(values: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, on the devices: each puts its own part, without asking the others."""
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return int(mesh.shape[DATA] * mesh.shape[FSDP])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """For leaves (accumulation, examples, ...): the examples are split."""
    return NamedSharding(mesh, P(None, BATCH))


def eval_sharding(mesh: Mesh) -> NamedSharding:
    """For leaves (examples, ...) of an evaluation."""
    return NamedSharding(mesh, P(BATCH))


def param_sharding(mesh: Mesh, names: Axes, shape: Sequence[int]) -> NamedSharding:
    """Where a parameter with these logical axes lies."""
    return NamedSharding(mesh, _spec(mesh, names, shape))


def undivided(mesh: Mesh, names: Axes, shape: Sequence[int]) -> list[str]:
    """The axes of a parameter that stay whole since the mesh does not divide them, in words."""
    found = []
    for name, size in zip(names, shape, strict=True):
        axis = RULES[name] if name is not None else None
        if axis is not None and name not in _OPTIONAL and size % mesh.shape[axis]:
            found.append(f"{name} of {size} by {axis}={mesh.shape[axis]}")
    return found


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pins an activation to the mesh by logical axes; 'batch' is split over data and fsdp.

    Outside of a mesh (in a test of a layer, for example) nothing happens, nor to axes that cannot be divided.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec: list[str | tuple[str, ...] | None] = []
    for name, size in zip(names, x.shape, strict=True):
        # fsdp splits the batch, so an activation's embedding axis stays whole.
        axes = BATCH if name == "batch" else (TP,) if name is not None and RULES[name] == TP else ()
        parts = prod(mesh.shape[axis] for axis in axes)
        spec.append(axes if axes and size % parts == 0 else None)
    pinned: jax.Array = jax.lax.with_sharding_constraint(x, P(*spec))
    return pinned


def by_rows(function: Callable[..., T], *arrays: jax.Array) -> T:
    """A function of the rows of arrays, of which each device calculates those of its own part of the batch.

    Of what cannot be split by rows in XLA's eyes, such as top_k or a scatter, it would gather all rows on all devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else prod(mesh.shape[axis] for axis in BATCH)
    if parts == 1 or len(arrays[0]) % parts:
        return function(*arrays)
    own = P(BATCH)
    found: T = jax.shard_map(function, in_specs=own, out_specs=own, axis_names=set(BATCH))(*arrays)
    return found


def on_mesh(mesh: Mesh, function: Callable[..., T]) -> Callable[..., T]:
    """The function, traced where `constrain` finds the mesh: without one it pins nothing, and says nothing.

    What is compiled of it has its name, in profiles and in what jax logs.
    """

    def traced(*args: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    named = function.func if isinstance(function, partial) else function
    traced.__name__ = getattr(named, "__name__", traced.__name__).lstrip("_")
    return traced


def in_parts(function: Callable[[Any], Any], batch: Any, shards: int, per_device: int | None) -> Any:
    """The function of a batch, some of each device's examples at a time.

    Args:
        function: from leaves (examples, ...) to leaves (examples, ...), example by example.
        batch: leaves (E, ...), split over `shards`.
        per_device: the most examples of a device that are in work at a time; None for all.
    """
    own = len(jax.tree.leaves(batch)[0]) // shards
    parts = next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= (per_device or own))
    if parts == 1:
        return function(batch)

    # What lies on a device stays there: the parts are made within each shard.
    def split(leaf: jax.Array) -> jax.Array:
        whole = leaf.reshape(shards, parts, own // parts, *leaf.shape[1:])
        return jnp.moveaxis(whole, 1, 0).reshape(parts, shards * own // parts, *leaf.shape[1:])

    def joined(leaf: jax.Array) -> jax.Array:
        whole = leaf.reshape(parts, shards, own // parts, *leaf.shape[2:])
        return jnp.moveaxis(whole, 0, 1).reshape(shards * own, *leaf.shape[2:])

    return jax.tree.map(joined, jax.lax.map(function, jax.tree.map(split, batch)))


def _spec(mesh: Mesh, names: Axes, shape: Sequence[int]) -> P:
    placed: list[str | None] = []
    for name, size in zip(names, shape, strict=True):
        axis = RULES[name] if name is not None else None
        free = axis is not None and axis not in placed and size % mesh.shape[axis] == 0
        placed.append(axis if free else None)
    return P(*placed)


def check_batch(training: schema.Training, mesh: Mesh) -> int:
    """The number of micro-batches that a global batch is made of on this mesh.

    Raises:
        UserError: if the devices do not divide it; the arithmetic is shown.
    """
    shards = batch_shards(mesh)
    per_device = training.per_device_batch
    micro = training.global_batch if per_device is None else per_device * shards
    if micro % shards or training.global_batch % micro:
        raise UserError(
            f"training.global_batch: {training.global_batch} is not a multiple of {micro if per_device else shards} "
            f"(mesh: data {mesh.shape[DATA]} x fsdp {mesh.shape[FSDP]} = {shards} shards"
            + (f" x training.per_device_batch {per_device})" if per_device else ")"),
            "choose a global batch that is, or another mesh",
        )
    if training.eval_batch % shards:
        raise UserError(
            f"training.eval_batch: {training.eval_batch} is not a multiple of {shards} "
            f"(mesh: data {mesh.shape[DATA]} x fsdp {mesh.shape[FSDP]})",
            f"choose a multiple of {shards}",
        )
    return training.global_batch // micro
