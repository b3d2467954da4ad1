"""Who a process is, so that it is never mistaken for another: across hosts, reboots and recycled pids."""

import os
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stat:
    """What the kernel says of a process.

    Attributes:
        ended: whether it only waits to be reaped.
        start_time: clock ticks from boot to the process's start.
    """

    ended: bool
    session: int
    start_time: int

    @classmethod
    def read(cls, pid: int) -> "Stat | None":
        """None if no process has this pid."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The command in parentheses may contain anything, so count from the last one.
        fields = stat.rpartition(")")[2].split()
        return cls(fields[0] in "ZX", int(fields[3]), int(fields[19]))


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
        """The process that has this pid on this host now, be it one that has ended and is not reaped yet.

        Raises:
            ProcessLookupError: there is none.
        """
        stat = Stat.read(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(socket.gethostname(), boot_id(), pid, stat.start_time)

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
        if not self.is_here() or self.boot_id != boot_id():
            return False
        stat = Stat.read(self.pid)
        return stat is not None and stat.start_time == self.start_time and not stat.ended


@cache
def boot_id() -> str:
    """The kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
