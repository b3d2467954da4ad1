"""The state of a training, where its parts lie on the mesh, and how it begins."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from trialfleet.config import Config
from trialfleet.config.freezing import NoFreezing
from trialfleet.errors import UserError
from trialfleet.training import trees
from trialfleet.training.mesh import param_sharding, replicated
from trialfleet.training.optimizers import Leaf, Optimizer, leaf
from trialfleet.training.workload import Axes, Extra, Hyperparameters, Params, PyTree, Workload


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

    INIT, TRAIN, EVALUATE, PREPARE = range(4)


def purpose_key(seed: jax.Array, purpose: int) -> jax.Array:
    """The random key of a run's seed (uint32 (2,), as in `Inputs`) for one purpose."""
    return jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), purpose)


class Layout(NamedTuple):
    """How a workload's parameters are divided, named and placed; the same for all trials of a signature."""

    leaves: Mapping[str, Leaf]  # of the parameters that are trained at some time
    frozen: frozenset[str]  # paths of those that never are
    shapes: Any  # a State of the jax.ShapeDtypeStruct of every array
    shardings: Any  # a State of NamedShardings
    frozen_shapes: Params
    frozen_shardings: Params

    @property
    def groups(self) -> list[str]:
        return sorted({leaf.group for leaf in self.leaves.values()})

    @property
    def units(self) -> list[str]:
        return sorted({leaf.unit for leaf in self.leaves.values()})


def initial(
    config: Config,
    workload: Workload,
    optimizer: Optimizer,
    frozen: frozenset[str],
    hp: Hyperparameters,
    key: jax.Array,
    acc: int,
) -> tuple[State, Params]:
    """The state before the first step, and the parameters that are never trained. Traceable.

    Args:
        acc: the length of the vector of sums.
    """
    params, extra = workload.init(key)
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


def never_trained(config: Config, workload: Workload, axes: Mapping[str, Axes]) -> frozenset[str]:
    """Paths of the parameters that are never trained under this config.

    Raises:
        UserError: if a pattern of `freezing.never` fits no parameter, or all of them.
    """
    patterns = [re.compile(pattern) for pattern in config.freezing.never]
    for pattern in patterns:
        if not any(pattern.fullmatch(path) for path in axes):
            raise UserError(
                f"freezing.never: {pattern.pattern!r} fits no parameter; there are {', '.join(sorted(axes))}",
                "a pattern must fit the whole path, for example 'encoder/.*'",
            )
    frozen = {path for path in axes if not workload.trained(path) or any(p.fullmatch(path) for p in patterns)}
    if len(frozen) == len(axes):
        raise UserError("freezing.never: nothing is left to be trained", "take a pattern out")
    return frozenset(frozen)


def leaves_of(config: Config, workload: Workload, axes: Mapping[str, Axes], frozen: frozenset[str]) -> dict[str, Leaf]:
    """What the optimizer must know of each parameter that is trained at some time.

    Without a freezing schedule all of them are one unit, and nothing is ever selected.
    """
    whole = isinstance(config.freezing, NoFreezing)
    return {
        path: leaf(workload.group(path), "all" if whole else workload.unit(path), names)
        for path, names in axes.items()
        if path not in frozen
    }


def shardings_of(mesh: Mesh, shapes: Any, axes: Mapping[str, Axes]) -> PyTree:
    """A State of NamedShardings.

    Parameters lie where their axes say, and what the optimizer keeps in a parameter's shape lies like it.
    """
    whole = replicated(mesh)
    placed = trees.flatten(params_shardings(mesh, shapes.params, axes))
    by_shape = {path: (shape.shape, placed[path]) for path, shape in trees.flatten(shapes.params).items()}
    params = trees.unflatten(placed)

    def like_its_parameter(keys: Any, shape: Any) -> Any:
        for key in reversed(keys):
            path = getattr(key, "key", None)
            if path in by_shape and by_shape[path][0] == shape.shape:
                return by_shape[path][1]
        return whole

    placed_state: Any = State  # of shardings instead of arrays
    return placed_state(
        step=whole,
        params=params,
        extra=jax.tree.map(lambda _: whole, shapes.extra),
        opt=jax.tree_util.tree_map_with_path(like_its_parameter, shapes.opt),
        ema=params if shapes.ema != () else (),
        acc=whole,
    )


def params_shardings(mesh: Mesh, shapes: Params, axes: Mapping[str, Axes]) -> PyTree:
    flat = trees.flatten(shapes)
    return trees.unflatten({path: param_sharding(mesh, axes[path], shape.shape) for path, shape in flat.items()})
