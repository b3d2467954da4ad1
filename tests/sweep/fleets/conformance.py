"""What every fleet must do. A test class for a fleet inherits `FleetConformance` and gives it a `world`.

A launcher whose jobs are followed inherits `FollowedConformance` as well: its world can hold jobs and end them.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import pytest

from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.directory import trial_dir
from trialfleet.trial.submission import Assignment, JobRef, Submission, TrialRecord

STUDY = "0123456789abcdef"


class World(ABC):
    """A fleet, and what its jobs do.

    Args:
        folder: of the study.
    """

    fleet: Fleet

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submissions = folder / ".submitit"
        self.submissions.mkdir(parents=True, exist_ok=True)
        self._trials = 0

    def submit(self, count: int) -> tuple[str, list[JobRef]]:
        """Submit that many new trials at once.

        Returns:
            the submission's uuid, and its jobs.
        """
        uuid, numbers = uuid4().hex, range(self._trials, self._trials + count)
        self._trials += count
        records = [TrialRecord(number, [f"x={number}"], {"x": float(number)}, {}, STUDY) for number in numbers]
        for record in records:
            record.write(trial_dir(self.folder, record.number).trial_json)
        trials = [
            Assignment(one.number, 1, str(trial_dir(self.folder, one.number).path), one.identity.params, one.overrides)
            for one in records
            if one.identity.params is not None
        ]
        payload = str(self.folder / "payload.pkl")
        path = self.submissions / f"{uuid}.json"
        Submission(uuid, payload, str(self.folder), STUDY, 1, 0.0, trials).write(path)
        return uuid, self.fleet.submit(path, uuid, count)

    @abstractmethod
    def newcomer(self) -> Fleet:
        """The same launcher as another driver finds it."""

    def pass_time(self) -> None:
        """Let jobs live on for a while."""
        time.sleep(0.1)

    def until(self, true: Callable[[], bool], fleet: Fleet | None = None, seconds: float = 90.0) -> bool:
        """Whether it becomes true while jobs live on and the fleet is asked."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            (fleet or self.fleet).refresh()
            if true():
                return True
            self.pass_time()
        return False


def read_again(job: JobRef) -> JobRef:
    """A job as the next driver reads it from trial.json."""
    return JobRef(**asdict(job))


class FollowedWorld(World):
    """A world whose jobs go on until it lets them end."""

    @abstractmethod
    def finish(self, uuid: str, index: int, job: JobRef) -> None:
        """Let a job end by itself."""


class FleetConformance:
    """What every fleet must do, be its jobs followed or waited for."""

    def test_each_element_of_a_submission_is_a_job_of_its_own(self, world: World) -> None:
        _, jobs = world.submit(3)
        assert len({(job.launcher, job.id) for job in jobs}) == 3
        assert len({job.launcher for job in jobs}) == 1

    def test_what_is_asked_of_a_job_has_an_answer(self, world: World) -> None:
        _, (job,) = world.submit(1)
        assert world.fleet.refresh()
        assert isinstance(world.fleet.phase(job), JobState)
        assert isinstance(world.fleet.why(job), str)
        assert isinstance(world.fleet.node(job), str)
        assert not world.fleet.timed_out(job)
        assert not world.fleet.out_of_memory(job)
        assert not world.fleet.cancelled(job)
        assert world.fleet.limit > 0
        asked = world.fleet.memory_gb()
        assert asked is None or world.fleet.memory_gb(2.0) == pytest.approx(2 * asked)

    def test_orders_about_nothing_are_harmless(self, world: World) -> None:
        _, (job,) = world.submit(1)
        world.fleet.cancel([])
        world.fleet.exclude("a-node-of-nobody")
        assert world.fleet.find("a submission of nobody", 0) is None
        world.newcomer().cancel([])
        assert world.fleet.phase(job) is not JobState.ENDING

    def test_a_job_that_is_over_may_be_cancelled_and_cleared(self, world: World) -> None:
        uuid, (job,) = world.submit(1)
        if isinstance(world, FollowedWorld):
            world.finish(uuid, 0, job)
        assert world.until(lambda: world.fleet.phase(job) is JobState.OVER)
        assert world.until(lambda: not world.fleet.lives(job))
        for _ in range(2):
            world.fleet.cancel([job])
            world.fleet.clear(job)
        world.fleet.refresh()
        assert world.fleet.phase(job) is JobState.OVER


