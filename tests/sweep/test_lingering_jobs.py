"""Jobs whose trial has ended: they get a grace, and then nothing of them is left."""

import signal
import sys
from pathlib import Path

import psutil
import pytest

from jobs.cluster.processes import wait_until
from tests.sweep.builder import RUNNING, Cluster, Job, build
from tests.sweep.fake_slurm import FakeSlurm
from tests.tasks.studies import NewStudy, Study
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.lingering_jobs import AGAIN_AFTER, MAX_ORDERS, LingeringJobs
from trialfleet.sweep.reconcile import JobState as Phase
from trialfleet.sweep.stopping import Jobs
from trialfleet.trial.submission import JobRef

GRACE = 30.0
JOB = JobRef("slurm", "7")


class Staying(Fleet):
    """Jobs that stay until a moment, whatever they are told."""

    limit = 1

    def __init__(self, until: float) -> None:
        self.until, self.now = until, 0.0
        self.cancelled: list[float] = []

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        raise AssertionError("jobs of ended trials are not submitted again")

    def find(self, uuid: str, index: int) -> JobRef | None:
        raise AssertionError("their jobs are known: nobody looks for them")

    def refresh(self) -> bool:
        return True

    def phase(self, job: JobRef) -> Phase:
        return Phase.RUNNING

    def lives(self, job: JobRef) -> bool:
        return self.now < self.until

    def cancel(self, jobs: list[JobRef]) -> None:  # type: ignore[override]  # all that is asked of it here
        self.cancelled += [self.now] * len(jobs)


@pytest.mark.parametrize(
    ("until", "cancelled"),
    [
        (0.0, []),  # gone with its trial
        (GRACE, []),
        (GRACE + 1, [GRACE]),
        (GRACE + AGAIN_AFTER + 1, [GRACE, GRACE + AGAIN_AFTER]),  # it did not heed the first word
    ],
)
def test_a_job_gets_the_grace_and_is_told_to_go_until_it_does(until: float, cancelled: list[float]) -> None:
    fleet, notices = Staying(until), list[str]()
    leaving = LingeringJobs({"slurm": fleet}, GRACE, notices.append)
    leaving.add(JOB, 3, 0.0)
    assert leaving
    for moment in range(60):
        fleet.now = float(moment)
        leaving.look(fleet.now)
    assert fleet.cancelled == cancelled
    assert not leaving
    assert len(notices) == bool(cancelled)
    words = "jobs still ran 30 s after their trials had ended (hydra.sweeper.grace) and are cancelled: 7 of trial 3"
    assert all(words in notice for notice in notices)


def test_a_job_that_heeds_nobody_is_named_and_left() -> None:
    """An epilog that hangs must not keep a finished study from ending."""
    fleet, notices = Staying(1e9), list[str]()
    lingering = LingeringJobs({"slurm": fleet}, GRACE, notices.append)
    lingering.add(JOB, 3, 0.0)
    for moment in range(200):
        fleet.now = float(moment)
        lingering.look(fleet.now)
    assert not lingering
    assert len(fleet.cancelled) == MAX_ORDERS
    assert "left alone: 7" in notices[-1]


@pytest.mark.parametrize("job", [None, JobRef("blocking", "7")])
def test_who_has_no_job_that_can_be_asked_about_is_not_waited_for(job: JobRef | None) -> None:
    leaving = LingeringJobs({"slurm": Staying(1e9)}, GRACE, lambda message: None)
    leaving.add(job, 3, 0.0)
    assert not leaving
    assert leaving.due() == {}


# ---------------------------------------------------------------- on Slurm


def stays(job: Job) -> str:
    """The life of a job that goes on after its trial's end."""
    if not job.trial.result_json.exists():
        job.claim()
        job.complete()
    return RUNNING


