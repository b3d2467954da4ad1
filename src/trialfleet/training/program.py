"""What is compiled for a trial: the first state, the step and the evaluation step.

A program depends on the static part of the config and on the mesh alone, and is kept for the life of the
process: a second trial with the same signature compiles nothing.
"""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trialfleet.config import Config
from trialfleet.training import schedules, trees
from trialfleet.training.contract import CheckedWorkload
from trialfleet.training.mesh import (
    DATA,
    FSDP,
    TP,
    batch_sharding,
    batch_shards,
    check_batch,
    eval_sharding,
    in_parts,
    on_mesh,
    replicated,
)
from trialfleet.training.optimizers import Optimizer
from trialfleet.training.state import (
    Layout,
    Purpose,
    State,
    initial,
    leaves_of,
    never_trained,
    params_shardings,
    purpose_key,
    shardings_of,
)
from trialfleet.training.workload import Batch, Extra, Factory, Params, Rows

# What the loop adds to the config's hyperparameters: they follow from the data, or are the loop's own.
TOTAL_STEPS, REPORT_EVERY = "loop.total_steps", "loop.report_every"


class Inputs(NamedTuple):
    """What a step is given besides state and batch; on the device, and placed anew only when it changes."""

    hp: jax.Array  # float32 vector, in the order of `Program.hp_names`
    knobs: jax.Array  # float32 vector: the factor of all rates, that of each group's, then 1 or 0 for each unit
    seed: jax.Array  # uint32 (2,): the high and the low half of the run's seed
    stop: jax.Array  # int32, one entry for each device: what its process wants, 0 to go on


class Signals:
    """Names of the entries of `State.acc`: sums over the steps since the last report, then three of its own.

    A step also returns them as a vector of its own, with the largest `Inputs.stop` behind, since the state is
    donated to the next step.
    """

    def __init__(self, loss_metrics: tuple[str, ...], groups: list[str]) -> None:
        kinds = ("grad_norm", "update_ratio", "learning_rate")
        by_group = [f"{kind}/{group}" for kind in kinds for group in groups]
        self.sums = ("loss", *loss_metrics, *kinds, *by_group)
        self.size = len(self.sums) + 3  # count, bad_step, bad_loss

    def means(self, values: np.ndarray) -> dict[str, float]:
        """Means over the steps since the last report, by name."""
        count = max(float(values[len(self.sums)]), 1.0)
        return {name: float(value) / count for name, value in zip(self.sums, values, strict=False)}

    def bad(self, values: np.ndarray) -> tuple[int, float] | None:
        """The first step whose loss or gradient was not finite, and its loss."""
        step, loss = values[self.size - 2], values[self.size - 1]
        return (int(step), float(loss)) if step else None

    def stop(self, values: np.ndarray) -> int:
        return int(values[self.size])


@dataclass(frozen=True)
class Program:
    """The compiled functions of a signature on a mesh, and the shapes and places of what they work on."""

    mesh: Mesh
    accumulation: int  # micro-batches in a global batch
    layout: Layout
    signals: Signals
    hp_names: tuple[str, ...]
    init: Any  # (hp, seed) -> state, frozen parameters
    step: Any  # (State, frozen, Batch, Inputs) -> State, signals; the state is donated
    evaluate: Any  # (params, frozen, Extra, Batch, index, Inputs) -> Rows, the largest `Inputs.stop`


@lru_cache(maxsize=16)
def program(
    factory: Factory,
    static: Config,
    mesh: Mesh,
    hp_names: tuple[str, ...],
) -> Program:
    """The program of a signature.

    Args:
        static: `trialfleet.config.static_part` of the config.
        hp_names: the hyperparameters that the step is given, in the order of the vector.
    """
    workload = CheckedWorkload(factory, static)
    accumulation = check_batch(static.training, mesh)
    axes = workload.axes()
    frozen = never_trained(static, workload, axes)
    leaves = leaves_of(static, workload, axes, frozen)
    optimizer = Optimizer(static.optimizer, leaves)
    loss_metrics = tuple(sorted(name[6:] for name in static.metrics() if name.startswith("train/")))
    signals = Signals(loss_metrics, sorted({leaf.group for leaf in leaves.values()}))

    def init(hp: jax.Array, seed: jax.Array) -> tuple[State, Params]:
        named = named_hyperparameters(hp_names, hp)
        key = purpose_key(seed, Purpose.INIT)
        return initial(static, workload, optimizer, frozen, named, key, signals.size)

    hp_shape = jax.ShapeDtypeStruct((len(hp_names),), jnp.float32)
    shapes, frozen_shapes = jax.eval_shape(init, hp_shape, jax.ShapeDtypeStruct((2,), jnp.uint32))
    layout = Layout(
        leaves=leaves,
        frozen=frozen,
        shapes=shapes,
        shardings=shardings_of(mesh, shapes, axes),
        frozen_shapes=frozen_shapes,
        frozen_shardings=params_shardings(mesh, frozen_shapes, axes),
    )
    whole = replicated(mesh)
    of_inputs: Any = Inputs  # of shardings instead of arrays
    inputs = of_inputs(whole, whole, whole, stop_sharding(mesh))
    make_step = partial(_step, static, workload, optimizer, layout, signals, hp_names, accumulation)
    evaluate = partial(_evaluate, static, workload, hp_names, batch_shards(mesh))
    return Program(
        mesh=mesh,
        accumulation=accumulation,
        layout=layout,
        signals=signals,
        hp_names=hp_names,
        init=jax.jit(on_mesh(mesh, init), out_shardings=(layout.shardings, layout.frozen_shardings)),
        step=jax.jit(
            on_mesh(mesh, make_step),
            in_shardings=(layout.shardings, layout.frozen_shardings, batch_sharding(mesh), inputs),
            out_shardings=(layout.shardings, whole),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            on_mesh(mesh, evaluate),
            in_shardings=(
                layout.shardings.params,
                layout.frozen_shardings,
                layout.shardings.extra,
                eval_sharding(mesh),
                whole,
                inputs,
            ),
            out_shardings=whole,
        ),
    )


