"""Which studies meet which classes of faults, where they run and where they are stored: from a seed."""

import importlib.util
import itertools
import os
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import machine, slurm
from benchmarks.faults.series import TASKS, Series

EACH = 5  # faults that a study meets
TRIALS = 12  # of a study whose trials bring a fault each
ON_SLURM = {slurm.CLASS, slurm.ANSWERS}
HERE = {machine.DISK}  # only local jobs meet these in full
TURNS = 10_000  # series that are looked at, whether they can be here or not
SHARE = 0.3  # of the classes that can be anywhere: on Slurm


def able() -> frozenset[str]:
    """What this machine can give: "slurm", "postgres", "tmpfs"."""
    root = os.geteuid() == 0
    found = {
        "slurm": root and Path("/usr/sbin/slurmctld").exists(),
        "postgres": root and Path("/usr/lib/postgresql").is_dir() and importlib.util.find_spec("psycopg") is not None,
        "tmpfs": root,
    }
    return frozenset(name for name, there in found.items() if there)


def planned(faults: int, seed: int, classes: Sequence[str], on: str | None, able: frozenset[str]) -> list[Series]:
    """Series of all classes in turn, until they have so many faults.

    Args:
        on: "local" or "slurm" to have no others.
    """
    chance = random.Random(seed)
    found: list[Series] = []
    for kind in itertools.islice(itertools.cycle(classes), TURNS):
        place = _place(kind, chance.random())
        backend = chance.choice(["journal", "journal", "sqlite", *(["postgres"] if "postgres" in able else [])])
        tmpfs = chance.random() < 0.5 and kind == machine.DISK and "tmpfs" in able
        if (place == "slurm" and "slurm" not in able) or on not in (None, place):
            continue
        found.append(Series(len(found), kind, backend, place, TRIALS if kind == TASKS else EACH, tmpfs))
        if sum(one.faults for one in found) >= faults:
            break
    return found


def _place(kind: str, drawn: float) -> str:
    if kind in ON_SLURM:
        return "slurm"
    return "local" if kind in HERE or drawn > SHARE else "slurm"
