"""Local jobs with real processes: all of a job is found and ended, and nothing else."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobs.cluster.processes import wait_until
from trialfleet.sweep.fleets import local as local_launcher
from trialfleet.sweep.fleets import local_processes
from trialfleet.sweep.fleets.base import Busy, MaybeSubmitted
from trialfleet.sweep.fleets.local import LocalFleet
from trialfleet.sweep.fleets.local_processes import MARKER, Member
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.process import Process
from trialfleet.trial.submission import JobRef

# Unlike those of other tests, which run at the same time: jobs are known by it on the whole machine.
ONE = uuid4().hex
PARAMS = {"nodes": 1, "tasks_per_node": 1, "timeout_min": 10, "gpus_per_node": None, "stderr_to_stdout": False}
# A worker that writes down who belongs to its job, in a file beside its submission, and lives on.
WORKER = """\
import json, os, signal, subprocess, sys, time

def child(code, **how):
    code = f"import signal, time; {code}print(flush=True); time.sleep(600)"
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **how)
    started.stdout.read(1)
    return started.pid

deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
people = {
    "controller": os.getppid(),
    "worker": os.getpid(),
    "child": child(""),
    "deaf": child(deaf),
    "away": child("", start_new_session=True),
    "deaf and away": child(deaf, start_new_session=True),
    "without environment": child("", env={}),
}
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(people, file)
os.rename(sys.argv[1] + ".new", sys.argv[1] + ".people")
time.sleep(600)
"""


class Jobs:
    """Submits jobs whose worker is WORKER, and knows who belongs to them."""

    def __init__(self, folder: Path) -> None:
        self.submissions = folder / ".submitit"
        self.submissions.mkdir()
        self.fleet = LocalFleet(PARAMS, {"PYTHONPATH": str(folder)})
        self.people: list[Process] = []
        (folder / "long_worker.py").write_text(WORKER)

    def start(self, uuid: str) -> tuple[JobRef, dict[str, Process]]:
        """A job, and its processes by their part in it."""
        (job,) = self.fleet.submit(self.submissions / uuid, uuid, 1)
        people = self.submissions / f"{uuid}.people"
        assert wait_until(people.exists, 60)
        known = {part: Process.of(pid) for part, pid in json.loads(people.read_text()).items()}
        self.people += known.values()
        return job, known


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """Local jobs, of which nothing is left after the test."""
    monkeypatch.setattr(local_launcher, "WORKER", "long_worker")
    made = Jobs(tmp_path)
    yield made
    for process in made.people:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    for child in made.fleet._children:
        child.wait()


def alive(people: dict[str, Process]) -> set[str]:
    return {part for part, process in people.items() if process.is_alive()}


def ended(fleet: LocalFleet, people: dict[str, Process], but: Collection[str] = ()) -> None:
    """Wait until only those in `but` are left, at most."""

    def only_those() -> bool:
        fleet.refresh()  # reaps the controller
        return alive(people) <= set(but)

    assert wait_until(only_those, 60)


# ---------------------------------------------------------------- ending a job


def test_all_of_a_job_is_asked_to_end_first_and_killed_the_second_time(jobs: Jobs) -> None:
    job, people = jobs.start(ONE)
    other, others = jobs.start(f"{ONE}-two")
    jobs.fleet.cancel([job])
    ended(jobs.fleet, people, but={"deaf", "deaf and away"})
    assert alive(people) == {"deaf", "deaf and away"}
    assert jobs.fleet.phase(job) is JobState.OVER
    assert jobs.fleet.lives(job)
    jobs.fleet.cancel([job])
    ended(jobs.fleet, people)
    jobs.fleet.refresh()
    assert not jobs.fleet.lives(job)
    assert alive(others) == set(others)
    assert jobs.fleet.lives(other)


@pytest.mark.parametrize("part", ["controller", "worker"])
def test_what_a_job_leaves_behind_is_found_and_cleared(jobs: Jobs, part: str) -> None:
    """Whichever of the job's processes it is known by; the worker is what a driver adopts from a claim."""
    _, people = jobs.start(ONE)
    known = JobRef("local", str(people[part].pid), people[part].to_json(), f"{ONE}.0")
    for gone in ("controller", "worker"):
        os.kill(people[gone].pid, signal.SIGKILL)
    left = set(people) - {"controller", "worker"}
    ended(jobs.fleet, people, but=left)
    assert alive(people) == left
    newcomer = LocalFleet(None, {})
    assert newcomer.phase(known) is JobState.OVER
    assert newcomer.lives(known)
    newcomer.clear(known)
    # Of a worker that is gone for good nobody can tell in whose session it was: there the marker is all there is.
    ended(jobs.fleet, people, but={"without environment"} if part == "worker" else ())


def test_a_job_of_a_worker_is_its_whole_session(jobs: Jobs) -> None:
    """Of an earlier version, whose jobs had no marker."""
    _, people = jobs.start(ONE)
    known = JobRef("local", str(people["worker"].pid), people["worker"].to_json())
    jobs.fleet.cancel([known])
    ended(jobs.fleet, people, but={"away", "deaf", "deaf and away"})
    assert alive(people) == {"away", "deaf", "deaf and away"}


