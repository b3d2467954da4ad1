"""Published weights: a local folder of safetensors files, read slice by slice."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from trialfleet.config.location import expanded
from trialfleet.errors import UserError

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files: {"weight_map": {name: file}}


class PublishedWeights:
    """The arrays of a folder by their published names.

    Files are mapped into memory, and what is asked for alone is read: a device's share of a leaf costs no more.

    Args:
        folder: with `model.safetensors`, or `model.safetensors.index.json` and the files that it names.
        key: the config's key that names the folder, for messages.

    Attributes:
        folder: the folder's absolute path.

    Raises:
        UserError: there are no weights in the folder, or a file is missing or is none.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = expanded(folder).absolute(), key
        self._opened: dict[str, Any] = {}
        self._files = self._indexed()
        self.names  # noqa: B018  # whatever is wrong with a file is said now

    def _indexed(self) -> dict[str, str] | None:
        """The file of each array, if an index says so."""
        index = self.folder / INDEX
        if not index.exists():
            return None
        try:
            found = json.loads(index.read_text())["weight_map"]
            return {str(name): str(file) for name, file in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._wrong(index, f"is no index of weights ({error!r})") from error

    @cached_property
    def names(self) -> frozenset[str]:
        """What there is."""
        files = [ONE] if self._files is None else sorted(set(self._files.values()))
        there = {name for file in files for name in self._open(file).keys()}  # noqa: SIM118  # it is no dict
        lacking = sorted(set(self._files or ()) - there)
        if lacking:
            raise self._wrong(self.folder / INDEX, f"names arrays that no file has: {', '.join(lacking[:5])}")
        return frozenset(there)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole array.

        Raises:
            UserError: there is no such array.
        """
        return tuple(self._slices(name).get_shape())

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A part of an array, in the dtype that the file has.

        Args:
            index: slices of its first axes; axes without one are read whole.

        Raises:
            UserError: there is no such array.
        """
        return np.asarray(self._slices(name)[index or (slice(None),)])

    def read_stacked(self, names: tuple[str, ...], index: tuple[slice, ...]) -> np.ndarray:
        """A part of several arrays of one shape as if they were one, stacked along a first axis, which `index` has."""
        first, *rest = index
        return np.stack([self.read(name, tuple(rest)) for name in names[first]])

    def _slices(self, name: str) -> Any:
        if name not in self.names:
            raise UserError(
                f"{self._key}: {self.folder} has no array {name!r}", "give weights of the model that the config names"
            )
        return self._open(ONE if self._files is None else self._files[name]).get_slice(name)

    def _open(self, file: str) -> Any:
        if file not in self._opened:
            path = self.folder / file
            try:
                self._opened[file] = safe_open(path, framework="numpy")
            except FileNotFoundError:
                raise self._wrong(path, "is not there") from None
            except (OSError, SafetensorError) as error:
                raise self._wrong(path, f"is no whole safetensors file ({error})") from error
        return self._opened[file]

    def _wrong(self, path: Path, what: str) -> UserError:
        return UserError(
            f"{self._key}: {path}: {what}", f"give a folder with {ONE}, or with {INDEX} and the files that it names"
        )
