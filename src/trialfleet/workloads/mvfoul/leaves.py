"""Parameters as a table: the shape of each, its logical axes, and what it is at first."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trialfleet.training import trees
from trialfleet.training.random import normals
from trialfleet.training.workload import Axes, Params


class Leaf(NamedTuple):
    """A parameter.

    Attributes:
        deviation: of the normal numbers that it begins with; 0: all of them are `fill`.
    """

    shape: tuple[int, ...]
    axes: Axes
    deviation: float = 0.0
    fill: float = 0.0


Table = Mapping[str, Leaf]  # by path


def norm(path: str, width: int, axis: str | None = "embed") -> dict[str, Leaf]:
    """Scale and bias of a normalisation."""
    return {f"{path}_scale": Leaf((width,), (axis,), fill=1.0), f"{path}_bias": Leaf((width,), (axis,))}


def under(prefix: str, table: Table) -> dict[str, Leaf]:
    """The table with longer paths."""
    return {f"{prefix}/{path}": leaf for path, leaf in table.items()}


def initial(table: Table, key: jax.Array) -> Params:
    """The parameters of a table as they are at first."""
    drawn = {path: leaf.shape for path, leaf in table.items() if leaf.deviation}
    flat = normals(key, drawn, {path: table[path].deviation for path in drawn})
    flat |= {path: jnp.full(leaf.shape, leaf.fill) for path, leaf in table.items() if not leaf.deviation}
    return trees.unflatten(flat)


def axes(table: Table) -> Params:
    """The logical axes of a table's parameters."""
    return trees.unflatten({path: leaf.axes for path, leaf in table.items()})
