"""A few studies of the benchmark of faults, which judges itself: on this machine, and on a real Slurm."""

import pytest

from tests.sweep.test_faults import survive


@pytest.mark.timeout(600)
def test_nothing_is_lost_doubled_left_running_or_wrong() -> None:
    survive("--on", "local", faults=8, seed=3)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_nor_when_jobs_nodes_the_controller_or_its_answers_fail() -> None:
    survive("--on", "slurm", "--only", "slurm", "--only", "answers", faults=5, seed=1)
