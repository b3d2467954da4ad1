"""Every fleet of this machine does what every fleet must; the one of a real Slurm is among the cluster's tests."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from jobs.cluster.processes import wait_until
from tests.sweep.builder import Cluster, Job
from tests.sweep.fake_slurm import FakeSlurm
from tests.sweep.fleets.conformance import (
    FleetConformance,
    FollowedConformance,
    FollowedWorld,
    WaitingWorkers,
    World,
)
from trialfleet.sweep.fleets import local
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.fleets.blocking import BlockingFleet
from trialfleet.sweep.fleets.local import LocalFleet
from trialfleet.sweep.fleets.simulated import SimulatedFleet
from trialfleet.trial.submission import JobRef


class Simulated(FollowedWorld):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.simulated = SimulatedFleet(length=lambda params: 1e9)
        self.fleet = self.simulated

    def newcomer(self) -> Fleet:
        return self.simulated  # its clock and jobs are the world's

    def pass_time(self) -> None:
        self.simulated.sleep(1.0)

    def finish(self, uuid: str, index: int, job: JobRef) -> None:
        self.simulated.pass_over(job)


class TestSimulated(FollowedConformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> FollowedWorld:
        return Simulated(tmp_path / "study")


class FakedSlurm(FollowedWorld):
    """The fleet is the real one; Slurm's commands are fakes."""

    def __init__(self, slurm: FakeSlurm) -> None:
        super().__init__(slurm.submissions.parent)
        self._slurm, self._finished = slurm, set[str]()
        self._cluster = Cluster(slurm, life=self._life)
        self.fleet = slurm.fleet()

    def _life(self, job: Job) -> str:
        return "COMPLETED" if job.id in self._finished else "RUNNING"

    def submit(self, count: int) -> tuple[str, list[JobRef]]:
        submitted = super().submit(count)
        self.pass_time()  # squeue shows what sbatch took
        return submitted

    def newcomer(self) -> Fleet:
        return self._slurm.fleet()

    def pass_time(self) -> None:
        self._cluster.live(1.0)

    def finish(self, uuid: str, index: int, job: JobRef) -> None:
        self._finished.add(job.id)


class TestFakedSlurm(FollowedConformance):
    @pytest.fixture
    def world(self, slurm: FakeSlurm) -> FollowedWorld:
        return FakedSlurm(slurm)


class Local(WaitingWorkers):
    def __init__(self, folder: Path, imports: Sequence[str] | None = None) -> None:
        super().__init__(folder)
        params = {"nodes": 1, "tasks_per_node": 1, "timeout_min": 10, "gpus_per_node": None, "stderr_to_stdout": False}
        self.started = LocalFleet(params, {"PYTHONPATH": str(folder)}, imports)
        self.fleet = self.started

    def newcomer(self) -> Fleet:
        self.started.refresh()  # a child that has ended is there until its parent looks
        return _Reaping(self.started)


class _Reaping(LocalFleet):
    """Another driver's fleet. The jobs are children of this process, which has to take note of their end."""

    def __init__(self, parent: LocalFleet) -> None:
        super().__init__(None, {})
        self._parent = parent

    def refresh(self) -> bool:
        self._parent.refresh()
        return super().refresh()


class TestLocal(FollowedConformance):
    def made(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
        return Local(folder)

    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FollowedWorld]:
        monkeypatch.setattr(local, "WORKER", WaitingWorkers.MODULE)
        world = self.made(tmp_path / "study", monkeypatch)
        submit, jobs = world.fleet.submit, list[JobRef]()

        def submitted(*given: Any) -> list[JobRef]:
            jobs.extend(new := submit(*given))
            return new

        monkeypatch.setattr(world.fleet, "submit", submitted)
        yield world
        for _ in range(2):
            world.fleet.cancel(jobs)
        for child in world.started._children:
            child.wait()
        if world.started._forking is not None:
            world.started._forking.close()


class TestForked(TestLocal):
    """The same of jobs that a process forks which has their imports."""

    def made(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
        steady = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        monkeypatch.setattr(local, "outside_of_jobs", lambda: steady)
        made = Local(folder, ())
        forking = made.started._forking
        assert forking is not None
        of = {**steady, "PYTHONPATH": str(folder)}, os.getcwd()  # noqa: PTH109
        assert wait_until(lambda: forking._is_ready(of), 60)
        return made

    def test_they_are_forked(self, world: FollowedWorld) -> None:
        world.submit(2)
        assert isinstance(world.fleet, LocalFleet)
        assert not world.fleet._children


class AtOnce:
    """A launcher that blocks, as Hydra's basic one does: each job returns its number."""

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        returns = []
        for _ in overrides:
            returns.append(JobReturn(status=JobStatus.COMPLETED))
            returns[-1].return_value = 1.0
        return returns


class Blocking(World):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fleet = self.newcomer()

    def newcomer(self) -> Fleet:
        launcher: Any = AtOnce()
        return BlockingFleet(launcher)


class TestBlocking(FleetConformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return Blocking(tmp_path / "study")