def stop_sharding(mesh: Mesh) -> NamedSharding:
    """One entry for each device, so that each process fills in its own."""
    return NamedSharding(mesh, P((DATA, FSDP, TP)))


def named_hyperparameters(names: tuple[str, ...], values: jax.Array) -> dict[str, jax.Array]:
    """The hyperparameters of a vector by their keys."""
    return dict(zip(names, values, strict=True))


def _step(
    config: Config,
    workload: CheckedWorkload,
    optimizer: Optimizer,
    layout: Layout,
    signals: Signals,
    hp_names: tuple[str, ...],
    accumulation: int,
    state: State,
    frozen: Params,
    batch: Batch,
    inputs: Inputs,
) -> tuple[State, jax.Array]:
    """One update. Traced once for each shape of batch; every number it depends on is in its arguments."""
    hp = named_hyperparameters(hp_names, inputs.hp)
    key = jax.random.fold_in(purpose_key(inputs.seed, Purpose.TRAIN), state.step)
    knobs = _Knobs(layout, inputs.knobs)
    hp |= {f"on.{unit}": knobs.on(unit).astype(jnp.float32) for unit in layout.units}

    # 1. Loss and gradients of the global batch, share by share.
    norms = jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(workload.norms)(batch))
    loss_of = partial(_loss, config, workload, frozen, norms, hp)
    loss, metrics, extra, grads = _accumulated(loss_of, state, batch, key, accumulation)

    # 2. What is off has no gradient (selected, not multiplied: 0 · nan is nan), before anybody takes a norm.
    flat = {
        path: jnp.where(knobs.on(layout.leaves[path].unit), grad, 0.0) if len(layout.units) > 1 else grad
        for path, grad in trees.flatten(grads).items()
    }
    grad_norm = _norm(flat.values())
    clipped = _clipped(config, hp, flat, grad_norm)

    # 3. Update.
    rate = schedules.factor(config.scheduler, hp, state.step, hp[TOTAL_STEPS])
    params = trees.flatten(state.params)
    updates, opt = optimizer.update(
        clipped, state.opt, params, hp, scale=lambda group: rate * knobs.scale(group), on=knobs.on
    )
    params = {path: value + updates[path] for path, value in params.items()}
    tree = trees.unflatten(params)

    # 4. Averages and sums.
    shown = {
        "loss": loss,
        **metrics,
        "grad_norm": grad_norm,
        "update_ratio": _ratio(updates, params),
        "learning_rate": hp["optimizer.learning_rate"] * rate * knobs.scale_of_all,
    }
    for group in layout.groups:
        of_group = [path for path, leaf in layout.leaves.items() if leaf.group == group]
        shown[f"learning_rate/{group}"] = optimizer.rate(group, hp) * rate * knobs.scale(group)
        shown[f"grad_norm/{group}"] = _norm(flat[path] for path in of_group)
        shown[f"update_ratio/{group}"] = _ratio({p: updates[p] for p in of_group}, {p: params[p] for p in of_group})
    acc = _summed(signals, state, shown, hp[REPORT_EVERY])
    new = State(state.step + 1, tree, extra, opt, _averaged(config, hp, state, tree), acc)
    return new, jnp.append(acc, jnp.max(inputs.stop).astype(jnp.float32))


def _loss(
    config: Config,
    workload: CheckedWorkload,
    frozen: Params,
    norms: Any,
    hp: Any,
    params: Params,
    extra: Extra,
    batch: Batch,
    key: jax.Array,
) -> tuple[jax.Array, tuple[Extra, dict[str, jax.Array]]]:
    whole = trees.merge(_cast(params, config.training.compute_dtype), frozen)
    loss, aux = workload.loss(whole, extra, batch, norms, key, hp)
    return loss, (aux.extra, dict(aux.metrics))


