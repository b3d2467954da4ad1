"""Machines as a test wants them: commands that say what they are told to, and what a sweep would ask for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.doctor.asked import Asked, ask


class Machine:
    """A folder of programs in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def program(self, name: str, *lines: str) -> Path:
        """A program of these lines of the shell."""
        path = self.folder / name
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return Machine(folder)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that has no programs besides."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Machine(folder)


@pytest.fixture
def slurm(machine: Machine) -> FakeSlurm:
    """A cluster that is well: one partition of two nodes with two GPUs each, and another one without."""
    fake = FakeSlurm(machine.folder)
    machine.program("srun", "exit 1")
    fake.say("scontrol", "Slurmctld(primary) at head is UP", "MaxArraySize = 1001", "AccountingStorageType = (null)")
    partitions(fake, "main* up infinite idle 2 gpu:2", "cpu up 1:00:00 mixed 8 (null)")
    return fake


def partitions(fake: FakeSlurm, *rows: str) -> None:
    """Rows as 'partition up limit state nodes gres', a star behind the default partition."""
    fake.say("sinfo", *(f"trialfleet|{'|'.join(row.split())}|" for row in rows))


AskedFor = Callable[..., Asked]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AskedFor:
    """What overrides of the package's own configs ask for, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "sweeps").mkdir()
    return lambda *overrides, job=False: ask(overrides, None, None, job)
