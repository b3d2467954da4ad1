"""Trials that need more memory than they got: once more with more of it, up to what there is."""

from collections.abc import Callable

import pytest

from tests.sweep.builder import (
    Cluster,
    Job,
    build,
    ends_well,
    out_of_memory_by_its_own_word,
    runs_out_of_memory,
    stored,
)
from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.sweep.study.progress import NO_MEMORY
from trialfleet.sweep.study.projection import MEMORY_CONSTRAINT
from trialfleet.trial.result import OUT_OF_MEMORY

MEMORY = {"mem": "4G"}


def hungry(
    gigabytes: float, trials: set[int], death: Callable[[Job], str] = runs_out_of_memory
) -> Callable[[Job], str]:
    """The life of jobs of which those of `trials` need so many GB."""

    def life(job: Job) -> str:
        enough = float(job.memory.removesuffix("G") if "G" in job.memory else float(job.memory[:-1]) / 1024)
        return ends_well(job) if job.assignment.number not in trials or enough >= gigabytes else death(job)

    return life


def asked(cluster: Cluster, number: int) -> list[str]:
    """What the jobs of a trial asked for, in order."""
    return [job.memory for job in cluster.jobs if job.assignment.number == number]


@pytest.mark.parametrize("death", [runs_out_of_memory, out_of_memory_by_its_own_word])
def test_who_ran_out_of_memory_is_started_again_with_more(slurm: FakeSlurm, death: Callable[[Job], str]) -> None:
    """By Slurm's word, or by the run's own."""
    cluster = Cluster(slurm, life=hungry(8, {1}, death))
    driver, heard = build(cluster, MEMORY)
    driver.run()
    assert asked(cluster, 1) == ["4G", "6G", "9G"]
    assert asked(cluster, 0) == ["4G"]
    assert [number for number, _ in heard.retries] == [1, 1]
    assert "out of memory: the job asked for 4 GB; again with 6 GB" in heard.retries[0][1]
    assert dict(driver.progress.states) == {"COMPLETE": 4}


def test_arrays_are_split_by_memory(slurm: FakeSlurm) -> None:
    """All trials start in one array; those that are started again at the same time in one for each size."""
    needs = {0: 8, 1: 8, 2: 5, 3: 5}
    cluster = Cluster(slurm, life=lambda job: hungry(needs[job.assignment.number], set(needs))(job))
    driver, _ = build(cluster, MEMORY)
    driver.run()
    scripts = {job.script: (job.memory, []) for job in cluster.jobs}
    for job in cluster.jobs:
        scripts[job.script][1].append(job.assignment.number)
    assert list(scripts.values()) == [("4G", [0, 1, 2, 3]), ("6G", [0, 1, 2, 3]), ("9G", [0, 1])]


def test_who_ran_out_of_memory_before_the_claim_gets_more_too_and_no_node_is_blamed(slurm: FakeSlurm) -> None:
    """What a job imports may be too much already."""

    def life(job: Job) -> str:
        return ends_well(job) if job.memory == "9G" else "OUT_OF_MEMORY"

    cluster = Cluster(slurm, ("n1", "n2"), life)
    driver, heard = build(cluster, MEMORY)
    driver.run()
    assert asked(cluster, 0) == ["4G", "6G", "9G"]
    assert dict(driver.progress.states) == {"COMPLETE": 4}
    assert heard.notices == []


@pytest.mark.parametrize(
    ("sampler", "state", "constraints"),
    [
        ("TPESampler", "PRUNED", {MEMORY_CONSTRAINT: 1.0}),
        ("RandomSampler", "FAIL", {}),
        ("CmaEsSampler", "FAIL", {}),
    ],
)
def test_who_had_all_the_memory_there_is_is_told_so(
    slurm: FakeSlurm, sampler: str, state: str, constraints: dict[str, float]
) -> None:
    """As pruned with a violated constraint where the sampler learns from that; it is no failure either way."""
    cluster = Cluster(slurm, life=hungry(100, {2}))
    driver, heard = build(cluster, MEMORY, sampler, max_memory_gb=7.0, max_failure_rate=0.0)
    driver.run()
    assert asked(cluster, 2) == ["4G", "6G", "7G"]
    assert dict(driver.progress.states) == {"COMPLETE": 3, NO_MEMORY: 1}
    assert (driver.progress.failed, driver.stopping.failure) == (0, "")
    error = heard.results[2].error
    assert error is not None
    assert error["type"] == OUT_OF_MEMORY
    assert error["message"].startswith("out of memory: the job asked for 7 GB: ")
    trial = stored(driver)[2]
    assert (trial.state.name, dict(trial.constraints)) == (state, constraints)


def test_a_launcher_that_refuses_the_larger_memory_ends_that_trial_alone(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm, life=hungry(8, {0}))
    cluster.refuse("--mem=9G")
    driver, heard = build(cluster, MEMORY, n_trials=6, n_jobs=2)
    driver.run()
    assert asked(cluster, 0) == ["4G", "6G"]
    assert dict(driver.progress.states) == {"COMPLETE": 5, NO_MEMORY: 1}
    error = heard.results[0].error
    assert error is not None
    assert "sbatch refuses a job with 2.25 times the memory (9 GB a node)" in error["message"]


def test_where_no_memory_is_asked_for_the_retries_are_the_limit(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm, life=runs_out_of_memory)
    driver, heard = build(cluster, n_trials=1, max_retries=2)
    driver.run()
    assert len(cluster.jobs) == 3
    assert dict(driver.progress.states) == {NO_MEMORY: 1}
    assert heard.retries == [(0, "out of memory"), (0, "out of memory")]
