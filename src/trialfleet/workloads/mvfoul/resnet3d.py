"""R3D and R(2+1)D: residual networks over space and time (Tran et al. 2018, arXiv:1711.11248), as torchvision has them.

A stem, then stages of blocks of two convolutions around which there is a shortcut; all stages but the first halve
frames and sides. With `kind: r2plus1d` each convolution is one over space and one over time, with a norm and a ReLU
between them. Shapes: N views of T frames.
"""

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.config.mvfoul_models import Resnet3d
from trialfleet.training.convolution import Strides, over_frames, over_time, over_volume
from trialfleet.training.mesh import constrain
from trialfleet.training.remat import Remat, rematerialized
from trialfleet.training.workload import Axes, Extra, Hyperparameters, Params
from trialfleet.workloads.mvfoul.leaves import Leaf, norm
from trialfleet.workloads.mvfoul.normalisation import Norms, statistics

_SIDE = 3  # taps of a block's convolutions
_STEM_SIDE = 7  # of the stem's within a frame


class Block(NamedTuple):
    """A block: its stage and its number there, channels before and behind it, and its stride."""

    stage: int
    number: int
    before: int
    width: int
    stride: int

    @property
    def shortened(self) -> bool:
        """Whether its shortcut is a convolution."""
        return self.stride > 1 or self.before != self.width


def blocks(config: Resnet3d) -> dict[str, Block]:
    """The blocks by the names of their freeze units."""
    found, before = dict[str, Block](), config.widths[0]
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            found[f"block{len(found)}"] = Block(stage, number, before, width, stride)
            before = width
    return found


def units(config: Resnet3d) -> list[str]:
    """The freeze units, from pixels on."""
    return ["stem", *blocks(config)]


class Convolution(NamedTuple):
    """A convolution: taps over frames and within them, channels before, between and behind, and strides."""

    path: str
    frames: int
    side: int
    before: int
    middle: int  # between space and time, with kind: r2plus1d
    width: int
    strides: Strides


def _convolutions(config: Resnet3d) -> Iterator[tuple[Convolution, str]]:
    """All convolutions but those of shortcuts, each with the path of the norm behind it."""
    side = (1, 2, 2)
    yield Convolution("stem/conv", _SIDE, _STEM_SIDE, 3, config.stem_hidden, config.widths[0], side), "stem/norm"
    for name, block in blocks(config).items():
        middle = config.middle(block.before, block.width)
        strides = (block.stride,) * 3
        first = Convolution(f"{name}/conv1", _SIDE, _SIDE, block.before, middle, block.width, strides)
        yield first, f"{name}/norm1"
        second = Convolution(f"{name}/conv2", _SIDE, _SIDE, block.width, middle, block.width, (1, 1, 1))
        yield second, f"{name}/norm2"


def leaves(config: Resnet3d, frames: int, size: int) -> dict[str, Leaf]:
    """The parameters."""
    found: dict[str, Leaf] = {}
    for conv, _ in _convolutions(config):
        # What the first convolution of a block gives is its hidden layer.
        inside, outside = ("mlp", "embed") if conv.path.endswith("conv2") else ("embed", "mlp")
        before, behind = (None, "embed") if conv.path.startswith("stem") else (inside, outside)
        for path, (shape, axes) in _weights(config, conv, before, behind).items():
            found[path] = Leaf(shape, axes, (2 / prod(shape[:-1])) ** 0.5)
    for name, block in blocks(config).items():
        if block.shortened:
            shape = (block.before, block.width)
            found[f"{name}/shortcut"] = Leaf(shape, ("embed", None), block.before**-0.5)
    for path, width in _norms(config).items():
        found |= norm(path, width, "mlp" if path.endswith("norm1") else "embed")
    return found


def _weights(
    config: Resnet3d, conv: Convolution, before: str | None, behind: str | None
) -> dict[str, tuple[tuple[int, ...], Axes]]:
    kernel = ("kernel", "kernel")
    if config.kind == "r3d":
        shape = (conv.frames, conv.side, conv.side, conv.before, conv.width)
        return {conv.path: (shape, ("kernel", *kernel, before, behind))}
    return {
        f"{conv.path}_space": ((conv.side, conv.side, conv.before, conv.middle), (*kernel, before, None)),
        f"{conv.path}_time": ((conv.frames, conv.middle, conv.width), ("kernel", None, behind)),
    }


