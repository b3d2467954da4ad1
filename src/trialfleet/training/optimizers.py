"""The optimizer of a config: optax's directions, and rates, decay and freezing by group around them.

Every number is traced. Each freeze unit has an optimizer state of its own, step count included, so that a
unit which starts late is corrected for its own first steps and not for the run's.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trialfleet.config.optimizers import Adafactor, Adam, AdamW, Lion, Muon, OptimizerConfig, Sgd
from trialfleet.training.trees import Flat
from trialfleet.training.workload import Axes, Hyperparameters

OptState = dict[str, Any]  # by freeze unit
Matrix = tuple[tuple[int, ...], tuple[int, ...]]  # the axes of a weight that are inputs, and those that are outputs


class Leaf(NamedTuple):
    """What the optimizer must know of a parameter."""

    group: str
    unit: str  # parameters of a unit are switched on and off together
    decays: bool
    matrix: Matrix | None  # None for what must not be orthogonalised


def leaf(group: str, unit: str, axes: Axes) -> Leaf:
    """Decay is for weights, not for biases and norm scales; told by logical axes, since stacked scales are 2-D."""
    own = [axis for axis, name in enumerate(axes) if name != "stack"]
    return Leaf(group, unit, len(own) >= 2, None if {"vocab", "kernel"} & set(axes) else _matrix(own, axes))


def _matrix(own: list[int], axes: Axes) -> Matrix | None:
    """Heads are axes of their own: of more than two the residual stream, or an adapter's rank, is one side alone."""
    if len(own) > 2 and axes[own[-1]] in _ONE_SIDE:
        return tuple(own[:-1]), (own[-1],)
    if len(own) == 2 or (len(own) > 2 and axes[own[0]] in _ONE_SIDE):
        return (own[0],), tuple(own[1:])
    return None


_ONE_SIDE = ("embed", "low_rank")


