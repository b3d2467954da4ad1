"""The machine: cores, memory, and the room for studies."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from trialfleet.doctor.asked import Asked
from trialfleet.doctor.findings import Finding, fail, note, ok
from trialfleet.tracking.destination import on_network_file_system

GIB = 2**30
_LITTLE_MEMORY = 1 * GIB
_LITTLE_SHARED = 256 * 2**20  # containers have 64 MiB unless they are told otherwise
_LITTLE_DISK = 5 * GIB
_NO_DISK = 100 * 2**20
_SHARED = Path("/dev/shm")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine() -> Iterator[Finding]:
    """Cores and memory, as far as this process may use them."""
    memory = psutil.virtual_memory()
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    limit = _memory_limit()
    limited = f", this process's limit is {limit / GIB:.1f} GiB" if limit is not None and limit < memory.total else ""
    found = f"{cores}, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory available{limited}"
    if memory.available < _LITTLE_MEMORY:
        yield note(
            "host", found, "end what takes it, or start the driver elsewhere: it needs some 300 MB, local trials more"
        )
    else:
        yield ok("host", found)


def shared_memory() -> Iterator[Finding]:
    """/dev/shm, through which the workers of data loaders and of NCCL speak."""
    if not _SHARED.is_dir():
        yield note("shm", f"there is no {_SHARED}", "nothing, unless trials load data in several processes")
        return
    usage = shutil.disk_usage(_SHARED)
    found = f"{_SHARED}: {usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free"
    if usage.free < _LITTLE_SHARED:
        yield note(
            "shm", found, "if trials load data in several processes, start the container with --shm-size=1g or more"
        )
    else:
        yield ok("shm", found)


def disk(asked: Asked) -> Iterator[Finding]:
    """Room where studies lie."""
    usage = shutil.disk_usage(asked.place)
    kind = "a network file system" if on_network_file_system(asked.place) else "a local file system"
    files = os.statvfs(asked.place)
    found = f"{asked.folder}: {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free, {kind}"
    fix = "make room there, or choose another folder with hydra.sweep.dir"
    if usage.free < _NO_DISK or (files.f_files > 0 and files.f_favail == 0):
        yield fail("disk", found if files.f_favail or not files.f_files else f"{found}, and no inode is free", fix)
    elif usage.free < _LITTLE_DISK:
        yield note("disk", found, f"checkpoints fill disks: {fix}, or lower hydra.sweeper.keep_checkpoints")
    else:
        yield ok("disk", found)


def _memory_limit() -> int | None:
    """Of a container or a job, in bytes."""
    for path in _LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None
    return None
