"""Daemons known by pid and start time, so that a recycled pid is never mistaken for one of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.errors import ClusterError

# The shell tells its pid, then becomes the daemon. `exec` before the program closes the pipe on which
# the pid was told, so whoever reads it to the end knows that the daemon no longer holds it.
_LAUNCH = 'echo $$; exec >>"$0" 2>&1 </dev/null; exec "$@"'


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat says of a live process."""

    pid: int
    name: str
    parent: int
    started: int  # clock ticks since boot: with the pid, a process's identity


def stat(pid: int) -> Stat | None:
    """The process's state, or None if it is gone or a zombie."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = tail.split()
    if fields[0] in "ZX":
        return None
    return Stat(pid, head.partition("(")[2], int(fields[1]), int(fields[19]))


def all_processes() -> list[Stat]:
    """Every process alive on this machine."""
    found = (stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process]


def working_directory(pid: int) -> str:
    """Where the process works; empty if it is gone or not ours to look at."""
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def environment(pid: int) -> set[bytes]:
    """The NAME=value pairs the process was started with; empty if it is gone or not ours to look at."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def with_descendants(pids: Iterable[int], processes: Iterable[Stat]) -> set[int]:
    """The processes, their children, and so on."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    found, todo = set(), list(pids)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process, or with a negative pid a group of them, that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until(test: Callable[[], bool], timeout: float, interval: float = 0.02) -> bool:
    """Whether `test` came true in time."""
    deadline = time.monotonic() + timeout
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


@dataclass(frozen=True)
class Daemon:
    """A program that outlives us, found again by later commands through its record file."""

    name: str
    argv: Sequence[str]
    answers: Callable[[], bool]
    record: Path
    log: Path
    cwd: Path
    env: Mapping[str, str]

    def pid(self) -> int | None:
        """The daemon's pid while it lives."""
        try:
            pid, started = (int(word) for word in self.record.read_text().split())
        except FileNotFoundError:
            return None
        process = stat(pid)
        return pid if process and process.started == started else None

    def start(self, timeout: float = 20.0) -> None:
        """Launch it unless it lives, and wait until it answers."""
        self.launch()
        if not wait_until(lambda: not self.pid() or self.answers(), timeout):
            raise self.failure(f"{self.name} does not answer after {timeout:g} s")
        if not self.pid():
            raise self.failure(f"{self.name} ended right after its start")

    def launch(self) -> None:
        """Launch it unless it lives, without waiting."""
        if self.pid():
            return
        # setsid forks: the daemon is init's child, not ours, and leaves us no zombie. Not the shell's `&`,
        # which would make it and all jobs below it ignore SIGINT.
        command = ["setsid", "--fork", "sh", "-c", _LAUNCH, str(self.log), *self.argv]
        pid = int(subprocess.check_output(command, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL))
        process = stat(pid)
        self.record.write_text(f"{pid} {process.started if process else -1}")

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end, and wait until it has."""
        pid = self.pid()
        if pid:
            send(pid, signal.SIGTERM)
        if not wait_until(lambda: not self.pid(), timeout):
            raise self.failure(f"{self.name} has not ended {timeout:g} s after SIGTERM")
        self.record.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it and its children at once. It leads a process group of its own, for which see `launch`."""
        pid = self.pid()
        if pid:
            send(-pid, signal.SIGKILL)
            wait_until(lambda: not self.pid(), timeout=5.0)
        self.record.unlink(missing_ok=True)

    def failure(self, what: str) -> ClusterError:
        """An error that shows the end of the daemon's log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "".join(f"\n    {line}" for line in lines[-12:])
        return ClusterError(f"{what}; its log is {self.log}, which ends so:{tail or ' (empty)'}")
