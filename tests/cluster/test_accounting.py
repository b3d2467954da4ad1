"""A Slurm with an accounting database, which knows of jobs that the controller has forgotten."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cluster import Cluster, Settings, free_port_block
from jobs.cluster.processes import wait_until
from tests.cluster.conftest import cluster_for_tests
from tests.tasks.studies import NewStudy

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

FORGETFUL = 2  # seconds for which the controller remembers a job that has ended


@pytest.fixture(scope="module")
def accounted() -> Iterator[Cluster]:
    """A cluster whose controller forgets soon, and whose database does not."""
    settings = Settings(nodes=1, port=free_port_block(), accounting="dbd", min_job_age=FORGETFUL)
    with cluster_for_tests(settings) as cluster:
        yield cluster


def forgotten(cluster: Cluster, job: str) -> bool:
    return job not in cluster.run("squeue", "--noheader", "--states=all", "--format=%i").stdout.split()


def test_the_database_knows_how_a_job_ended(accounted: Cluster, tmp_path: Path) -> None:
    job = accounted.run("sbatch", "--parsable", f"--output={tmp_path}/out", "--wrap", "exit 3").stdout.strip()
    query = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State,ExitCode", f"--jobs={job}")
    assert wait_until(lambda: accounted.run(*query).stdout == "FAILED|3:0\n", timeout=120.0)


def test_a_trial_whose_job_was_forgotten_is_looked_up_and_goes_on(
    accounted: Cluster, new_study: NewStudy, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    spy = tmp_path / "bin" / "sacct"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\necho "$*" >> "{asked}"\nexec {shutil.which("sacct")} "$@"\n')
    spy.chmod(0o755)
    environment = {"SLURM_CONF": str(accounted.conf), "PATH": f"{spy.parent}:{os.environ['PATH']}"}
    study = new_study("hydra.sweeper.n_trials=1", "mode=wait", environment=environment)
    driver = study.start()
    study.wait_for(lambda: study.steps(0, "1.0")[-1:] == [5], driver)
    first = study.job(0)
    assert first is not None
    driver.kill()
    driver.wait()
    assert not asked.exists()  # squeue knew the job all the time
    os.kill(study.worker(0), signal.SIGKILL)
    assert wait_until(lambda: forgotten(accounted, first), timeout=240.0)
    study.run()
    study.check(1)
    assert study.labels(0) == ["1.0", "2.0"]
    assert study.job(0) != first
    questions = asked.read_text().splitlines()
    assert [line for line in questions if line.startswith(f"-j {first} ")] == questions[:1]
