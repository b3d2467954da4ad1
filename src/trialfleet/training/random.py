"""Random arrays that compile quickly: XLA takes a quarter of a second for every single draw on a CPU."""

# mypy: allow-untyped-calls
# (jax's optimization_barrier has no annotations.)

from collections.abc import Mapping, Sequence
from math import gcd, prod

import jax
import jax.numpy as jnp

LARGE = 1 << 18  # elements of an array from which on it is drawn by itself


def normals(
    key: jax.Array, shapes: Mapping[str, Sequence[int]], deviations: Mapping[str, float]
) -> dict[str, jax.Array]:
    """Normal arrays of these shapes and standard deviations, float32: small ones are cut from one draw, each large one
    is its own.

    Of an array that lies on several devices each then draws its own share, and the large ones are drawn one after the
    other, so that no more than one is in work.
    """
    large = {name: shape for name, shape in shapes.items() if prod(shape) >= LARGE}
    small = {name: shape for name, shape in shapes.items() if name not in large}
    drawn = jax.random.normal(key, (sum(prod(shape) for shape in small.values()),))
    arrays: dict[str, jax.Array] = {}
    first = 0
    for name, shape in small.items():
        arrays[name] = drawn[first : first + prod(shape)].reshape(tuple(shape)) * deviations[name]
        first += prod(shape)
    before = ""
    for number, (name, shape) in enumerate(large.items()):
        own = jax.random.fold_in(key, number)
        if before:
            own, arrays[before] = jax.lax.optimization_barrier((own, arrays[before]))
        arrays[name], before = _in_pieces(own, tuple(shape), deviations[name]), name
    return {name: arrays[name] for name in shapes}


_PIECES = 16  # the most that an array is made of
_LANES = 128  # no mesh axis is longer, or divides what this does not


def _in_pieces(key: jax.Array, shape: tuple[int, ...], deviation: float) -> jax.Array:
    """A normal array, drawn piece by piece: the bits of a draw take several times the room of the result.

    The pieces are slices of the inner part of an axis, whose outer part may be split over devices: each device then has
    a share of every piece.
    """
    axis = max(range(len(shape)), key=lambda axis: _pieces(shape[axis]))
    pieces = _pieces(shape[axis])
    outer = (*shape[:axis], shape[axis] // pieces)
    inner = shape[axis + 1 :]

    def fill(piece: int, whole: jax.Array) -> jax.Array:
        drawn = jax.random.normal(jax.random.fold_in(key, piece), (*outer, 1, *inner))
        return jax.lax.dynamic_update_slice_in_dim(whole, drawn * deviation, piece, axis + 1)

    whole: jax.Array = jax.lax.fori_loop(0, pieces, fill, jnp.zeros((*outer, pieces, *inner)))
    return whole.reshape(shape)


def _pieces(size: int) -> int:
    """Into how many an axis can be cut so that whatever divides it over devices divides the rest, too."""
    fixed = gcd(size, _LANES)
    return max(pieces for pieces in range(1, _PIECES + 1) if size % (pieces * fixed) == 0)


def uniforms(key: jax.Array, leading: Sequence[int], widths: Sequence[int]) -> list[jax.Array]:
    """Arrays (*leading, width) for each width, uniform over [0, 1), cut from one draw."""
    drawn = jax.random.uniform(key, (*leading, sum(widths)))
    cuts = [sum(widths[:n]) for n in range(1, len(widths))]
    return list(jax.numpy.split(drawn, cuts, axis=-1))
