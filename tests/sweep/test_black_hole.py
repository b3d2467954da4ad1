"""A node that kills jobs before they claim their trials: it costs a few jobs, and no trial."""

from tests.sweep.builder import UNCLAIMED, Cluster, Job, build, ends_well
from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.sweep.node_health import BAD_NODE_DEATHS


def swallowed(job: Job) -> str:
    """The life of a job on the bad node, and on the others."""
    return UNCLAIMED if job.node == "hole" else ends_well(job)


def test_a_black_hole_costs_few_jobs_and_no_trial(slurm: FakeSlurm) -> None:
    """It is always free, so that each job goes there first: those that ran there already, and a few more."""
    cluster = Cluster(slurm, ("hole", "n1", "n2"), swallowed)
    driver, heard = build(cluster, n_trials=12, n_jobs=2, max_failure_rate=0.0)
    driver.run()
    assert dict(driver.progress.states) == {"COMPLETE": 12}
    lost = [job for job in cluster.jobs if job.node == "hole"]
    assert len(lost) <= 2 + BAD_NODE_DEATHS
    assert [notice for notice in heard.notices if "node hole: jobs end there" in notice]
    assert all("hole" in job.excluded for job in cluster.jobs[-8:])


def test_what_started_on_the_hole_at_once_is_all_that_is_lost(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm, ("hole", "n1"), swallowed)
    driver, heard = build(cluster, n_trials=8, n_jobs=8, max_failure_rate=0.0, max_unclaimed=1)
    driver.run()
    assert dict(driver.progress.states) == {"COMPLETE": 8}
    assert len([job for job in cluster.jobs if job.node == "hole"]) == 8
    assert len([notice for notice in heard.notices if "node hole" in notice]) == 1


def test_jobs_that_wait_in_line_are_kept_off_the_hole(slurm: FakeSlurm) -> None:
    """A job that was submitted before the node was found out, and would start there next."""
    late: list[Job] = []

    def life(job: Job) -> str:
        if job.assignment.number == 3 and not late:
            late.append(job)
            job.node = ""
            return "PENDING"
        return swallowed(job)

    cluster = Cluster(slurm, ("hole", "n1"), life)
    driver, _ = build(cluster, n_trials=4, n_jobs=4, max_failure_rate=0.0)
    driver.run()
    assert dict(driver.progress.states) == {"COMPLETE": 4}
    assert late[0].node == "n1"


def test_a_set_up_that_is_broken_everywhere_fails_its_trials(slurm: FakeSlurm) -> None:
    """Whichever node a job goes to: that is no node's fault."""
    nodes = ["n1", "n2", "n3"]

    def life(job: Job) -> str:
        nodes.append(nodes.pop(0))
        cluster.nodes = list(nodes)
        return UNCLAIMED

    cluster = Cluster(slurm, list(nodes), life)
    driver, heard = build(cluster, n_trials=3, n_jobs=1, max_unclaimed=2, max_failure_rate=1.0)
    driver.run()
    assert dict(driver.progress.states) == {"FAIL": 3}
    error = heard.results[0].error
    assert error is not None
    assert "jobs in a row ended before the trial began" in error["message"]
    assert len(cluster.jobs) <= 3 * 2 + BAD_NODE_DEATHS


def test_a_broken_set_up_on_the_only_node_fails_its_trials(slurm: FakeSlurm) -> None:
    cluster = Cluster(slurm, ("n1",), lambda job: UNCLAIMED)
    driver, _ = build(cluster, n_trials=2, n_jobs=2, max_unclaimed=3, max_failure_rate=1.0)
    driver.run()
    assert dict(driver.progress.states) == {"FAIL": 2}
    assert len(cluster.jobs) == 2 * 3
