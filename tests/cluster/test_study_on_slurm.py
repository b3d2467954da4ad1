"""Studies whose trials are real Slurm jobs, with all that can fail failing: driver, jobs, nodes, controller."""

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.cluster.processes import wait_until
from tests.tasks.studies import NewStudy, Study

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

N = "hydra.sweeper.n_trials="
LONG = ("steps=60", "seconds=0.1")  # six seconds: long enough to do something to it
SWEEP_SCRIPT = Path(__file__).parents[2] / "jobs" / "sweep.sbatch"


def base(job: str) -> str:
    """The id by which commands that take no element know the job."""
    return job.partition("_")[0]


def node_of(cluster: Cluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%N").stdout.strip()


def job_of(study: Study, number: int) -> str:
    job = study.job(number)
    assert job is not None, study.report()
    return job


def saved_twice(study: Study, number: int = 0) -> bool:
    return len(study.saved(number)) >= 2


# -------------------------------------------------------------------- a study as it should be


def test_a_study_runs_to_its_end_its_first_jobs_as_an_array(new_study: NewStudy) -> None:
    study = new_study(f"{N}3")
    study.run()
    study.check(3)
    assert study.undisturbed_by_restarts()
    jobs = [job_of(study, number) for number in range(3)]
    assert re.fullmatch(r"\d+_0 \d+_1 \d+", " ".join(jobs)), jobs
    assert base(jobs[0]) == base(jobs[1])
    assert "is finished: 3 of 3" in study.run()


@pytest.mark.slow
def test_array_parallelism_limits_the_jobs_in_flight(new_study: NewStudy) -> None:
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3", "hydra.launcher.array_parallelism=1")
    study.run()
    study.check(3)
    ends = [study.trial(number).result_json.stat().st_mtime for number in range(3)]
    starts = [(study.trial(number).run_dir("1.0") / "claim").stat().st_mtime for number in range(3)]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def test_a_job_step_runs_the_trial(new_study: NewStudy) -> None:
    study = new_study(f"{N}1", "hydra.launcher.use_srun=true", "hydra.launcher.srun_args=['--kill-on-bad-exit=1']")
    study.run()
    study.check(1)


def test_pruned_jobs_end_soon_after_their_verdict(new_study: NewStudy) -> None:
    points = "hydra.sweeper.enqueue=[{x:1.5,y:0.1},{x:0.1,y:0.1},{x:0.11,y:0.1}]"
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=1", "steps=40", "seconds=0.1", *pruner, points)
    study.run()
    assert [trial.state.name for trial in study.stored()] == ["COMPLETE", "PRUNED", "PRUNED"]
    for number in (1, 2):
        assert study.steps(number, "1.0")[-1] < 40


def test_jobs_that_end_before_the_trial_begins_fail_it_with_their_log(new_study: NewStudy) -> None:
    setup = "hydra.launcher.setup=['echo no such module >&2; exit 1']"
    study = new_study(f"{N}1", "hydra.sweeper.max_failure_rate=1.0", setup)
    assert "3 jobs in a row ended before the trial began" in study.run()
    result = study.trial(0).result()
    assert result is not None
    assert result.error is not None
    assert "no such module" in result.error["traceback"]


def test_a_job_that_can_never_start_is_shown_with_slurms_reason(new_study: NewStudy) -> None:
    study = new_study(f"{N}1", "hydra.launcher.partition=short", "hydra.launcher.timeout_min=30")
    driver = study.start()
    study.wait_for(lambda: "PartitionTimeLimit" in study.said(), driver)
    assert f"trial 0 waits: Slurm says of job {study.job(0)}: PENDING: PartitionTimeLimit" in study.said()


# -------------------------------------------------------------------- the driver dies


@pytest.mark.slow
def test_a_driver_killed_at_any_moment_is_taken_up_again(new_study: NewStudy) -> None:
    chance = random.Random(0)
    study = new_study(f"{N}5", "hydra.sweeper.n_jobs=3")
    for _ in range(4):
        driver = study.start()
        time.sleep(chance.uniform(1.0, 5.0))
        driver.kill()
        driver.wait()
    study.run()
    study.check(5)
    assert study.undisturbed_by_restarts()


@pytest.mark.slow
def test_running_jobs_are_adopted_not_restarted(new_study: NewStudy) -> None:
    study = new_study(f"{N}2", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 2, driver)
    jobs = [study.job(number) for number in (0, 1)]
    driver.kill()
    driver.wait()
    study.run()
    study.check(2, steps=60)
    assert study.undisturbed_by_restarts()
    assert [study.job(number) for number in (0, 1)] == jobs


@pytest.mark.slow
def test_another_launcher_goes_on_where_the_study_stands(new_study: NewStudy) -> None:
    study = new_study(*LONG)
    driver = study.start(f"{N}3")
    study.wait_for(lambda: len(study.running()) == 2, driver)
    driver.kill()
    driver.wait()
    study.overrides = LONG
    study.run(f"{N}3", "hydra/launcher=submitit_local")
    study.check(3, steps=60)
    assert study.undisturbed_by_restarts()
    assert [study.record(number)["job"]["launcher"] for number in range(3)] == ["slurm", "slurm", "local"]


@pytest.mark.slow
def test_the_driver_is_a_job_itself_and_requeued(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}4", *LONG)
    # The script starts the project's own sweep; this Python starts the test's task in its place.
    python = study.place / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -m tests.tasks "$@"\n')
    python.chmod(0o755)
    variables = ",".join(f"{name}={value}" for name, value in study.env.items() if name in ("PATH", "PYTHONPATH"))
    arguments = study.argv()[len(study.command) :]
    where = (f"--chdir={study.place}", "--output=driver.log", "--mem=500", f"--export=ALL,{variables}")
    job = cluster.run("sbatch", "--parsable", *where, str(SWEEP_SCRIPT), *arguments).stdout.strip()
    study.wait_for(study.running)
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for_job(job, "COMPLETED", timeout=120.0)
    study.check(4, steps=60)
    assert study.undisturbed_by_restarts()
    # Trials that the second life started did not take its restart count for theirs.
    assert {claim.restart for number in range(4) for claim in study.trial(number).claims()} == {0}
    assert {study.record(number)["job"]["launcher"] for number in range(4)} == {"slurm"}


# -------------------------------------------------------------------- a job dies


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint_in_another_job(new_study: NewStudy) -> None:
    study = new_study(f"{N}1", *LONG)
    driver = study.start()
    study.wait_for(lambda: saved_twice(study), driver)
    first = study.job(0)
    os.kill(study.worker(0), signal.SIGKILL)
    study.finish(driver)
    study.check(1, steps=60)
    assert study.labels(0) == ["1.0", "2.0"]
    assert study.steps(0, "2.0")[0] >= 5
    assert study.job(0) != first


@pytest.mark.slow
def test_one_job_cancelled_from_outside_is_started_again(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 3 and saved_twice(study), driver)
    cluster.run("scancel", job_of(study, 0))
    study.finish(driver)
    study.check(3, steps=60)
    assert [study.labels(number) for number in range(3)] == [["1.0", "2.0"], ["1.0"], ["1.0"]]


@pytest.mark.slow
def test_many_jobs_cancelled_from_outside_pause_the_study(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}4", "hydra.sweeper.n_jobs=4", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 4, driver)
    cluster.run("scancel", *(job_of(study, number) for number in range(4)))
    study.finish(driver)
    assert "jobs were cancelled from outside: the study pauses" in study.said()
    assert study.states() == {"RUNNING": 4}
    study.run()  # at once, while Slurm still shows them as cancelled
    study.check(4, steps=60)


@pytest.mark.slow
def test_a_requeued_job_goes_on_as_the_next_run_of_its_attempt(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}1", *LONG)
    driver = study.start()
    study.wait_for(lambda: saved_twice(study), driver)
    job = study.job(0)
    cluster.run("scontrol", "requeue", job_of(study, 0))
    study.finish(driver)
    study.check(1, steps=60)
    assert study.labels(0) == ["1.0", "1.1"]
    assert study.steps(0, "1.1")[0] >= 5
    assert study.job(0) == job


@pytest.mark.slow
def test_a_warned_job_saves_and_asks_to_be_requeued(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}1", *LONG, "hydra.launcher.use_srun=true", "save_every=1000")
    driver = study.start()
    study.wait_for(lambda: bool(study.running()) and study.steps(0, "1.0")[-1:] > [5], driver)
    cluster.run("scancel", "--signal=USR2", job_of(study, 0))
    study.finish(driver)
    study.check(1, steps=60)
    assert study.labels(0) == ["1.0", "1.1"]
    # It saved at the step after the signal and at no other: nothing was done twice.
    assert study.steps(0, "1.1")[0] == study.steps(0, "1.0")[-1] + 1


@pytest.mark.slow
def test_a_trial_longer_than_its_jobs_time_limit_completes(cluster: Cluster, new_study: NewStudy) -> None:
    """Slurm itself warns the first run, at its next look at all limits: there is one in 30 s."""
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=55", "hydra.launcher.use_srun=true")
    study = new_study(f"{N}1", *limits, "mode=wait", "steps=20", "save_every=1000")
    driver = study.start()
    study.wait_for(lambda: bool(study.labels(0)) and study.labels(0)[-1] != "1.0", driver)
    # That was the time limit's doing, and nothing else could have ended the first run. One limit is enough for a test.
    cluster.run("scontrol", "update", f"jobid={job_of(study, 0)}", "TimeLimit=10", check=False)
    study.finish(driver)
    study.check(1, steps=20)
    assert {label.partition(".")[0] for label in study.labels(0)} == {"1"}


@pytest.mark.slow
def test_restarts_after_a_time_limit_are_capped_where_asked(cluster: Cluster, new_study: NewStudy) -> None:
    """The warning is the test's, before Slurm's: `test_a_trial_longer_than_its_jobs_time_limit_completes` has that."""
    limits = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=45", "hydra.launcher.use_srun=true")
    endless = ("hydra.launcher.max_num_timeout=1", "mode=hang", "hydra.sweeper.max_failure_rate=1.0")
    study = new_study(f"{N}1", *limits, *endless)
    driver = study.start()
    for label in ("1.0", "1.1"):
        study.wait_for(lambda label=label: study.steps(0, label), driver)
        if study.labels(0)[-1] == label:  # on a machine that is slow enough, Slurm was quicker
            cluster.run("scancel", "--signal=USR2", job_of(study, 0), check=False)
    study.finish(driver)
    assert "2 time limits, more than max_num_timeout=1" in study.said()
    assert study.states() == {"FAIL": 1}


# -------------------------------------------------------------------- nodes and the controller fail


@pytest.mark.slow
def test_a_trial_survives_the_crash_of_its_node(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}2", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 2 and saved_twice(study) and saved_twice(study, 1), driver)
    node = node_of(cluster, job_of(study, 0))
    cluster.crash_node(node)
    study.finish(driver)
    study.check(2, steps=60)
    assert len(study.labels(0)) == 2
    assert study.steps(0, study.labels(0)[-1])[0] >= 5


@pytest.mark.slow
def test_a_run_on_a_lost_node_does_not_commit(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}1", "hydra.sweeper.n_jobs=1", "steps=200", "seconds=0.1")
    driver = study.start()
    study.wait_for(lambda: saved_twice(study), driver)
    node, lost = node_of(cluster, job_of(study, 0)), study.trial(0).claims()[0].process
    cluster.kill_slurmd(node)  # its steps live on
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    study.wait_for(lambda: len(study.labels(0)) == 2, driver)
    assert lost.is_alive(), "the test has to find both runs alive"
    study.finish(driver)
    study.check(1, steps=200)
    result = study.trial(0).result()
    assert result is not None
    assert (study.labels(0), result.run) == (["1.0", "1.1"], "1.1")
    assert wait_until(lambda: not lost.is_alive(), 30.0)
    # Nor did it requeue its job, which is the other run's, too.
    assert cluster.job_states(job_of(study, 0)) == ["COMPLETED"]


@pytest.mark.slow
def test_a_controller_that_is_away_is_waited_for(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}4", *LONG)
    driver = study.start()
    study.wait_for(lambda: len(study.running()) == 2, driver)
    cluster.stop_controller()
    study.wait_for(lambda: "slurm does not answer: its jobs are left as they are" in study.said(), driver)
    time.sleep(10.0)  # squeue gives up by itself after nine
    assert driver.poll() is None, study.report()
    cluster.start_controller()
    study.finish(driver)
    study.check(4, steps=60)
    assert study.undisturbed_by_restarts()


@pytest.mark.slow
def test_a_driver_that_finds_no_controller_waits_for_it(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}1")
    cluster.stop_controller()
    driver = study.start()
    time.sleep(8.0)
    assert driver.poll() is None, study.report()
    cluster.start_controller()
    study.finish(driver)
    study.check(1)