def test_a_slurm_job_that_goes_on_after_its_commit_is_cancelled_once_and_the_study_ends(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm, life=stays)
    driver, heard = build(cluster, n_trials=2, grace=20.0)
    driver.run()
    assert dict(driver.progress.states) == {"COMPLETE": 2}
    assert sorted(cluster.cancelled()) == ["101_0", "101_1"]
    assert [job.state for job in cluster.jobs] == ["CANCELLED"] * 2
    assert len(heard.notices) == 1  # for both
    assert heard.turns > 20
    assert heard.retries == []


def test_a_driver_cancels_what_an_earlier_one_left_and_nothing_that_is_gone(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm, life=stays)
    first, _ = build(cluster, n_trials=1, grace=1e6)

    def sleep(seconds: float) -> None:
        cluster.live(seconds)
        if not first.active_trials:
            first.request_stop("", Jobs.LEAVE)

    first.clock.sleep = sleep
    first.run()
    assert cluster.cancelled() == []
    second, heard = build(cluster, n_trials=1, grace=5.0)
    second.recover()
    second.ended_jobs = [(0, JobRef("slurm", cluster.jobs[0].id)), (8, JobRef("slurm", "99"))]
    second.run()
    assert cluster.cancelled() == [cluster.jobs[0].id]
    assert len(heard.notices) == 1


# ---------------------------------------------------------------- on this machine

TASK = """
import os, signal, sys, time
import hydra
from tests.tasks.descent import task
from trialfleet.config.location import conf_directory

def leaves(cfg):
    value = task(cfg)
    for way in ("stays", "leaves the session"):
        if os.fork() == 0:
            if os.fork() == 0:  # nobody's child: the worker does not know of it
                if way == "leaves the session":
                    os.setsid()
                os.execvp("sleep", ["sleep", "1000003"])
            os._exit(0)
        os.wait()
    return value

if __name__ == "__main__":
    hydra.main(config_path=str(conf_directory()), config_name="descent", version_base="1.3")(leaves)()
"""


def left_of(study: Study) -> list[int]:
    """Processes that the study's tasks left behind and that are alive."""
    everybody = psutil.process_iter(["cmdline", "cwd", "status"])
    sleepers = [process for process in everybody if process.info["cmdline"] == ["sleep", "1000003"]]
    alive = [process for process in sleepers if process.info["status"] != psutil.STATUS_ZOMBIE]
    return [process.pid for process in alive if process.info["cwd"] == str(study.place)]


@pytest.fixture
def leaving_study(new_study: NewStudy, tmp_path: Path) -> Study:
    program = tmp_path / "leaving.py"
    program.write_text(TASK)
    conf = str(Path(__file__).parents[1] / "tasks" / "conf")
    command = (sys.executable, str(program), "--config-dir", conf)
    return new_study("hydra.sweeper.n_trials=1", "steps=2", "seconds=0.01", command=command)


def test_what_tasks_leave_on_this_machine_ends_with_the_study(leaving_study: Study) -> None:
    """What left the job's session, too."""
    said = leaving_study.run("hydra.sweeper.grace=0.5")
    leaving_study.check(1, steps=2)
    assert "s after their trials had ended" in said
    assert wait_until(lambda: left_of(leaving_study) == [], 30)


def test_a_later_driver_ends_what_an_earlier_one_left_on_this_machine(leaving_study: Study) -> None:
    driver = leaving_study.start("hydra.sweeper.grace=1000")
    leaving_study.wait_for(lambda: leaving_study.ended() == [0], driver)
    leaving_study.wait_for(lambda: len(left_of(leaving_study)) == 2, driver)
    driver.send_signal(signal.SIGTERM)
    leaving_study.finish(driver, code=0)  # all of its trials had ended
    assert len(left_of(leaving_study)) == 2
    assert "s after their trials had ended" in leaving_study.run("hydra.sweeper.grace=0.5")
    assert wait_until(lambda: left_of(leaving_study) == [], 30)
    leaving_study.check(1, steps=2)
