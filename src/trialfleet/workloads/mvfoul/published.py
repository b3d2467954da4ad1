"""Published weights of a network that sees views: torchvision's names (its state_dict), in a safetensors folder."""

import re
from collections.abc import Mapping
from math import prod
from typing import Literal, NamedTuple

import numpy as np

from trialfleet.errors import UserError
from trialfleet.training.published import PublishedWeights

Index = tuple[slice, ...]
_COUNTS = r".*\.num_batches_tracked"  # of batch norm, which nothing here needs
_TAPS = {5: (0, 1, 2), 4: (1, 2), 3: (0,), 2: ()}  # by a leaf's axes: which of frames, rows and columns it has


class Array(NamedTuple):
    """A published array, and how it stands to the leaf that is made of it.

    Attributes:
        kind: plain: as it is, but for axes that are merged there. linear: outputs before inputs, both merged.
            convolution: outputs, inputs, frames, rows, columns; axes of one tap are none of the leaf's. depthwise:
            channels, 1, frames, rows, columns.
        inputs: of linear: how many of the leaf's axes are inputs.
    """

    name: str
    kind: Literal["plain", "linear", "convolution", "depthwise"] = "plain"
    inputs: int = 1


class BackboneWeights:
    """Reads published arrays in slices of our leaves and statistics.

    Args:
        table: the published array of each leaf, by path.
        shapes: the leaves' shapes, by path.
        unused: a pattern of published names that are not wanted.
        key: of the config, for messages.

    Raises:
        UserError: the arrays are not those of the model, or have other shapes.
    """

    def __init__(
        self,
        weights: PublishedWeights,
        table: Mapping[str, Array],
        shapes: Mapping[str, tuple[int, ...]],
        unused: str,
        key: str,
    ) -> None:
        self._weights, self._table, self._shapes = weights, table, shapes
        fix = "choose the model, and dataset.frames and dataset.size, of these weights"
        for path, array in table.items():
            wanted, there = _published_shape(array, shapes[path]), weights.shape(array.name)
            if not _fits(there, wanted):
                raise UserError(
                    f"{key}: {array.name} has the shape {there}, and the config's model wants {wanted}", fix
                )
        used = {array.name for array in table.values()}
        for name in sorted(weights.names - used):
            if not re.fullmatch(f"{unused}|{_COUNTS}", name):
                raise UserError(f"{key}: the config's model has no place for {name}", fix)

    def __contains__(self, path: str) -> bool:
        return path in self._table

    def read(self, path: str, index: Index) -> np.ndarray:
        """One slice of a leaf.

        Args:
            index: a slice for each axis of the leaf.
        """
        array, shape = self._table[path], self._shapes[path]
        match array.kind:
            case "convolution":
                return self._convolution(array.name, shape, index)
            case "depthwise":
                *taps, channels = index
                found = self._weights.read(array.name, (channels, slice(None), *taps))
                return found[:, 0].transpose(1, 2, 3, 0)
            case "linear" if len(shape) == 2:
                return self._weights.read(array.name, (index[1], index[0])).T
            case "linear":
                return self._weights.read(array.name).T.reshape(shape)[index]
            case _ if len(shape) == len(self._weights.shape(array.name)):
                return self._weights.read(array.name, index)
            case _:
                return self._weights.read(array.name).reshape(shape)[index]

    def _convolution(self, name: str, shape: tuple[int, ...], index: Index) -> np.ndarray:
        there = _TAPS[len(shape)]
        taps = [index[there.index(axis)] if axis in there else slice(None) for axis in range(3)]
        found = self._weights.read(name, (index[-1], index[-2], *taps)).transpose(2, 3, 4, 1, 0)
        return found.reshape(*(found.shape[axis] for axis in there), *found.shape[3:])


def _published_shape(array: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    match array.kind:
        case "convolution":
            there = _TAPS[len(shape)]
            taps = [shape[there.index(axis)] if axis in there else 1 for axis in range(3)]
            return (shape[-1], shape[-2], *taps)
        case "depthwise":
            return (shape[-1], 1, *shape[:3])
        case "linear":
            return prod(shape[array.inputs :]), prod(shape[: array.inputs])
        case _:
            return shape


def _fits(there: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return there == wanted or (len(there) == 1 and there[0] == prod(wanted))
