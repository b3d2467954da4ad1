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
    """A process of ours, as found in /proc.

    Attributes:
        marker: of its job, if it is one's.
        mute: its environment was emptied, or cannot be read.
    """

    pid: int
    session: int
    start_time: int
    marker: str | None
    mute: bool = False

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
                environment = _environment(pid)
                members.append(Member(pid, stat.session, stat.start_time, _marker(environment), not environment))
    return members


def of_job(job: JobRef, members: Sequence[Member]) -> list[Member]:
    """Those of `members` that belong to a job."""
    session, since = _session(job)
    known = (
        job.process is not None and Process.from_json(job.process).is_alive()
    )  # then the session is surely the job's
    return [
        member
        for member in members
        if _carries(member, job) or (member.session == session and _fits(member, job, since, known))
    ]


def _carries(member: Member, job: JobRef) -> bool:
    return member.marker is not None and member.marker == job.marker


def _fits(member: Member, job: JobRef, since: int, known: bool) -> bool:
    """Whether a process in a session of the job's number is the job's, though it does not carry its marker.

    So are those whose environment was changed, and all of a job of an earlier version, which has no marker. But a
    number is given again: once its leader is gone, who shows an environment without the marker is a stranger.
    """
    anothers = job.marker is not None and member.marker is not None
    return member.start_time >= since and not anothers and (known or member.mute or job.marker is None)


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


def _environment(pid: int) -> bytes:
    """What a process shows of its environment; nothing if it does not."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0")
    except OSError:
        return b""


def _marker(environment: bytes) -> str | None:
    """The job whose environment it is; None if it is none's."""
    for entry in environment.split(b"\0"):
        if entry.startswith(f"{MARKER}=".encode()):
            return os.fsdecode(entry.partition(b"=")[2])
    return None