def _norms(config: Resnet3d) -> dict[str, int]:
    """Normalisations by path, and their channels."""
    found: dict[str, int] = {}
    for conv, behind in _convolutions(config):
        if config.kind == "r2plus1d":
            found[f"{conv.path}_norm"] = conv.middle
        found[behind] = conv.width
    shortcuts = {name: block.width for name, block in blocks(config).items() if block.shortened}
    return found | {f"{name}/shortcut_norm": width for name, width in shortcuts.items()}


def stored(config: Resnet3d) -> Extra:
    """The statistics of batch norm at first."""
    return statistics(config, _norms(config).items())


def features(
    config: Resnet3d,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
    key: jax.Array | None,
    remat: Remat,
) -> tuple[jax.Array, Extra]:
    """What is seen in each view, the mean over frames and pixels (N, C), and the new statistics.

    Args:
        x: pixels (N, T, H, W, 3), scaled.
        mask: (N,), 1 where there is a view.
        key: None: as in evaluation.
    """
    stem = rematerialized(partial(_stem, config, key is not None), remat)
    x, extra = stem(params["stem"], extra, x, mask, hp)
    for name, block in blocks(config).items():
        one = rematerialized(partial(_block, config, name, block, key is not None), remat)
        x, extra = one(params[name], extra, x, mask, hp)
        x = constrain(x, "batch", None, None, None, "embed")
    return jnp.mean(x, (1, 2, 3)), extra


def _stem(
    config: Resnet3d,
    training: bool,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
) -> tuple[jax.Array, Extra]:
    """Pixels (N, T, H, W, 3) to features of half the height and width."""
    norms = Norms(config, "stem", training, params, extra, mask, hp)
    return jax.nn.relu(norms("norm", _convolved(config, params, norms, "conv", x, (1, 2, 2)))), norms.extra


def _block(
    config: Resnet3d,
    name: str,
    block: Block,
    training: bool,
    params: Params,
    extra: Extra,
    x: jax.Array,
    mask: jax.Array,
    hp: Hyperparameters,
) -> tuple[jax.Array, Extra]:
    """A residual block (N, T, H, W, C)."""
    norms = Norms(config, name, training, params, extra, mask, hp)
    h = _convolved(config, params, norms, "conv1", x, (block.stride,) * 3)
    h = constrain(jax.nn.relu(norms("norm1", h)), "batch", None, None, None, "mlp")
    h = norms("norm2", _convolved(config, params, norms, "conv2", h, (1, 1, 1)))
    if block.shortened:
        step = block.stride
        x = norms("shortcut_norm", x[:, ::step, ::step, ::step] @ params["shortcut"])
    return jax.nn.relu(h + x), norms.extra


def _convolved(config: Resnet3d, params: Params, norms: Norms, name: str, x: jax.Array, strides: Strides) -> jax.Array:
    """A convolution over space and time, or first over the one and then over the other."""
    if config.kind == "r3d":
        return over_volume(x, params[name], strides)
    within = over_frames(x, params[f"{name}_space"], strides[1])
    return over_time(jax.nn.relu(norms(f"{name}_norm", within)), params[f"{name}_time"], strides[0])


def products(config: Resnet3d, frames: int, size: int) -> list[tuple[str, float]]:
    """FLOPs of those of one view, with the weights that are multiplied."""
    shortcuts, found = blocks(config), list[tuple[str, float]]()
    for conv, _ in _convolutions(config):
        unit, _, own = conv.path.partition("/")
        before = frames
        frames, size = (-(-count // step) for count, step in zip((frames, size), conv.strides[:2], strict=True))
        places = 2.0 * frames * size**2
        if config.kind == "r3d":
            found.append((conv.path, places * conv.frames * conv.side**2 * conv.before * conv.width))
        else:
            within = 2.0 * before * size**2 * conv.side**2 * conv.before * conv.middle
            found.append((f"{conv.path}_space", within))
            found.append((f"{conv.path}_time", places * conv.frames * conv.middle * conv.width))
        if own == "conv1" and shortcuts[unit].shortened:
            found.append((f"{unit}/shortcut", places * conv.before * conv.width))
    return found
