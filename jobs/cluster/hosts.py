"""Names for the virtual nodes in /etc/hosts, marked, so that they can be taken out again.

`jax.distributed` takes the name of a job's first node for its coordinator's address: the name must resolve.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

HOSTS = Path("/etc/hosts")


def editable() -> bool:
    """Whether we may: root may, except where the file is mounted read-only."""
    return os.access(HOSTS, os.W_OK)


def resolve(names: list[str]) -> bool:
    """Whether all the names mean something already."""
    try:
        for name in names:
            socket.gethostbyname(name)
    except OSError:
        return False
    return True


def add(names: list[str], owner: Path) -> None:
    """Let the names mean this machine, for as long as the cluster in `owner` is up."""
    line = f"127.0.0.1 {' '.join(names)} {_mark(owner)}"
    _rewrite(lambda lines: [*_without(lines, owner), line])


def remove(owner: Path) -> None:
    """Take out what `add` put in for this owner."""
    _rewrite(lambda lines: _without(lines, owner))


def _mark(owner: Path) -> str:
    return f"# trialfleet cluster {owner}"


def _without(lines: list[str], owner: Path) -> list[str]:
    return [line for line in lines if not line.endswith(_mark(owner))]


def _rewrite(change: Callable[[list[str]], list[str]]) -> None:
    """Edit in place and under a lock: containers mount the file itself, so it cannot be renamed over, and
    several clusters may come and go at once."""
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        after = "".join(f"{line}\n" for line in change(before.splitlines()))
        if after != before:
            file.seek(0)
            file.write(after)
            file.truncate()
