"""The state of a training, where its parts lie on the mesh, and how it begins."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from trialfleet.config import Config
from trialfleet.training import mesh as placement
from trialfleet.training import trees
from trialfleet.training.contract import Extra, Hyperparameters, Params, PyTree, Workload
from trialfleet.training.optimizers import Leaf, Optimizer, leaf


class State(NamedTuple):
    """Everything that a step changes: donated to it, and saved."""

    step: jax.Array  # int32: updates made
    params: Params  # float32; those that are trained at some time
    extra: Extra
    opt: Any
    ema: Params  # like params; () if there is none
    acc: jax.Array  # float32 vector: sums since the last report, see `step.Signals`


class Purpose:
    """What a random key is for; folded into the seed's key before the step is."""

    INIT, TRAIN, EVALUATE = range(3)


class Layout(NamedTuple):
    """How a workload's parameters are divided, named and placed; the same for all trials of a signature."""

    leaves: Mapping[str, Leaf]  # of the parameters that are trained at some time
    frozen: frozenset[str]  # paths of those that never are
    shapes: State  # jax.ShapeDtypeStruct of every array
    shardings: State
    frozen_shapes: Params
    frozen_shardings: Params

    @property
    def groups(self) -> list[str]:
        return sorted({leaf.group for leaf in self.leaves.values()})

    @property
    def units(self) -> list[str]:
        return sorted({leaf.unit for leaf in self.leaves.values()})


def initial(
    config: Config, workload: Workload, optimizer: Optimizer, frozen: frozenset[str], hp: Hyperparameters, seed: jax.Array, acc: int
) -> tuple[State, Params]:
    """The state before the first step, and the parameters that are never trained. Traceable.

    Args:
        seed: the key of the run.
        acc: the length of the vector of sums.
    """
    params, extra = workload.init(jax.random.fold_in(seed, Purpose.INIT))
    never, trained = trees.split(params, frozen.__contains__)
    return (
        State(
            step=jnp.zeros((), jnp.int32),
            params=trained,
            extra=extra,
            opt=optimizer.init(trees.flatten(trained), hp),
            ema=jax.tree.map(jnp.copy, trained) if config.training.ema_decay is not None else (),
            acc=jnp.zeros((acc,), jnp.float32),
        ),
        jax.tree.map(lambda leaf: leaf.astype(config.training.compute_dtype), never),
    )


def leaves_of(workload: Workload, axes: PyTree, frozen: frozenset[str], units: Mapping[str, str]) -> dict[str, Leaf]:
    """What the optimizer must know of each parameter that is trained at some time."""
    flat = flat_axes(axes)
    return {
        path: leaf(workload.group(path), units.get(path, "all"), flat[path]) for path in flat if path not in frozen
    }


def flat_axes(axes: PyTree) -> dict[str, Any]:
    """Logical axes by path; a tuple of names is a leaf."""
    return trees.flatten(axes)


def shardings_of(mesh: Mesh, shapes: State, axes: Mapping[str, Any]) -> State:
    """Parameters where their axes say; whatever the optimizer keeps in a parameter's shape lies like it."""
    whole = placement.replicated(mesh)
    placed = trees.flatten(params_shardings(mesh, shapes.params, axes))
    by_shape = {path: (shape.shape, placed[path]) for path, shape in trees.flatten(shapes.params).items()}
    params = trees.unflatten(placed)

    def like_its_parameter(keys: Any, shape: Any) -> NamedSharding:
        for key in reversed(keys):
            path = getattr(key, "key", None)
            if path in by_shape and by_shape[path][0] == shape.shape:
                return by_shape[path][1]
        return whole

    return State(
        step=whole,
        params=params,
        extra=jax.tree.map(lambda _: whole, shapes.extra),
        opt=jax.tree_util.tree_map_with_path(like_its_parameter, shapes.opt),
        ema=params if shapes.ema != () else (),
        acc=whole,
    )


def params_shardings(mesh: Mesh, shapes: Params, axes: Mapping[str, Any]) -> Params:
    flat = trees.flatten(shapes)
    missing = sorted(set(flat) - set(axes))
    if missing:
        raise ValueError(f"axes() of the workload says nothing of {', '.join(missing)}")
    return trees.unflatten(
        {path: placement.param_sharding(mesh, axes[path], shape.shape) for path, shape in flat.items()}
    )
