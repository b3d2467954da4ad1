"""A few studies on a real Slurm under faults of jobs, nodes, the controller and its answers."""

import subprocess
import sys

import pytest

from tests.tasks.studies import PROJECT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_doubled_left_running_or_wrong(seed: int) -> None:
    size = ("--on", "slurm", "--only", "slurm", "--only", "answers", "--faults", "5", "--seed", str(seed))
    command = [sys.executable, "-m", "benchmarks.faults", *size]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    faults, recovered = done.stdout.splitlines()[-1].split(" | ")[2:4]
    assert faults == recovered
    assert int(faults) >= 5
