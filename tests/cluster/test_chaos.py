"""A short run of the chaos benchmark: it judges itself, and fails if anything was lost, doubled or spoilt."""

import subprocess
import sys

import pytest

from tests.tasks.studies import PROJECT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", [3])
def test_nothing_is_lost_whatever_is_broken(seed: int) -> None:
    size = ("--trials", "10", "--slots", "4", "--minutes", "0.6", "--steps", "20")
    command = [sys.executable, "-m", "benchmarks.chaos", "--seed", str(seed), *size]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost: nothing" in done.stdout
