"""Norms: by groups of channels or over the batch, of what convolutions make of views; of each token by itself."""

from collections.abc import Iterable
from math import prod

import jax
import jax.numpy as jnp

from trialfleet.config.mvfoul_models import Convolutional
from trialfleet.training.workload import Extra, Hyperparameters, Params

EPSILON = 1e-5


class Norms:
    """The normalisations of a unit: group norm, or batch norm (arXiv:1502.03167) over the views that are there.

    A unit that is not being trained is normalised by stored statistics, as in evaluation.

    Args:
        unit: the name of the freeze unit.
        params: of the unit, with NAME_scale and NAME_bias of each norm.
        extra: stored statistics of all units.
        mask: (N,), 1 where there is a view.

    Attributes:
        extra: with the unit's new statistics.
    """

    def __init__(
        self,
        config: Convolutional,
        unit: str,
        training: bool,
        params: Params,
        extra: Extra,
        mask: jax.Array,
        hp: Hyperparameters,
    ) -> None:
        self._config, self._unit, self._training = config, unit, training
        self._params, self._hp = params, hp
        self._mask = mask
        self.extra = extra

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """Normalised x (N, T, H, W, C)."""
        wide = x.astype(jnp.float32)
        if self._config.norm == "group":
            wide = self._by_group(wide)
        else:
            mean, var = self._statistics(f"backbone/{self._unit}/{name}", wide)
            wide = (wide - mean) * jax.lax.rsqrt(var + EPSILON)
        moved: jax.Array = wide.astype(x.dtype) * self._params[f"{name}_scale"] + self._params[f"{name}_bias"]
        return moved

    def _by_group(self, x: jax.Array) -> jax.Array:
        parts = x.reshape(*x.shape[:-1], self._config.norm_groups, -1)
        mean = jnp.mean(parts, (1, 2, 3, 5), keepdims=True)
        var = jnp.mean(jnp.square(parts - mean), (1, 2, 3, 5), keepdims=True)
        return ((parts - mean) * jax.lax.rsqrt(var + EPSILON)).reshape(x.shape)

    def _statistics(self, path: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance (C,): those stored, in evaluation and in units that are not being trained."""
        stored = self.extra[path]
        if not self._training:
            return stored["mean"], stored["var"]
        weight = self._mask[:, None, None, None, None]
        count = jnp.maximum(jnp.sum(self._mask), 1) * prod(x.shape[1:4])
        mean = jnp.sum(x * weight, (0, 1, 2, 3)) / count
        var = jnp.sum(jnp.square(x - mean) * weight, (0, 1, 2, 3)) / count
        on = self._hp.get(f"on.{self._unit}", jnp.ones(())) > 0.5
        momentum = self._hp["model.norm_momentum"]
        for name, new in (("mean", mean), ("var", var)):
            moved = stored[name] + momentum * (jax.lax.stop_gradient(new) - stored[name])
            self.extra = {**self.extra, path: {**self.extra[path], name: jnp.where(on, moved, stored[name])}}
        return jnp.where(on, mean, stored["mean"]), jnp.where(on, var, stored["var"])


def layer_norm(params: Params, name: str, x: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm (arXiv:1607.06450) over the last axis by NAME_scale and NAME_bias, in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    size = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + epsilon)
    scale, bias = (params[f"{name}_{kind}"].astype(jnp.float32) for kind in ("scale", "bias"))
    normed: jax.Array = (centred * size * scale + bias).astype(x.dtype)
    return normed


def statistics(config: Convolutional, paths: Iterable[tuple[str, int]]) -> Extra:
    """What is stored at first of norms with these paths and widths; () for group norm, which stores nothing."""
    if config.norm == "group":
        return ()
    return {f"backbone/{path}": {"mean": jnp.zeros(width), "var": jnp.ones(width)} for path, width in paths}