class FollowedConformance(FleetConformance):
    """What every fleet must do whose jobs go on while the driver does something else."""

    def test_a_job_is_in_line_or_runs_until_it_ends(self, world: FollowedWorld) -> None:
        uuid, jobs = world.submit(2)
        world.fleet.refresh()
        assert {world.fleet.phase(job) for job in jobs} <= {JobState.PENDING, JobState.RUNNING}
        assert all(world.fleet.lives(job) for job in jobs)
        assert world.until(lambda: {world.fleet.phase(job) for job in jobs} == {JobState.RUNNING})
        world.finish(uuid, 1, jobs[1])
        assert world.until(lambda: world.fleet.phase(jobs[1]) is JobState.OVER)
        assert world.fleet.phase(jobs[0]) is JobState.RUNNING
        assert world.until(lambda: not world.fleet.lives(jobs[1]))
        assert world.fleet.lives(jobs[0])

    def test_a_job_is_found_by_its_submission(self, world: FollowedWorld) -> None:
        uuid, jobs = world.submit(2)
        assert world.until(lambda: all(world.fleet.find(uuid, index) for index in range(2)))
        for index, job in enumerate(jobs):
            found = world.fleet.find(uuid, index)
            assert found is not None
            assert (found.launcher, found.id) == (job.launcher, job.id)
        assert world.fleet.find(uuid, 2) is None

    def test_another_driver_follows_the_jobs(self, world: FollowedWorld) -> None:
        uuid, jobs = world.submit(2)
        assert world.until(lambda: {world.fleet.phase(job) for job in jobs} == {JobState.RUNNING})
        newcomer, jobs = world.newcomer(), [read_again(job) for job in jobs]
        assert world.until(lambda: {newcomer.phase(job) for job in jobs} == {JobState.RUNNING}, newcomer)
        assert all(newcomer.lives(job) for job in jobs)
        world.finish(uuid, 0, jobs[0])
        assert world.until(lambda: newcomer.phase(jobs[0]) is JobState.OVER, newcomer)
        newcomer.cancel([jobs[1]])
        assert world.until(lambda: newcomer.phase(jobs[1]) is JobState.OVER, newcomer)

    def test_a_job_that_is_cancelled_ends_and_no_other(self, world: FollowedWorld) -> None:
        _, (job, other) = world.submit(2)
        assert world.until(lambda: world.fleet.phase(other) is JobState.RUNNING)
        world.fleet.cancel([job])
        world.fleet.cancel([job])
        assert world.until(lambda: world.fleet.phase(job) is JobState.OVER)
        assert world.until(lambda: not world.fleet.lives(job))
        assert world.fleet.phase(other) is JobState.RUNNING
        assert not world.fleet.cancelled(job)  # from outside
        world.fleet.cancel([other])
        assert world.until(lambda: not world.fleet.lives(other))


# A worker that lives on until a file beside its submission says that its element is to end.
WAITING_WORKER = """\
import os, sys, time
element = os.environ.get("TRIALFLEET_ELEMENT") or os.environ.get("SLURM_ARRAY_TASK_ID", "0")
while not os.path.exists(f"{sys.argv[1]}.{element}.end"):
    time.sleep(0.05)
"""


class WaitingWorkers(FollowedWorld):
    """A world whose jobs are processes, each of which waits for a file that `finish` makes."""

    MODULE = "waiting_worker"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / f"{self.MODULE}.py").write_text(WAITING_WORKER)

    def finish(self, uuid: str, index: int, job: JobRef) -> None:
        (self.submissions / f"{uuid}.json.{index}.end").touch()
