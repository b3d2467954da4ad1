"""Studies whose trials are real Slurm jobs, with all that can fail failing: driver, jobs, nodes, controller.

What the faked Slurm of tests/sweep shows, too, is in benchmarks/proofs/test_study_on_slurm.py.
"""

import os
import random
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.cluster.processes import wait_until
from tests.tasks.studies import NewStudy, Study

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

N = "hydra.sweeper.n_trials="
# Each trial saves at steps 2 and 4, and waits at step 5: for what will end its first run, or for the test's word.
WAITING, HELD = "mode=wait", "mode=held"
HALF_WAY = 5
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


def let_go(study: Study) -> None:
    """The test's word to trials that are held."""
    (study.folder / "go").touch()


def all_wait(study: Study, n_trials: int) -> bool:
    """Whether all of so many trials have come to where they wait."""
    return all(waits(study, number) for number in range(n_trials))


def waits(study: Study, number: int) -> bool:
    """Whether a trial has come to where it waits."""
    return study.steps(number, "1.0")[-1:] == [HALF_WAY]


def says_started(study: Study, times: int) -> bool:
    """Whether drivers named so many running trials; each driver names those that it finds."""
    return study.said().count("  started  ") == times


# -------------------------------------------------------------------- a study as it should be


def test_a_study_runs_to_its_end_its_first_jobs_as_an_array(new_study: NewStudy) -> None:
    """As job steps, and no more at a time than the launcher may have."""
    step = ("hydra.launcher.use_srun=true", "hydra.launcher.srun_args=['--kill-on-bad-exit=1']")
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3", "hydra.launcher.array_parallelism=2", *step)
    study.run()
    study.check(3)
    assert study.undisturbed_by_restarts()
    jobs = [job_of(study, number) for number in range(3)]
    assert re.fullmatch(r"\d+_0 \d+_1 \d+", " ".join(jobs)), jobs
    assert base(jobs[0]) == base(jobs[1])
    ends = [study.trial(number).result_json.stat().st_mtime for number in range(2)]
    assert min(ends) < (study.trial(2).run_dir("1.0") / "claim").stat().st_mtime
    assert "is finished: 3 of 3" in study.run()


def test_a_job_takes_trial_after_trial(new_study: NewStudy) -> None:
    study = new_study(f"{N}6", "hydra.sweeper.n_jobs=2", "hydra.sweeper.worker.trials=3")
    study.run()
    study.check(6)
    assert study.undisturbed_by_restarts()
    jobs = [study.trial(number).claims()[0].job for number in range(6)]
    assert sorted(map(jobs.count, set(jobs))) in ([3, 3], [1, 2, 3])
    assert "is finished: 6 of 6" in study.run()


