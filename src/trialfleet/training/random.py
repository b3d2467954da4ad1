"""Random arrays that compile quickly: XLA takes a quarter of a second for every single draw on a CPU."""

from collections.abc import Mapping, Sequence
from math import prod

import jax


def normals(key: jax.Array, shapes: Mapping[str, Sequence[int]]) -> dict[str, jax.Array]:
    """Standard normal arrays of these shapes, float32, cut from one draw."""
    drawn = jax.random.normal(key, (sum(prod(shape) for shape in shapes.values()),))
    arrays: dict[str, jax.Array] = {}
    first = 0
    for name, shape in shapes.items():
        arrays[name] = drawn[first : first + prod(shape)].reshape(tuple(shape))
        first += prod(shape)
    return arrays


def uniforms(key: jax.Array, leading: Sequence[int], widths: Sequence[int]) -> list[jax.Array]:
    """Arrays (*leading, width) for each width, uniform over [0, 1), cut from one draw."""
    drawn = jax.random.uniform(key, (*leading, sum(widths)))
    cuts = [sum(widths[:n]) for n in range(1, len(widths))]
    return list(jax.numpy.split(drawn, cuts, axis=-1))
