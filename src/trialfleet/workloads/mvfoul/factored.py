"""A small residual network, each stage of which has one convolution over space and one over time.

They are factored as in R(2+1)D (Tran et al. 2018, arXiv:1711.11248). Shapes: N views of T frames.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp

from trialfleet.config.mvfoul_models import Factored
from trialfleet.training.convolution import over_time
from trialfleet.training.mesh import constrain
from trialfleet.training.remat import Remat, rematerialized
from trialfleet.training.workload import Extra, Hyperparameters, Params
from trialfleet.workloads.mvfoul.leaves import Leaf, norm
from trialfleet.workloads.mvfoul.normalisation import Norms, statistics

_SIDE = 3  # taps of every convolution; the stem has more
_STEM_SIDE = 5


def units(config: Factored) -> list[str]:
    """The freeze units, from pixels on."""
    return ["stem", *(f"stage{n}" for n in range(len(config.widths)))]


def leaves(config: Factored, frames: int, size: int) -> dict[str, Leaf]:
    """The parameters."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]] = {
        "stem/space": ((_STEM_SIDE, _STEM_SIDE, 3, config.widths[0]), ("kernel", "kernel", None, "embed"))
    }
    before = config.widths[0]
    for n, width in enumerate(config.widths):
        shapes[f"stage{n}/space"] = (_SIDE, _SIDE, before, width), ("kernel", "kernel", "embed", None)
        shapes[f"stage{n}/time"] = (_SIDE, width, width), ("kernel", "embed", None)
        shapes[f"stage{n}/shortcut"] = (before, width), ("embed", None)
        before = width
    found = {}
    for path, (shape, axes) in shapes.items():
        gain = 2**0.5 if path.endswith("/space") else 1.0
        found[path] = Leaf(shape, axes, gain / prod(shape[:-1]) ** 0.5)
    for path, width in _norms(config).items():
        found |= norm(path, width)
    return found


def _norms(config: Factored) -> dict[str, int]:
    """Normalisations by path, and their channels."""
    paths = {"stem/norm": config.widths[0]}
    for n, width in enumerate(config.widths):
        paths |= {f"stage{n}/space_norm": width, f"stage{n}/time_norm": width}
    return paths


def stored(config: Factored) -> Extra:
    """The statistics of batch norm at first."""
    return statistics(config, _norms(config).items())


def features(
    config: Factored,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
    key: jax.Array | None,
    remat: Remat,
) -> tuple[jax.Array, Extra]:
    """What is seen in each view (N, C), and the new statistics.

    Args:
        x: pixels (N, T, H, W, 3), scaled.
        mask: (N,), 1 where there is a view.
        key: None: as in evaluation.
    """
    for n, unit in enumerate(units(config)):
        kind = _stem if unit == "stem" else _stage
        block = rematerialized(partial(kind, config, unit, key is not None, 1 if n == 1 else 2), remat)
        x, extra = block(params[unit], extra, x, mask, hp)
        x = constrain(x, "batch", None, None, None, "embed")
    # What comes before the impact and what comes after it stay apart.
    return jnp.mean(x, (2, 3)).reshape(len(x), -1), extra


def _stem(
    config: Factored,
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
    norms = Norms(config, unit, training, params, extra, mask, hp)
    return jax.nn.relu(norms("norm", _space(x, params["space"], stride))), norms.extra


def _stage(
    config: Factored,
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
    norms = Norms(config, unit, training, params, extra, mask, hp)
    h = jax.nn.relu(norms("space_norm", _space(x, params["space"], 2)))
    h = norms("time_norm", over_time(h, params["time"], stride))
    # The shortcut sees the mean of what it skips.
    return jax.nn.relu(h + _pooled(x, stride, 2) @ params["shortcut"]), norms.extra


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


def products(config: Factored, frames: int, size: int) -> list[tuple[str, float]]:
    """FLOPs of those of one view, with the weights that are multiplied."""
    side, before = size // 2, config.widths[0]
    times = {"stem/space": frames * side**2 * _STEM_SIDE**2 * 3 * before}
    for n, width in enumerate(config.widths):
        side //= 2
        times[f"stage{n}/space"] = frames * side**2 * _SIDE**2 * before * width
        frames //= 1 if n == 0 else 2
        times[f"stage{n}/time"] = frames * side**2 * _SIDE * width * width
        times[f"stage{n}/shortcut"] = frames * side**2 * before * width
        before = width
    return [(path, 2.0 * count) for path, count in times.items()]
