"""A residual network over space and time for each view, the views joined, and two heads.

Convolutions are factored into space and time, R(2+1)D (Tran et al. 2018, arXiv:1711.11248). Shapes: B clips of V
views, N = B·V views of T frames.
"""

from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.config.mvfoul import Resnet3d
from trialfleet.training import trees
from trialfleet.training.convolution import over_time
from trialfleet.training.mesh import constrain
from trialfleet.training.random import normals, uniforms
from trialfleet.training.remat import rematerialized
from trialfleet.training.workload import Extra, Hyperparameters, Params, Product

Remat = Literal["none", "dots", "full"]

_EPS = 1e-5
_SIDE = 3  # taps of every convolution; the stem has more
_STEM_SIDE = 5


class Scores(NamedTuple):
    """Logits of the two questions, float32."""

    severity: jax.Array
    action: jax.Array


def init(config: Resnet3d, frames: int, classes: tuple[int, int], key: jax.Array) -> tuple[Params, Extra]:
    """Weights with the variance that keeps a signal's size, and the stored statistics of batch norm."""
    shapes: dict[str, tuple[int, ...]] = {"backbone/stem/space": (_STEM_SIDE, _STEM_SIDE, 3, config.widths[0])}
    before = config.widths[0]
    for n, width in enumerate(config.widths):
        shapes[f"backbone/stage{n}/space"] = (_SIDE, _SIDE, before, width)
        shapes[f"backbone/stage{n}/time"] = (_SIDE, width, width)
        shapes[f"backbone/stage{n}/shortcut"] = (before, width)
        before = width
    before *= frames // 2 ** (len(config.widths) - 1)
    if config.aggregator == "attention":
        shapes |= {"heads/attention/w": (before, config.head_hidden), "heads/attention/score": (config.head_hidden, 1)}
    for head, count in zip(Scores._fields, classes, strict=True):
        shapes |= {f"heads/{head}/w": (before, config.head_hidden), f"heads/{head}/out": (config.head_hidden, count)}
    gains = {"space": 2**0.5, "w": 2**0.5, "out": 0.1}
    deviations = {
        path: gains.get(path.rpartition("/")[2], 1.0) / prod(shape[:-1]) ** 0.5 for path, shape in shapes.items()
    }
    flat = normals(key, shapes, deviations)
    for path, width in _norms(config).items():
        flat |= {f"{path}_scale": jnp.ones(width), f"{path}_bias": jnp.zeros(width)}
    for head, count in zip(Scores._fields, classes, strict=True):
        flat |= {f"heads/{head}/b": jnp.zeros(config.head_hidden), f"heads/{head}/out_b": jnp.zeros(count)}
    if config.norm == "group":
        return trees.unflatten(flat), ()
    statistics = {path: {"mean": jnp.zeros(width), "var": jnp.ones(width)} for path, width in _norms(config).items()}
    return trees.unflatten(flat), statistics


def _norms(config: Resnet3d) -> dict[str, int]:
    """Normalisations by path, and their channels."""
    paths = {"backbone/stem/norm": config.widths[0]}
    for n, width in enumerate(config.widths):
        paths |= {f"backbone/stage{n}/space_norm": width, f"backbone/stage{n}/time_norm": width}
    return paths


def axes(config: Resnet3d) -> dict[str, Any]:
    """The logical axes of what `init` gives."""
    affine = {f"{path}_{kind}": ("embed",) for path in _norms(config) for kind in ("scale", "bias")}
    flat: dict[str, tuple[str | None, ...]] = {"backbone/stem/space": ("kernel", "kernel", None, "embed"), **affine}
    for n in range(len(config.widths)):
        flat[f"backbone/stage{n}/space"] = ("kernel", "kernel", "embed", None)
        flat[f"backbone/stage{n}/time"] = ("kernel", "embed", None)
        flat[f"backbone/stage{n}/shortcut"] = ("embed", None)
    if config.aggregator == "attention":
        flat |= {"heads/attention/w": ("embed", "mlp"), "heads/attention/score": ("mlp", None)}
    for head in Scores._fields:
        flat |= {f"heads/{head}/w": ("embed", "mlp"), f"heads/{head}/b": ("mlp",)}
        flat |= {f"heads/{head}/out": ("mlp", "vocab"), f"heads/{head}/out_b": ("vocab",)}
    tree: dict[str, Any] = trees.unflatten(flat)
    return tree


class Seen(NamedTuple):
    """What the network makes of a batch."""

    joined: Scores  # (B, K), (B, L)
    single: Scores  # by view (B, V, K), (B, V, L)
    extra: Extra


def scores(
    config: Resnet3d,
    params: Params,
    extra: Extra,
    video: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
    key: jax.Array | None,
    remat: Remat = "none",
) -> Seen:
    """Logits for each clip, and for each of its views alone.

    Args:
        video: (B, V, T, H, W, 3) uint8.
        mask: (B, V), 1 where there is a view; what others show is never seen, not even in statistics.
        key: for dropout, and to use the batch's own statistics; None: neither, as in evaluation.
    """
    features, extra = _backbone(config, params["backbone"], extra, video, mask, hp, key is not None, remat)
    joined = _joined(config, params["heads"], features, mask)
    everything = jnp.concatenate([features, joined[:, None]], 1)  # (B, V + 1, C)
    heads = []
    for index, head in enumerate(Scores._fields):
        own = params["heads"][head]
        hidden = constrain(jax.nn.relu(everything @ own["w"] + own["b"]), "batch", None, "mlp")
        if key is not None:
            [chances] = uniforms(jax.random.fold_in(key, index), hidden.shape[:2], hidden.shape[2:])
            hidden = jnp.where(chances >= hp["model.dropout"], hidden / (1 - hp["model.dropout"]), 0)
        heads.append((hidden @ own["out"] + own["out_b"]).astype(jnp.float32))
    return Seen(Scores(*(head[:, -1] for head in heads)), Scores(*(head[:, :-1] for head in heads)), extra)