def _accumulated(
    loss_of: Callable[..., Any], state: State, batch: Batch, key: jax.Array, accumulation: int
) -> tuple[jax.Array, dict[str, jax.Array], Extra, Params]:
    """Sums of losses, metrics and gradients over the micro-batches (the first axis of the batch)."""
    grad_of = jax.value_and_grad(loss_of, has_aux=True)

    def one(extra: Extra, index: Any) -> Any:
        micro = jax.tree.map(lambda x: x[index], batch)
        (loss, (extra, metrics)), grads = grad_of(state.params, extra, micro, jax.random.fold_in(key, index))
        return extra, (loss, metrics, grads)

    if accumulation == 1:
        extra, (loss, metrics, grads) = one(state.extra, 0)
        return loss, metrics, extra, grads

    def add(carry: Any, index: jax.Array) -> Any:
        extra, sums = carry
        extra, more = one(extra, index)
        return (extra, jax.tree.map(jnp.add, sums, more)), None

    _, shapes = jax.eval_shape(one, state.extra, 0)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    (extra, (loss, metrics, grads)), _ = jax.lax.scan(add, (state.extra, zeros), jnp.arange(accumulation))
    return loss, metrics, extra, grads


class _Knobs:
    """What the host's control sets, read from `Inputs.knobs`."""

    def __init__(self, layout: Layout, values: jax.Array) -> None:
        self.scale_of_all, of_units = values[0], 1 + len(layout.groups)
        self._scale: dict[str, jax.Array] = dict(zip(layout.groups, values[1:of_units], strict=True))
        self._on: dict[str, jax.Array] = dict(zip(layout.units, values[of_units:] > 0.5, strict=True))

    def scale(self, group: str) -> jax.Array:
        return self.scale_of_all * self._scale[group]

    def on(self, unit: str) -> jax.Array:
        return self._on[unit]


def _cast(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype), params)


def _norm(arrays: Any) -> jax.Array:
    total: jax.Array = sum((jnp.sum(jnp.square(x)) for x in arrays), start=jnp.zeros((), jnp.float32))
    return jnp.sqrt(total)


def _ratio(updates: trees.Flat, params: trees.Flat) -> jax.Array:
    """How large the update is beside the parameters: about 1e-3 in a healthy training."""
    return _norm(updates.values()) / (_norm(params.values()) + 1e-12)


def _clipped(config: Config, hp: Any, grads: trees.Flat, norm: jax.Array) -> trees.Flat:
    if config.training.gradient_clip is None:
        return grads
    limit = hp["training.gradient_clip"]
    return {path: grad * jnp.minimum(1.0, limit / (norm + 1e-12)) for path, grad in grads.items()}


def _averaged(config: Config, hp: Any, state: State, params: Params) -> Params:
    """The moving average; its decay is min(d, (1 + t) / (10 + t)), so that it forgets its start quickly."""
    if config.training.ema_decay is None:
        return ()
    made = state.step.astype(jnp.float32) + 1
    decay = jnp.minimum(hp["training.ema_decay"], (1 + made) / (10 + made))
    return jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, state.ema, params)


def _summed(signals: Signals, state: State, shown: dict[str, jax.Array], report_every: jax.Array) -> jax.Array:
    """The sums with this step's values, begun anew after a report; the first step that is not finite stays."""
    reported = jnp.mod(state.step.astype(jnp.float32), report_every) == 0
    before = jnp.where(reported, 0.0, state.acc[: len(signals.sums) + 1])
    values = jnp.stack([*(shown[name] for name in signals.sums), jnp.ones(())])
    old_step, old_loss = state.acc[-2], state.acc[-1]
    bad = ~jnp.isfinite(shown["loss"] + shown["grad_norm"]) & (old_step == 0)
    own = jnp.stack([jnp.where(bad, state.step + 1.0, old_step), jnp.where(bad, shown["loss"], old_loss)])
    return jnp.concatenate([before + values, own])


def _evaluate(
    config: Config,
    workload: CheckedWorkload,
    hp_names: tuple[str, ...],
    shards: int,
    params: Params,
    frozen: Params,
    extra: Extra,
    batch: Batch,
    index: jax.Array,
    inputs: Inputs,
) -> tuple[Rows, jax.Array]:
    """The rows of a batch, and the largest `Inputs.stop`."""
    hp = named_hyperparameters(hp_names, inputs.hp)
    key = jax.random.fold_in(purpose_key(inputs.seed, Purpose.EVALUATE), index)
    whole = trees.merge(_cast(params, config.training.compute_dtype), frozen)

    def rows(part: Batch) -> Rows:
        return workload.eval_step(whole, extra, part, key, hp)

    return in_parts(rows, batch, shards, config.training.per_device_batch), jnp.max(inputs.stop)
