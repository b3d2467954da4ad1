"""Who a process is, so that it is never mistaken for another: across hosts, reboots and recycled pids."""

import os
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Process:
    """One life of a process on one host."""

    host: str
    boot_id: str  # changes with every boot of the host
    pid: int
    start_time: int  # clock ticks from boot to the process's start

    @classmethod
    def own(cls) -> "Process":
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has this pid on this host now.

        Raises:
            ProcessLookupError: there is none.
        """
        start = _start_time(pid)
        if start is None:
            raise ProcessLookupError(pid)
        return cls(socket.gethostname(), boot_id(), pid, start)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Process":
        return cls(record["host"], record["boot_id"], record["pid"], record["start_time"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def is_here(self) -> bool:
        """Whether this host can tell if the process is alive: a process of an earlier boot is not."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether the process still runs. Only true or false of processes of this host (`is_here`)."""
        return self.is_here() and self.boot_id == boot_id() and _start_time(self.pid) == self.start_time


@cache
def boot_id() -> str:
    """The kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may contain anything, so count from the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
