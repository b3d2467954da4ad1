"""What a process of a study meets for as long as a file says so: a disk that errs, and a clock that is wrong.

The files lie in a folder outside of the study's: `disk` holds the name of an error (ENOSPC, EIO, ESTALE), `clock`
seconds that are added to the time of day. A driver gets it from its host, a job from site/sitecustomize.py.
"""

import builtins
import errno
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "FAULTS_CONTROL"  # in the environment of jobs: the folder of the files
WRITES = ("write", "fsync", "replace", "rename", "link", "mkdir")
READS = ("stat", "listdir", "unlink", "read", "pread")  # these fail, too, where the whole file system does


def install(control: Path, place: Path) -> None:
    """From now on this process meets the troubles of `control`.

    Args:
        place: the disk errs below this folder only.
    """
    disk, below = control / "disk", f"{place}{os.sep}sweeps"
    real_time, real_access = time.time, os.access

    def shifted() -> float:
        return real_time() + _number(control / "clock")

    time.time = shifted
    for name in (*WRITES, *READS):
        real = getattr(os, name)
        setattr(os, name, _failing(real, name in WRITES, str(disk), below, real_access))
    opened = _failing_open(os.open, str(disk), below, real_access, lambda flags: bool(flags & os.O_CREAT))
    os.open = opened
    file_opened = _failing_open(io.open, str(disk), below, real_access, lambda mode: str(mode)[:1] in "wax")
    builtins.open = io.open = file_opened


_READ, _OPEN, _LINK = os.read, os.open, os.readlink


def _number(file: Path) -> float:
    try:
        descriptor = _OPEN(str(file), os.O_RDONLY)
    except OSError:
        return 0.0
    try:
        return float(_READ(descriptor, 100) or 0)
    except ValueError:  # being written
        return 0.0
    finally:
        os.close(descriptor)


def _trouble(disk: str, writes: bool, path: str) -> None:
    """Raises:
    OSError: as the file `disk` has it.
    """
    try:
        descriptor = _OPEN(disk, os.O_RDONLY)
    except OSError:
        return
    try:
        name = _READ(descriptor, 100).decode()
    finally:
        os.close(descriptor)
    if name and (writes or name != "ENOSPC"):
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number), path)


def _is_below(target: Any, below: str) -> bool:
    if isinstance(target, int):
        try:
            target = _LINK(f"/proc/self/fd/{target}")
        except OSError:
            return False
    if not isinstance(target, str | os.PathLike):
        return False
    path = os.fspath(target)
    return isinstance(path, str) and path.startswith(below)


def _failing(
    real: Callable[..., Any], writes: bool, disk: str, below: str, access: Callable[..., bool]
) -> Callable[..., Any]:
    def call(target: Any = ".", *arguments: Any, **named: Any) -> Any:
        if access(disk, os.F_OK) and _is_below(target, below):
            _trouble(disk, writes, str(target))
        return real(target, *arguments, **named)

    return call


def _failing_open(
    real: Callable[..., Any], disk: str, below: str, access: Callable[..., bool], writes: Callable[[Any], bool]
) -> Callable[..., Any]:
    def call(target: Any, how: Any = None, *arguments: Any, **named: Any) -> Any:
        if access(disk, os.F_OK) and _is_below(target, below):
            _trouble(disk, how is not None and writes(how), str(target))
        return real(target, *arguments, **named) if how is None else real(target, how, *arguments, **named)

    return call
