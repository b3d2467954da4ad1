"""The processes of local jobs: whoever is in a job's session, and whoever carries its marker in the environment.

A child may leave the session (setsid) and outlive the process that started it; what it inherited stays readable.
"""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trialfleet.trial.process import Process, Stat, boot_id
from trialfleet.trial.submission import JobRef

MARKER = "TRIALFLEET_JOB"  # in the environment of all processes of a job; its value is in JobRef.marker
KILLS = 5  # rounds in which processes that a dying one has just started are looked for


@dataclass(frozen=True)
class Member:
    """A process of ours, as found in /proc; `marker` is that of its job, if it is one's."""

    pid: int
    session: int
    start_time: int
    marker: str | None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        stat = Stat.read(self.pid)
        if stat is not None and stat.start_time == self.start_time:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)


def ours() -> list[Member]:
    """All processes of this user that have not ended, but for this one."""
    own, members = os.geteuid(), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked
            if folder.stat().st_uid != own:
                continue
            pid = int(folder.name)
            stat = Stat.read(pid)
            if stat is not None and not stat.ended:
                members.append(Member(pid, stat.session, stat.start_time, _marker(pid)))
    return members


def of_job(job: JobRef, members: Sequence[Member]) -> list[Member]:
    """Those of `members` that belong to a job."""
    session, since = _session(job)
    return [member for member in members if _carries(member, job) or _in_session(member, job, session, since)]


def _carries(member: Member, job: JobRef) -> bool:
    return member.marker is not None and member.marker == job.marker


def _in_session(member: Member, job: JobRef, session: int | None, since: int) -> bool:
    """For those whose environment was emptied, and for jobs of an earlier version, which have no marker."""
    anothers = job.marker is not None and member.marker is not None
    return member.session == session and member.start_time >= since and not anothers


def kill(job: JobRef) -> None:
    """Kill all of a job, what its processes start meanwhile included."""
    killed: set[Member] = set()
    for _ in range(KILLS):
        found = set(of_job(job, ours())) - killed
        if not found:
            return
        for member in found:
            member.signal(signal.SIGKILL)
        killed |= found


def _session(job: JobRef) -> tuple[int | None, int]:
    """The number of a job's session, None if it cannot be told; and since when it has members, in clock ticks.

    The process that a job is known by leads its session, or is in it (a worker). If it is gone, the session of which it
    was the leader still has its number, which nobody else gets before the last member is gone.
    """
    process = None if job.process is None else Process.from_json(job.process)
    if process is None or not process.is_here() or process.boot_id != boot_id():
        return None, 0
    stat = Stat.read(process.pid)
    if stat is None:
        return process.pid, process.start_time
    if stat.start_time != process.start_time:
        return None, 0  # the number has been given to another
    if stat.session in (0, os.getsid(0)):
        return None, 0  # no session of the job's own: of another container, or ours
    leader = Stat.read(stat.session)
    return stat.session, process.start_time if leader is None else leader.start_time


def _marker(pid: int) -> str | None:
    """The job whose environment a process has. None if it has none, or does not show it."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    for entry in environment.split(b"\0"):
        if entry.startswith(f"{MARKER}=".encode()):
            return os.fsdecode(entry.partition(b"=")[2])
    return None
