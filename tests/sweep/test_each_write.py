"""A study of three trials whose driver, or first job, dies at one of its writes: the end is always right."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tasks.studies import PROJECT, Study

WRITES = 70  # more than a driver of such a study makes; a job makes a dozen
WAYS = ("before", "half", "after")


def die(place: Path, who: str, ways: Sequence[str], numbers: Sequence[int]) -> list[int]:
    """Let a study die at each of these writes, in these ways by turns, and judge what became of it.

    Returns:
        the numbers at which somebody died.
    """
    command = [sys.executable, "-m", "tests.tasks.dying", str(place), who, ",".join(ways), *map(str, numbers)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    died = []
    for line in done.stdout.splitlines():
        number, fate, code = line.split()
        study = Study(place / number)
        assert code == "0", f"at write {number}:\n{study.report()}"
        study.check(3, steps=4)
        if who.endswith("driver"):
            assert study.undisturbed_by_restarts(), f"at write {number}:\n{study.report()}"
        if fate == "died":
            died.append(int(number))
    return died


@pytest.mark.slow
@pytest.mark.parametrize("who", ["driver", "warm driver"])
def test_a_driver_can_die_at_any_write(tmp_path: Path, who: str) -> None:
    """At some; benchmarks/proofs takes them all."""
    assert len(die(tmp_path, who, WAYS, range(3, WRITES, 14))) > 2


@pytest.mark.slow
@pytest.mark.parametrize("who", ["job", "warm job"])
def test_a_job_can_die_at_any_write(tmp_path: Path, who: str) -> None:
    """At some; benchmarks/proofs takes them all."""
    # Some die before their claim, or after their commit.
    assert len(die(tmp_path, who, WAYS, range(2, 9, 3))) > 0
