"""Writes weights as others publish them: a folder of safetensors files, of which one array at a time is in memory.

The library safetensors writes what is in memory as a whole. The format is simple: eight bytes with the length of a
header, the header in JSON (each array's type, shape and place), and the arrays, one behind the other.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from trialfleet.training.published import INDEX, ONE

DTYPES: dict[str, tuple[Any, str]] = {"float32": (np.float32, "F32"), "bfloat16": (ml_dtypes.bfloat16, "BF16")}
Shapes = Mapping[str, tuple[int, ...]]


class Order(NamedTuple):
    """What is to be written.

    Attributes:
        folder: where; it must not be there yet.
        form: merged, with adapters added into the weights; or adapter, what was trained alone.
        dtype: of the arrays, float32 or bfloat16.
        most: bytes of a file, at most.
        base: what the adapter names as its base; None: the folder of the published weights.
    """

    folder: Path
    form: str
    dtype: str
    most: float
    base: str | None


class Publisher(Protocol):
    """Writes a workload's models as others read them."""

    def check(self, order: Order) -> None:
        """
        Raises:
            UserError: the order cannot be carried out.
        """

    def write(self, folder: Path, params: Any, order: Order) -> int:
        """Write into a folder, and say how many files of weights there are.

        Args:
            params: all parameters; for adapters what was trained alone.
        """


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder that gets its name when all is in it.

    Raises:
        OSError: no folder can be made of that name, which is said before there is anything in it.
    """
    with contextlib.suppress(FileNotFoundError):
        folder.lstat()  # which a link to nothing has, too, and no name that is too long
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    growing = folder.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.new")
    above = [each for each in folder.parents if not each.exists()]
    try:
        growing.mkdir(parents=True)
        yield growing
        growing.rename(folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
        with contextlib.suppress(OSError):  # what holds the folder, or what others put there, stays
            for each in above:
                each.rmdir()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of settings."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write(folder: Path, shapes: Shapes, arrays: Iterator[tuple[str, np.ndarray]], dtype: str, most: float) -> int:
    """Write all arrays, in one file or, where they are larger, in several with an index.

    Args:
        shapes: of all arrays by name, in the order of `arrays`.
        most: bytes of a file, at most; an array that is larger has a file of its own.

    Returns:
        How many files there are.
    """
    size = np.dtype(DTYPES[dtype][0]).itemsize
    groups = _grouped({name: prod(shape) * size for name, shape in shapes.items()}, most)
    count = len(groups)
    files = [ONE] if count == 1 else [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
    for file, names in zip(files, groups, strict=True):
        write_file(folder / file, {name: shapes[name] for name in names}, islice(arrays, len(names)), dtype)
    if count > 1:
        places = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        total = sum(prod(shape) for shape in shapes.values()) * size
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return count


def _grouped(sizes: Mapping[str, int], most: float) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def write_file(path: Path, shapes: Shapes, arrays: Iterator[tuple[str, np.ndarray]], dtype: str) -> None:
    """Write one file.

    Args:
        shapes: of all arrays by name, in the order of `arrays`.

    Raises:
        ValueError: an array is not the one that comes next.
    """
    kind, code = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers reads no file without
    first = 0
    for name, shape in shapes.items():
        end = first + prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [first, end]}
        first = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, array), wanted in zip(arrays, shapes.items(), strict=True):
            if (name, array.shape) != wanted:
                raise ValueError(f"{path}: {name} {array.shape} comes where {wanted} is to come")
            file.write(np.ascontiguousarray(array, kind).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
