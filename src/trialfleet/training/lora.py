"""Low-rank adapters beside weights: W x + scale · B (A x), never W + B A, which would cost a whole weight.

An adapter is two leaves next to the weight it belongs to. A weight (stack ..., in ..., out ...) has some axes of layers
that are stacked for a scan, some that its input has and some that its output has, a head's for example; its adapter is
`<name>_lora_a` (stack ..., in ..., rank) and `<name>_lora_b` (stack ..., rank, out ...). B begins at zero, so an
adapted model begins as the model it adapts. Hu et al., LoRA (2021).
"""

import re
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.training import trees
from trialfleet.training.dropout import Dropout
from trialfleet.training.workload import Params, Product, PyTree

A, B = "_lora_a", "_lora_b"


class Axes(NamedTuple):
    """What the axes of a weight are: first those of stacked layers, then its input's, then its output's."""

    stack: int = 0
    inputs: int = 1


def _plain(path: str) -> Axes:
    return Axes()


def is_adapter(path: str) -> bool:
    return path.endswith((A, B))


def attach(params: Params, pattern: str, rank: int, key: jax.Array, axes_of: Callable[[str], Axes] = _plain) -> Params:
    """The parameters with an adapter at each weight whose path fits the pattern as a whole.

    Args:
        axes_of: what the axes of the weight with a path are; by default it is a matrix (in, out).

    Raises:
        ValueError: if none does.
    """
    flat = trees.flatten(params)
    for index, path in enumerate(_fitting(flat, pattern)):
        into, out, stack = _parts(flat[path].shape, axes_of(path))
        drawn = jax.random.normal(jax.random.fold_in(key, index), (*stack, *into, rank))
        flat[path + A] = drawn / prod(into) ** 0.5
        flat[path + B] = jnp.zeros((*stack, rank, *out))
    return trees.unflatten(flat)


def attach_axes(axes: PyTree, pattern: str, axes_of: Callable[[str], Axes] = _plain) -> PyTree:
    """The logical axes of what `attach` gives."""
    flat = trees.flatten(axes)
    for path in _fitting(flat, pattern):
        into, out, stack = _parts(flat[path], axes_of(path))
        flat[path + A], flat[path + B] = (*stack, *into, "low_rank"), (*stack, "low_rank", *out)
    return trees.unflatten(flat)


def _parts(axes: tuple[Any, ...], kinds: Axes) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """The axes of the input, those of the output, those of the stack."""
    first = kinds.stack + kinds.inputs
    return axes[kinds.stack : first], axes[first:], axes[: kinds.stack]


def linear(
    params: Mapping[str, jax.Array],
    name: str,
    x: jax.Array,
    scale: jax.Array | float,
    adapter: bool = True,
    dropout: Dropout | None = None,
    inputs: int = 1,
) -> jax.Array:
    """x (..., in ...) by the weight `name` of one layer, and by its adapter if it has one: (..., out ...).

    Args:
        scale: alpha / rank.
        adapter: False gives the model as it was before it was adapted.
        dropout: of what the adapter sees of x; None: it sees all.
        inputs: how many axes of x the weight takes in.
    """
    y = jnp.tensordot(x, params[name], inputs)
    if not adapter or name + A not in params:
        return y
    if dropout is not None:
        x = dropout.dropped(name, x)
    low = jnp.tensordot(x, params[name + A].astype(x.dtype), inputs)
    return y + jnp.asarray(scale).astype(y.dtype) * jnp.tensordot(low, params[name + B].astype(x.dtype), 1)


def products(path: str, shape: tuple[int, ...], times: int, rank: int | None, inputs: int = 1) -> list[Product]:
    """The products of `linear` with the weight of one layer, and with its adapter if that has a rank.

    Args:
        shape: of one layer's weight.
        times: how many vectors are multiplied.
    """
    found = [Product(2.0 * times * prod(shape), path)]
    if rank is not None:
        found.append(Product(2.0 * times * rank * prod(shape[:inputs]), path + A))
        found.append(Product(2.0 * times * rank * prod(shape[inputs:]), path + B))
    return found


def merged(params: Params, scale: float) -> Params:
    """Weights with their adapters added in, and no adapters: for export, and for serving without this module."""
    flat = trees.flatten(params)
    for path in [path for path in flat if path.endswith(A)]:
        weight = path.removesuffix(A)
        a, b = flat[path], flat[weight + B]
        product: Callable[[jax.Array, jax.Array], jax.Array] = lambda a, b: jnp.tensordot(a, b, 1)  # noqa: E731
        for _ in range(a.ndim + b.ndim - 2 - flat[weight].ndim):  # axes of stacked layers
            product = jax.vmap(product)
        flat[weight] = flat[weight] + scale * product(a, b).astype(flat[weight].dtype)
    return trees.unflatten({path: leaf for path, leaf in flat.items() if not is_adapter(path)})


def _fitting(flat: Mapping[str, Any], pattern: str) -> list[str]:
    compiled = re.compile(pattern)
    fitting = [path for path in flat if compiled.fullmatch(path)]
    if not fitting:
        raise ValueError(f"the pattern {pattern!r} for adapters fits no parameter; there are {', '.join(flat)}")
    return fitting
