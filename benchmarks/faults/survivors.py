"""Processes and jobs that live on after their study is finished, found by the study's path in /proc and in Slurm."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.case import Case, Problem

GONE_WITHIN = 15.0  # seconds after the last command in which everything of the study must have ended


def still_there(case: Case) -> Iterator[Problem]:
    """What has not ended though the study is finished."""
    deadline = time.monotonic() + GONE_WITHIN
    while time.monotonic() < deadline and (processes_of(case.place) or _jobs(case)):
        time.sleep(0.2)
    for pid in processes_of(case.place):
        yield Problem("left running", f"process {pid}: {_words(pid)}")
    for job in _jobs(case):
        yield Problem("left running", f"Slurm job {job}")


def processes_of(place: Path) -> list[int]:
    """The processes that bear the study's path: in their words, their environment, or as their folder."""
    wanted, found = os.fsencode(f"{place}{os.sep}"), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            at = os.fsencode((entry / "cwd").readlink()) + b"/"
            ended = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not ended and (wanted in words or wanted in variables or at.startswith(wanted)):
                found.append(int(entry.name))
    return found


def end_all(root: Path) -> None:
    """Kill what is left of all studies below a folder, where a run was interrupted, and unmount their file systems."""
    for pid in processes_of(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in mounts:
        if mount.startswith(f"{root}{os.sep}"):
            subprocess.run(["umount", "-l", mount], check=False)


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "?"


def _jobs(case: Case) -> list[str]:
    """The study's jobs that Slurm has and that are not over."""
    if case.environment is None:
        return []
    done = subprocess.run(
        ["squeue", "-h", "-o", "%i %T %o"], capture_output=True, text=True, env={**os.environ, **case.environment}
    )
    return [line for line in done.stdout.splitlines() if f"{case.place}{os.sep}" in line]