def test_a_job_that_is_requeued_goes_on_with_the_trial_it_was_at(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.worker.minutes=60", WAITING)
    driver = study.start()
    for number in range(2):
        study.wait_for(partial(waits, study, number), driver)
        cluster.run("scontrol", "requeue", job_of(study, number))
    study.finish(driver)
    study.check(2)
    assert [study.labels(number) for number in range(2)] == [["1.0", "1.1"], ["1.0", "1.2"]]
    assert len({claim.job for number in range(2) for claim in study.trial(number).claims()}) == 1


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
    study = new_study(f"{N}4")
    for longest in (1.0, 3.0, 5.0):  # before, while and after it submits
        driver = study.start()
        time.sleep(chance.uniform(0.3, longest))
        driver.kill()
        driver.wait()
    study.run()
    study.check(4)
    assert study.undisturbed_by_restarts()


@pytest.mark.slow
def test_another_launcher_goes_on_where_the_study_stands(new_study: NewStudy) -> None:
    """Jobs that run are adopted, not restarted."""
    study = new_study(HELD)
    driver = study.start(f"{N}3")
    study.wait_for(lambda: all_wait(study, 2), driver)
    jobs = [study.job(number) for number in (0, 1)]
    driver.kill()
    driver.wait()
    study.overrides = (HELD,)
    driver = study.start(f"{N}3", "hydra/launcher=submitit_local")
    study.wait_for(lambda: says_started(study, 4), driver)
    let_go(study)
    study.finish(driver)
    study.check(3)
    assert study.undisturbed_by_restarts()
    assert [study.job(number) for number in (0, 1)] == jobs
    assert [study.record(number)["job"]["launcher"] for number in range(3)] == ["slurm", "slurm", "local"]


@pytest.mark.slow
def test_the_driver_is_a_job_itself_and_requeued(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}3", HELD)
    # The script starts the project's own sweep; this Python starts the test's task in its place.
    python = study.place / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -m tests.tasks "$@"\n')
    python.chmod(0o755)
    variables = ",".join(f"{name}={value}" for name, value in study.env.items() if name in ("PATH", "PYTHONPATH"))
    arguments = study.argv()[len(study.command) :]
    where = (f"--chdir={study.place}", "--output=driver.log", "--mem=500", f"--export=ALL,{variables}")
    job = cluster.run("sbatch", "--parsable", *where, str(SWEEP_SCRIPT), *arguments).stdout.strip()
    study.wait_for(lambda: all_wait(study, 2))
    cluster.run("scontrol", "requeue", job)
    study.wait_for(lambda: says_started(study, 4))
    let_go(study)
    cluster.wait_for_job(job, "COMPLETED", timeout=120.0)
    study.check(3)
    assert study.undisturbed_by_restarts()
    # Trials that the second life started did not take its restart count for theirs.
    assert {claim.restart for number in range(3) for claim in study.trial(number).claims()} == {0}
    assert {study.record(number)["job"]["launcher"] for number in range(3)} == {"slurm"}


# -------------------------------------------------------------------- a job dies


@pytest.mark.slow
def test_jobs_that_are_killed_cancelled_requeued_or_at_their_time_limit_go_on(
    cluster: Cluster, new_study: NewStudy
) -> None:
    """Each trial's second run begins at a checkpoint of its first; a time limit's is made when Slurm warns of it."""
    limits = ("hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=55", "hydra.launcher.use_srun=true")
    study = new_study(f"{N}4", "hydra.sweeper.n_jobs=4", WAITING, *limits)
    driver = study.start()
    study.wait_for(lambda: all_wait(study, 4), driver)
    jobs = [job_of(study, number) for number in range(4)]
    _, cancelled, requeued, limited = jobs
    # Slurm looks at all limits every 30 s. At the next look this job is told.
    cluster.run("scontrol", "update", f"jobid={limited}", "TimeLimit=1")
    os.kill(study.worker(0), signal.SIGKILL)
    cluster.run("scancel", cancelled)
    cluster.run("scontrol", "requeue", requeued)
    study.wait_for(lambda: len(study.labels(3)) > 1, driver)
    cluster.run("scontrol", "update", f"jobid={limited}", "TimeLimit=10", check=False)  # one limit is enough for a test
    study.finish(driver)
    study.check(4)
    assert [study.labels(number) for number in range(4)] == [
        ["1.0", f"{label}"] for label in ("2.0", "2.0", "1.1", "1.1")
    ]
    assert study.steps(0, "2.0")[0] == HALF_WAY
    assert study.steps(1, "2.0")[0] >= HALF_WAY
    assert study.steps(2, "1.1")[0] >= HALF_WAY
    # It saved at the step after the warning: nothing was done twice.
    assert study.steps(3, "1.1")[0] == HALF_WAY + 1
    now = [job_of(study, number) for number in range(4)]
    assert now[0] not in jobs
    assert now[1] not in jobs
    assert now[2:] == [requeued, limited]


@pytest.mark.slow
def test_many_jobs_cancelled_from_outside_pause_the_study(cluster: Cluster, new_study: NewStudy) -> None:
    study = new_study(f"{N}3", "hydra.sweeper.n_jobs=3", WAITING)
    driver = study.start()
    study.wait_for(lambda: all_wait(study, 3), driver)
    cluster.run("scancel", *(job_of(study, number) for number in range(3)))
    study.finish(driver)
    assert "jobs were cancelled from outside: the study pauses" in study.said()
    assert study.states() == {"RUNNING": 3}
    study.run()  # at once, while Slurm still shows them as cancelled
    study.check(3)


# -------------------------------------------------------------------- nodes and the controller fail


@pytest.mark.slow
def test_a_trial_survives_the_loss_of_its_node_and_a_lost_run_does_not_commit(
    cluster: Cluster, new_study: NewStudy
) -> None:
    """One node crashes; of the other only the daemon does, and the job's process there lives on."""
    one_for_each_node = "hydra.launcher.mem_gb=9"
    study = new_study(f"{N}2", WAITING, one_for_each_node)
    driver = study.start()
    study.wait_for(lambda: all_wait(study, 2), driver)
    crashed, unreachable = (node_of(cluster, job_of(study, number)) for number in (0, 1))
    assert crashed != unreachable
    lost = study.trial(1).claims()[0].process
    cluster.crash_node(crashed)
    cluster.kill_slurmd(unreachable)  # its steps live on
    cluster.run("scontrol", "update", f"nodename={unreachable}", "state=down", "reason=lost")
    cluster.start_node(crashed)
    lived = [lost.is_alive()]

    def second_claims() -> bool:
        lived.append(lost.is_alive())
        return len(study.labels(1)) == 2

    study.wait_for(second_claims, driver)
    assert all(lived[:-1]), "the test has to find both runs alive"
    study.finish(driver)
    study.check(2)
    assert len(study.labels(0)) == 2
    assert study.steps(0, study.labels(0)[-1])[0] == HALF_WAY
    result = study.trial(1).result()
    assert result is not None
    assert (study.labels(1), result.run) == (["1.0", "1.1"], "1.1")
    assert wait_until(lambda: not lost.is_alive(), 30.0)
    # Nor did it requeue its job, which is the other run's, too.
    assert cluster.job_states(job_of(study, 1)) == ["COMPLETED"]


@pytest.mark.slow
def test_a_controller_that_is_away_is_waited_for(cluster: Cluster, new_study: NewStudy) -> None:
    """By the driver that it leaves alone, and by one that starts meanwhile."""
    study = new_study(f"{N}3", HELD)
    driver = study.start()
    study.wait_for(lambda: all_wait(study, 2), driver)
    cluster.stop_controller()
    away = "slurm does not answer: its jobs are left as they are"
    study.wait_for(lambda: away in study.said(), driver)
    let_go(study)  # results are taken in; there is nobody to give the third trial to
    time.sleep(10.0)  # squeue gives up by itself after nine
    assert driver.poll() is None, study.report()
    driver.kill()
    driver.wait()
    driver = study.start()
    study.wait_for(lambda: study.said().count(away) == 2, driver)
    cluster.up()
    study.finish(driver)
    study.check(3)
    assert study.undisturbed_by_restarts()
