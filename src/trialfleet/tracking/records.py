"""Small JSON records that are whole or absent, whoever dies and whenever.

Every record is JSON, so that a person can read it and reading it runs no code. Numbers that JSON has no
word for (nan, inf) are written as the strings "NaN", "Infinity" and "-Infinity"; `number` reads them back.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

_PIECE = 1 << 16  # bytes
Json = Any  # what json.loads can return


def dumps(value: Json) -> str:
    """One line of strict JSON; numbers that are not finite become strings."""
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False)


def number(value: Json) -> float:
    """The float that `dumps` wrote, strings for non-finite numbers included."""
    return float(value)


def read(path: Path) -> Json | None:
    """The record at `path`, or None if there is none (yet), or a power cut left nothing of one that was not synced."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return None
    return json.loads(data) if data.strip(b"\0") else None


def read_bytes(path: Path, offset: int = 0) -> bytes:
    """What a file holds from `offset` on, with few system calls: the driver asks all the time, mostly for nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = b""
        while part := os.pread(descriptor, _PIECE, offset + len(data)):
            data += part
        return data
    finally:
        os.close(descriptor)


def write(path: Path, value: Json, synced: bool = True) -> None:
    """Replace the record at `path`: a reader sees the old one or the new one, never a part.

    After a power cut it may be the old one, whole. What must not be undone is brought into being by `create`; the
    directory is not synced here, since that would cost a trial half of its time on the disk.

    Args:
        synced: False for what can be done without after a power cut; it may be empty then.
    """
    with _complete_file(path, value, synced) as temporary:
        os.replace(temporary, path)


def create(path: Path, value: Json) -> bool:
    """Bring the record into being, once, by link(2) of a complete and synced file.

    Returns:
        False if somebody else's record was there first; it is left as it is.
    """
    with _complete_file(path, value, synced=True) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)  # noqa: PTH108  # called very often
        _sync_directory(path.parent)
        return True


@contextlib.contextmanager
def _complete_file(path: Path, value: Json, synced: bool) -> Iterator[Path]:
    """A complete file beside `path`, which the block gives its name or takes away."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        descriptor = _opened(temporary)
        try:
            data = f"{dumps(value)}\n".encode()
            while data:  # a signal or a nearly full disk may cut a write short
                data = data[os.write(descriptor, data) :]
            if synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _opened(path: Path) -> int:
    """A new file's descriptor. Nearly always the folder is there: it is made only when the file cannot be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
