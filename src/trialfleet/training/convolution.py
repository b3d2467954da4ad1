"""Convolutions over time, in the form that the device computes faster."""

import jax
import jax.numpy as jnp


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


def _as_product(x: jax.Array, weight: jax.Array, stride: int, dilation: int) -> jax.Array:
    taps, channels, width = weight.shape
    reach = taps // 2 * dilation
    padded = jnp.pad(x, ((0, 0), (reach, reach), *((0, 0),) * (x.ndim - 2)))
    shifted = [padded[:, tap * dilation : tap * dilation + x.shape[1] : stride] for tap in range(taps)]
    return jnp.concatenate(shifted, -1) @ weight.reshape(taps * channels, width)


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
