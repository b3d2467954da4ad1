"""Debian's Slurm packages: whether they are here, and how to get them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time

from jobs.cluster.errors import Unavailable

# Debian keeps daemons where an ordinary user's PATH does not look.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

_PATIENCE = 300.0  # seconds for which another apt-get may work
_LOOK = 1.0  # seconds between two tries

_PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}
_ACCOUNTING_PROGRAMS = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}


def missing_packages(accounting: str = "none") -> list[str]:
    """The Debian packages whose programs are not on this machine."""
    programs = _PROGRAMS | (_ACCOUNTING_PROGRAMS if accounting == "dbd" else {})
    return sorted({package for name, package in programs.items() if not shutil.which(name, path=PATH)})


def unavailable(accounting: str = "none") -> str | None:
    """Why a cluster cannot be had here, or None if it can. Packages that can be installed are no obstacle."""
    if not sys.platform.startswith("linux"):
        return f"Slurm needs Linux, this is {sys.platform}"
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"user id {os.geteuid()} has no name, and Slurm runs as a user by name"
    missing = missing_packages(accounting)
    if missing and not shutil.which("apt-get"):
        return f"Slurm is not installed and this is no Debian (packages: {' '.join(missing)})"
    if missing and os.geteuid() != 0:
        return f"Slurm is not installed and only root can: apt-get install {' '.join(missing)}"
    return None


def install(accounting: str = "none") -> list[str]:
    """Install what is missing; the names of what was. Raises Unavailable with the reason."""
    missing = missing_packages(accounting)
    reason = unavailable(accounting)
    if reason:
        raise Unavailable(reason)
    if missing:
        apt_get("update")
        apt_get("install", "--yes", "--no-install-recommends", *missing)
    return missing


def apt_get(*arguments: str) -> None:
    """Run apt-get; somebody else's, another test process for instance, is waited for.

    Raises:
        Unavailable: it failed, with its last words.
    """
    command = ["apt-get", "--quiet", f"--option=DPkg::Lock::Timeout={_PATIENCE:.0f}", *arguments]
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    until = time.monotonic() + _PATIENCE
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        # the option holds for the lock of packages, not for that of their lists
        if done.returncode == 0 or "Could not get lock" not in done.stderr or time.monotonic() > until:
            break
        time.sleep(_LOOK)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
