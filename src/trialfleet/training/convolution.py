"""Convolutions over time, and over space and time, in the form that the device computes faster."""

from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import numpy as np


def over_time(x: jax.Array, weight: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """A convolution over the second axis; zeros stand before and behind it.

    On a CPU it is one matrix product of shifted copies: XLA's own convolutions are slower there. Elsewhere the vendors'
    kernels are called, which need no copies.

    Args:
        x: (N, T, …, C).
        weight: (taps, C, width), taps odd.
        stride: between frames of the result.
        dilation: between frames that are joined.

    Returns:
        (N, ⌈T / stride⌉, …, width).
    """
    return (_as_product if jax.default_backend() == "cpu" else _as_convolution)(x, weight, stride, dilation)


Strides = tuple[int, int, int]  # between frames, rows and columns of the result
_LARGE = 1 << 22  # elements from which on nobody convolves on a CPU but to see, in a dry run, what accelerators need


def _small_on_cpu(x: jax.Array) -> bool:
    return jax.default_backend() == "cpu" and x.size < _LARGE


def over_frames(x: jax.Array, weight: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution within each frame; zeros stand around it.

    Args:
        x: (N, T, H, W, C).
        weight: (rows, columns, C, width), taps odd.

    Returns:
        (N, T, ⌈H / stride⌉, ⌈W / stride⌉, width).
    """
    return _of_frames(x, weight, (stride, stride))


def _of_frames(x: jax.Array, weight: jax.Array, strides: tuple[int, int]) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]),
        weight,
        window_strides=strides,
        padding=[(taps // 2, taps // 2) for taps in weight.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


def over_volume(x: jax.Array, weight: jax.Array, strides: Strides = (1, 1, 1)) -> jax.Array:
    """A convolution over frames, rows and columns; zeros stand around them.

    Small ones are, on a CPU, within frames of more channels, some for each tap over frames: the gradient of XLA's own
    takes some twenty times as long there.

    Args:
        x: (N, T, H, W, C).
        weight: (frames, rows, columns, C, width), taps odd.

    Returns:
        (N, ⌈T / stride⌉, ⌈H / stride⌉, ⌈W / stride⌉, width).
    """
    return (_within_frames if _small_on_cpu(x) else _within_volumes)(x, weight, strides)


def _within_frames(x: jax.Array, weight: jax.Array, strides: Strides) -> jax.Array:
    taps, *_, channels, width = weight.shape
    joined = jnp.concatenate(_shifted(x, taps, strides[0]), -1)
    flat = weight.transpose(1, 2, 0, 3, 4).reshape(*weight.shape[1:3], taps * channels, width)
    return _of_frames(joined, flat, strides[1:])


def _within_volumes(x: jax.Array, weight: jax.Array, strides: Strides) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=strides,
        padding=[(taps // 2, taps // 2) for taps in weight.shape[:3]],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def of_each_channel(x: jax.Array, weight: jax.Array, strides: Strides = (1, 1, 1)) -> jax.Array:
    """A convolution over frames, rows and columns of each channel by itself; zeros stand around them.

    On a CPU it is a sum of shifted copies: XLA's own by groups takes some ten times as long there.

    Args:
        x: (N, T, H, W, …, C).
        weight: (frames, rows, columns, C), taps odd; axes between columns and channels share it.

    Returns:
        (N, ⌈T / stride⌉, ⌈H / stride⌉, ⌈W / stride⌉, …, C).
    """
    return (_as_loop if jax.default_backend() == "cpu" else _by_groups)(x, weight, strides)


def _as_loop(x: jax.Array, weight: jax.Array, strides: Strides) -> jax.Array:
    taps, ends, rest = weight.shape[:3], x.shape[1:4], x.shape[4:]
    padded = jnp.pad(x, ((0, 0), *((size // 2, size // 2) for size in taps), *((0, 0),) * len(rest)))
    frames, rows, columns = strides

    @jax.checkpoint  # else each tap's copy is kept for the gradient
    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, own = tap
        starts: list[int | jax.Array] = [0, *place, *(0 for _ in rest)]
        seen = jax.lax.dynamic_slice(padded, starts, (len(x), *ends, *rest))
        return total + seen[:, ::frames, ::rows, ::columns] * own, None

    kept = (-(-end // step) for end, step in zip(ends, strides, strict=True))
    places = np.asarray(list(product(*map(range, taps))), np.int32)
    each = weight.reshape(-1, weight.shape[-1])
    return jax.lax.scan(add, jnp.zeros((len(x), *kept, *rest), x.dtype), (places, each))[0]


def _by_groups(x: jax.Array, weight: jax.Array, strides: Strides) -> jax.Array:
    between = x.shape[4:-1]
    merged = x.reshape(*x.shape[:4], -1)
    each = jnp.tile(weight, prod(between))[..., None, :]
    y = jax.lax.conv_general_dilated(
        merged,
        each,
        window_strides=strides,
        padding=[(size // 2, size // 2) for size in weight.shape[:3]],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=merged.shape[-1],
    )
    return y.reshape(*y.shape[:4], *between, weight.shape[-1])


def _as_product(x: jax.Array, weight: jax.Array, stride: int, dilation: int) -> jax.Array:
    taps, channels, width = weight.shape
    return jnp.concatenate(_shifted(x, taps, stride, dilation), -1) @ weight.reshape(taps * channels, width)


def _shifted(x: jax.Array, taps: int, stride: int, dilation: int = 1) -> list[jax.Array]:
    """What each tap over the second axis sees."""
    reach = taps // 2 * dilation
    padded = jnp.pad(x, ((0, 0), (reach, reach), *((0, 0),) * (x.ndim - 2)))
    return [padded[:, tap * dilation : tap * dilation + x.shape[1] : stride] for tap in range(taps)]


def _as_convolution(x: jax.Array, weight: jax.Array, stride: int, dilation: int) -> jax.Array:
    taps, _, width = weight.shape
    reach = taps // 2 * dilation
    y = jax.lax.conv_general_dilated(
        x.reshape(*x.shape[:2], -1, x.shape[-1]),  # what is between time and channels is one axis that stays
        weight[:, None],
        window_strides=(stride, 1),
        padding=((reach, reach), (0, 0)),
        rhs_dilation=(dilation, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(y.shape[0], y.shape[1], *x.shape[2:-1], width)