class Optimizer:
    """Updates of flat parameters ({path: array}) for one kind of optimizer."""

    def __init__(self, config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> None:
        self.config = config
        self.leaves = leaves
        self.units = sorted({leaf.unit for leaf in leaves.values()})

    def init(self, params: Flat, hp: Hyperparameters) -> OptState:
        return {unit: self._direction(unit, hp).init(self._of(unit, params)) for unit in self.units}

    def update(
        self,
        grads: Flat,
        state: OptState,
        params: Flat,
        hp: Hyperparameters,
        scale: Callable[[str], jax.Array],
        on: Callable[[str], jax.Array],
    ) -> tuple[Flat, OptState]:
        """What to add to the parameters, and the new state.

        Args:
            grads: clipped already, and 0 where a unit is off.
            scale: of a group's rate, by group: the schedule times what the control says.
            on: a boolean scalar by unit; where it is false nothing changes.
        """
        if isinstance(self.config, Adam | Sgd):
            grads = {path: grad + self._decay(path, hp) * params[path] for path, grad in grads.items()}
        updates: Flat = {}
        new_state: OptState = {}
        for unit in self.units:
            direction = self._direction(unit, hp)
            steps, new = direction.update(self._of(unit, grads), state[unit], self._of(unit, params))
            new_state[unit] = _where(on(unit), new, state[unit]) if len(self.units) > 1 else new
            updates.update(steps)
        decoupled = not isinstance(self.config, Adam | Sgd)
        for path, step in updates.items():
            leaf = self.leaves[path]
            whole = step + self._decay(path, hp) * params[path] if decoupled else step
            change = -self.rate(leaf.group, hp) * scale(leaf.group) * whole
            updates[path] = jnp.where(on(leaf.unit), change, 0.0) if len(self.units) > 1 else change
        return updates, new_state

    def _of(self, unit: str, flat: Flat) -> Flat:
        return {path: value for path, value in flat.items() if self.leaves[path].unit == unit}

    def rate(self, group: str, hp: Hyperparameters) -> jax.Array:
        """A group's rate at the schedule's peak."""
        return hp.get(f"optimizer.groups.{group}.learning_rate", hp["optimizer.learning_rate"])

    def _decay(self, path: str, hp: Hyperparameters) -> jax.Array | float:
        if not self.leaves[path].decays:
            return 0.0
        return hp.get(f"optimizer.groups.{self.leaves[path].group}.weight_decay", hp["optimizer.weight_decay"])

    def _direction(self, unit: str, hp: Hyperparameters) -> optax.GradientTransformation:
        """The direction of steepest descent as this kind of optimizer sees it, for rate 1."""
        config = self.config
        match config:
            case AdamW() | Adam():
                return optax.scale_by_adam(
                    _traced(hp, "beta1"), _traced(hp, "beta2"), _traced(hp, "eps"), mu_dtype=config.moment_dtype
                )
            case Sgd():
                return optax.trace(_traced(hp, "momentum"), nesterov=config.nesterov)
            case Lion():
                return optax.scale_by_lion(
                    _traced(hp, "beta1"), _traced(hp, "beta2"), mu_dtype=jnp.dtype(config.moment_dtype)
                )
            case Adafactor():
                return optax.chain(
                    optax.scale_by_factored_rms(
                        decay_rate=_traced(hp, "decay_exponent"),
                        epsilon=_traced(hp, "eps"),
                        min_dim_size_to_factor=config.factor_from,
                    ),
                    optax.clip_by_block_rms(1.0),
                )
            case Muon():
                return self._muon(config, unit, hp)

    def _muon(self, config: Muon, unit: str, hp: Hyperparameters) -> optax.GradientTransformation:
        matrices = {path: leaf.matrix for path, leaf in self.leaves.items() if leaf.unit == unit}
        matrix = optax.chain(
            optax.contrib.scale_by_muon(
                ns_steps=config.iterations,
                beta=_traced(hp, "momentum"),
                nesterov=config.nesterov,
                weight_dimension_numbers={
                    path: optax.contrib.MuonDimensionNumbers(*axes) for path, axes in matrices.items() if axes
                },
            ),
            optax.stateless(lambda steps, _: {path: _by_shape(step, matrices[path]) for path, step in steps.items()}),
        )
        other = optax.scale_by_adam(_traced(hp, "beta1"), _traced(hp, "beta2"), _traced(hp, "eps"))
        return _Parts({path for path, axes in matrices.items() if axes}, matrix, other).transformation()


class _Parts(NamedTuple):
    """One transformation for some paths and another for the rest."""

    chosen: set[str]
    first: optax.GradientTransformation
    second: optax.GradientTransformation

    def transformation(self) -> optax.GradientTransformation:
        return optax.GradientTransformation(self._init, self._update)

    def _init(self, params: Any) -> Any:
        one, two = self._split(params)
        return {"matrix": self.first.init(one), "other": self.second.init(two)}

    def _update(self, grads: Any, state: Any, params: Any = None) -> Any:
        (one, two), (own_one, own_two) = self._split(grads), self._split(params)
        one, state_one = self.first.update(one, state["matrix"], own_one)
        two, state_two = self.second.update(two, state["other"], own_two)
        return {**one, **two}, {"matrix": state_one, "other": state_two}

    def _split(self, flat: Flat) -> tuple[Flat, Flat]:
        return (
            {path: value for path, value in flat.items() if path in self.chosen},
            {path: value for path, value in flat.items() if path not in self.chosen},
        )


def _by_shape(step: jax.Array, axes: Matrix | None) -> jax.Array:
    """Muon's factor for tall matrices: the square root of outputs over inputs, if there are more."""
    assert axes is not None
    inputs, outputs = (prod(step.shape[axis] for axis in side) for side in axes)
    factor: float = max(1.0, outputs / inputs) ** 0.5
    return step * factor


def _traced(hp: Hyperparameters, name: str) -> Any:
    # optax's annotations say float; it takes a traced scalar all the same.
    return hp[f"optimizer.{name}"]


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
