"""Low-rank adapters beside weights: W x + scale · B (A x), never W + B A, which would cost a whole weight.

An adapter is two leaves next to the weight it belongs to: `<name>_lora_a` (in, rank) and `<name>_lora_b`
(rank, out). B begins at zero, so an adapted model begins as the model it adapts. Hu et al., LoRA (2021).
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trialfleet.training import trees
from trialfleet.training.workload import Params, PyTree

_A, _B = "_lora_a", "_lora_b"


def is_adapter(path: str) -> bool:
    return path.endswith((_A, _B))


def attach(params: Params, pattern: str, rank: int, key: jax.Array) -> Params:
    """The parameters with an adapter at each matrix (in, out) whose path fits the pattern as a whole.

    Raises:
        ValueError: if none does.
    """
    flat = trees.flatten(params)
    for index, path in enumerate(_fitting(flat, pattern)):
        rows, columns = flat[path].shape
        flat[path + _A] = jax.random.normal(jax.random.fold_in(key, index), (rows, rank)) / rows**0.5
        flat[path + _B] = jnp.zeros((rank, columns))
    return trees.unflatten(flat)


def attach_axes(axes: PyTree, pattern: str) -> PyTree:
    """The logical axes of what `attach` gives."""
    flat = trees.flatten(axes)
    for path in _fitting(flat, pattern):
        rows, columns = flat[path]
        flat[path + _A], flat[path + _B] = (rows, "low_rank"), ("low_rank", columns)
    return trees.unflatten(flat)


def linear(
    params: Mapping[str, jax.Array],
    name: str,
    x: jax.Array,
    scale: jax.Array | float,
    adapter: bool = True,
    dropout: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """x (..., in) by the weight `name`, and by its adapter if it has one: (..., out).

    Args:
        scale: alpha / rank.
        adapter: False gives the model as it was before it was adapted.
        dropout: a rate and a key, for what the adapter sees of x.
    """
    y = x @ params[name]
    if not adapter or name + _A not in params:
        return y
    if dropout is not None:
        rate, key = dropout
        x = jnp.where(jax.random.uniform(key, x.shape) >= rate, x / (1 - rate).astype(x.dtype), 0)
    low = x @ params[name + _A].astype(x.dtype) @ params[name + _B].astype(x.dtype)
    return y + jnp.asarray(scale).astype(y.dtype) * low


def merged(params: Params, scale: float) -> Params:
    """Weights with their adapters added in, and no adapters: for export, and for serving without this module."""
    flat = trees.flatten(params)
    for path in [path for path in flat if path.endswith(_A)]:
        weight = path.removesuffix(_A)
        flat[weight] = flat[weight] + scale * (flat[path] @ flat[weight + _B]).astype(flat[weight].dtype)
    return trees.unflatten({path: leaf for path, leaf in flat.items() if not is_adapter(path)})


def _fitting(flat: Mapping[str, Any], pattern: str) -> list[str]:
    compiled = re.compile(pattern)
    fitting = [path for path in flat if compiled.fullmatch(path)]
    if not fitting:
        raise ValueError(f"the pattern {pattern!r} for adapters fits no parameter; there are {', '.join(flat)}")
    return fitting