def test_a_job_whose_leader_runs_is_not_cleared(jobs: Jobs) -> None:
    job, people = jobs.start(ONE)
    jobs.fleet.clear(job)
    assert alive(people) == set(people)


@pytest.mark.parametrize("other", [{"start_time": 1}, {"boot_id": "an earlier boot"}, {"host": "elsewhere"}])
def test_another_process_with_the_same_number_is_left_alone(jobs: Jobs, other: dict[str, Any]) -> None:
    job, people = jobs.start(ONE)
    assert job.process is not None
    stranger = JobRef("local", job.id, {**job.process, **other}, "another.0")
    assert not jobs.fleet.lives(stranger)
    jobs.fleet.cancel([stranger])
    jobs.fleet.cancel([stranger])
    assert alive(people) == set(people)


def test_our_own_session_is_no_jobs() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        record = Process.of(child.pid).to_json()
        assert not LocalFleet(None, {}).lives(JobRef("local", str(child.pid), record))
        child.kill()


def test_processes_are_looked_for_once_in_a_refresh_and_only_if_somebody_asks(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []

    def look() -> list[Member]:
        looks.append(None)
        return []

    monkeypatch.setattr(local_processes, "ours", look)
    refs = [JobRef("local", str(number), None, f"{ONE}.{number}") for number in range(3)]
    for _ in range(2):
        jobs.fleet.refresh()
    assert not looks
    for _ in range(2):
        jobs.fleet.refresh()
        assert not any(jobs.fleet.lives(job) for job in refs)
    assert len(looks) == 2


# ---------------------------------------------------------------- starting and finding one


@pytest.mark.parametrize(("asked", "seen"), [(None, "3,5"), (0, ""), (2, "0,1")])
def test_a_job_sees_the_gpus_that_it_asks_for_and_else_those_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    setup = [f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/seen", "exit 0"]
    fleet = LocalFleet({**PARAMS, "gpus_per_node": asked, "setup": setup}, {})
    fleet.submit(tmp_path / "one.json", uuid4().hex, 1)
    assert [child.wait() for child in fleet._children] == [0]
    assert (tmp_path / "seen").read_text() == f"{seen}\n"


def test_a_job_that_ends_at_once_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is a zombie before anybody has asked who it is."""
    start = subprocess.Popen

    def ended_already(*args: Any, **named: Any) -> "subprocess.Popen[bytes]":
        child = start(*args, **named)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return child

    monkeypatch.setattr(subprocess, "Popen", ended_already)
    fleet = LocalFleet({**PARAMS, "setup": ["exit 3"]}, {})
    # Not ONE: of another test's jobs something may live on for a moment.
    (job,) = fleet.submit(tmp_path / "one.json", uuid4().hex, 1)
    assert fleet.phase(job) is JobState.OVER
    fleet.refresh()
    assert fleet.phase(job) is JobState.OVER
    assert not fleet.lives(job)


def test_each_element_has_a_marker_of_its_own(jobs: Jobs) -> None:
    job, people = jobs.start(ONE)
    assert job.marker == f"{ONE}.0"
    environment = Path(f"/proc/{people['worker'].pid}/environ").read_bytes().split(b"\0")
    assert f"{MARKER}={ONE}.0".encode() in environment


def test_a_job_is_found_by_its_submission_whatever_is_left_of_it(jobs: Jobs) -> None:
    job, people = jobs.start(ONE)
    assert jobs.fleet.find(ONE, 0) == job
    assert jobs.fleet.find(ONE, 1) is None
    assert jobs.fleet.find("on", 0) is None
    os.kill(people["controller"].pid, signal.SIGKILL)
    ended(jobs.fleet, people, but=set(people) - {"controller"})
    found = jobs.fleet.find(ONE, 0)
    assert found is not None
    assert found.marker == f"{ONE}.0"
    assert found.process is not None
    assert Process.from_json(found.process) in people.values()


def test_processes_that_vanish_while_they_are_looked_at_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may end between any two looks, and not show their environment."""
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / "4194305", self / "self"]))
    assert local_processes.ours() == []
    gone = Member(4194305, 4194305, 1, f"{ONE}.0")
    monkeypatch.setattr(local_processes, "ours", lambda: [gone])
    fleet = LocalFleet(None, {})
    assert fleet.find(ONE, 0) is None
    for _ in range(2):
        fleet.cancel([JobRef("local", "4194305", None, f"{ONE}.0")])


def test_a_machine_that_starts_no_more_processes_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And if it started some of a submission, it may have been submitted: they are found."""
    left = [1]

    def start(self: LocalFleet, submission: Path, uuid: str, element: int) -> JobRef:
        if not left:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return JobRef("local", str(left.pop()))

    monkeypatch.setattr(LocalFleet, "_start", start)
    fleet = LocalFleet(PARAMS, {})
    with pytest.raises(MaybeSubmitted):
        fleet.submit(tmp_path / "one.json", ONE, 2)
    with pytest.raises(Busy) as busy:
        fleet.submit(tmp_path / "one.json", ONE, 2)
    assert not busy.value.limit


def test_there_is_no_memory_to_ask_for() -> None:
    assert LocalFleet({**PARAMS, "mem_gb": 4}, {}).memory_gb() is None