def products(config: Resnet3d, views: int, frames: int, size: int) -> list[Product]:
    """Those of a forward pass over a clip: the convolutions of its views, beside which the heads are nothing."""
    side, before = size // 2, config.widths[0]
    weights = {"backbone/stem/space": frames * side**2 * _STEM_SIDE**2 * 3 * before}
    for n, width in enumerate(config.widths):
        side //= 2
        weights[f"backbone/stage{n}/space"] = frames * side**2 * _SIDE**2 * before * width
        frames //= 1 if n == 0 else 2
        weights[f"backbone/stage{n}/time"] = frames * side**2 * _SIDE * width * width
        weights[f"backbone/stage{n}/shortcut"] = frames * side**2 * before * width
        before = width
    return [Product(2.0 * views * times, path) for path, times in weights.items()]


def _backbone(
    config: Resnet3d,
    params: Params,
    extra: Extra,
    video: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
    training: bool,
    remat: Remat,
) -> tuple[jax.Array, Extra]:
    """Features of each view (B, V, C), one behind the other for each frame that is left, and the new statistics."""
    clips, views, frames, side = video.shape[:4]
    dtype = params["stem"]["space"].dtype
    x = video.reshape(clips * views, frames, side, side, 3).astype(dtype) / 127.5 - 1
    for n in range(-1, len(config.widths)):
        unit = f"stage{n}" if n >= 0 else "stem"
        block = rematerialized(partial(_stem if n < 0 else _stage, config, unit, training, 1 if n == 0 else 2), remat)
        x, extra = block(params[unit], extra, x, mask.reshape(-1), hp)
        x = constrain(x, "batch", None, None, None, "embed")
    # What comes before the impact and what comes after it stay apart.
    return jnp.mean(x, (2, 3)).reshape(clips, views, -1), extra


def _stem(
    config: Resnet3d,
    unit: str,
    training: bool,
    stride: int,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
) -> tuple[jax.Array, Extra]:
    """Pixels (N, T, H, W, 3) to features of half the height and width, and the new statistics."""
    norm = _Norm(config, unit, training, params, extra, mask, hp)
    return jax.nn.relu(norm("norm", _space(x, params["space"], stride))), norm.extra


def _stage(
    config: Resnet3d,
    unit: str,
    training: bool,
    stride: int,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
) -> tuple[jax.Array, Extra]:
    """A residual block (N, T, H, W, C) of half the height and width; `stride` is that of time."""
    norm = _Norm(config, unit, training, params, extra, mask, hp)
    h = jax.nn.relu(norm("space_norm", _space(x, params["space"], 2)))
    h = norm("time_norm", over_time(h, params["time"], stride))
    # The shortcut sees the mean of what it skips.
    return jax.nn.relu(h + _pooled(x, stride, 2) @ params["shortcut"]), norm.extra


def _joined(config: Resnet3d, heads: Params, features: jax.Array, mask: jax.Array) -> jax.Array:
    """One vector for each clip (B, C) from those of its views: their mean, or attention pooling."""
    if config.aggregator == "mean":
        shares = mask / jnp.maximum(jnp.sum(mask, 1, keepdims=True), 1)
    else:
        attention = heads["attention"]
        score = (jnp.tanh(features @ attention["w"]) @ attention["score"])[..., 0].astype(jnp.float32)
        shares = jax.nn.softmax(jnp.where(mask > 0, score, -1e9), 1)
    return jnp.sum(features * shares[..., None].astype(features.dtype), 1)


class _Norm:
    """The normalisations of a unit: group norm, or batch norm over the views that are there.

    Collects the statistics to be stored.
    """

    def __init__(
        self,
        config: Resnet3d,
        unit: str,
        training: bool,
        params: Params,
        extra: Extra,
        mask: jax.Array,
        hp: Hyperparameters,
    ) -> None:
        self._config, self._unit, self._training = config, unit, training
        self._params, self._hp = params, hp
        self._mask = mask  # (N,)
        self.extra = extra

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """Normalised x (N, T, H, W, C)."""
        wide = x.astype(jnp.float32)
        if self._config.norm == "group":
            wide = self._by_group(wide)
        else:
            mean, var = self._statistics(f"backbone/{self._unit}/{name}", wide)
            wide = (wide - mean) * jax.lax.rsqrt(var + _EPS)
        moved: jax.Array = wide.astype(x.dtype) * self._params[f"{name}_scale"] + self._params[f"{name}_bias"]
        return moved

    def _by_group(self, x: jax.Array) -> jax.Array:
        parts = x.reshape(*x.shape[:-1], self._config.norm_groups, -1)
        mean = jnp.mean(parts, (1, 2, 3, 5), keepdims=True)
        var = jnp.mean(jnp.square(parts - mean), (1, 2, 3, 5), keepdims=True)
        return ((parts - mean) * jax.lax.rsqrt(var + _EPS)).reshape(x.shape)

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


def _space(x: jax.Array, weight: jax.Array, stride: int) -> jax.Array:
    """A convolution within each frame: (N, T, H, W, C) with (side, side, C, width), padded."""
    frames = x.reshape(-1, *x.shape[2:])
    y = jax.lax.conv_general_dilated(
        frames, weight, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _pooled(x: jax.Array, time: int, space: int) -> jax.Array:
    """The mean over blocks of frames and pixels."""
    n, t, h, w, c = x.shape
    return jnp.mean(x.reshape(n, t // time, time, h // space, space, w // space, space, c), (2, 4, 6))
