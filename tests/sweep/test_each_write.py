"""A study of three trials whose driver, or first job, dies at each of its writes in turn: the end is always right."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.studies import PROJECT, Study

WRITES = 70  # more than a driver of such a study makes; a job makes a dozen


def _die(place: Path, who: str, way: str, numbers: list[int]) -> list[int]:
    """Let a study die at each of these writes, and judge what became of it; the numbers at which somebody died."""
    command = [sys.executable, "-m", "tests.tasks.dying", str(place), who, way, *map(str, numbers)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    died = []
    for line in done.stdout.splitlines():
        number, fate, code = line.split()
        study = Study(place / number)
        assert code == "0", f"at write {number}:\n{study.report()}"
        study.check(3, steps=4)
        if who == "driver":
            assert study.undisturbed_by_restarts(), f"at write {number}:\n{study.report()}"
        if fate == "died":
            died.append(int(number))
    return died


def test_a_driver_can_die_after_any_write(tmp_path: Path) -> None:
    """After every ninth write; the slow test below takes them all, before or in the middle."""
    assert len(_die(tmp_path, "driver", "after", list(range(6, WRITES, 9)))) > 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("way", "first"), [("before", 1), ("half", 2)])
def test_a_driver_can_die_at_each_write(tmp_path: Path, way: str, first: int) -> None:
    """At every write in turn: before the odd ones, in the middle of the even ones (before, if there is no middle)."""
    numbers = list(range(first, 2 * WRITES, 2))
    died = _die(tmp_path, "driver", way, numbers)
    assert died == numbers[: len(died)]
    assert 15 < len(died) < len(numbers)  # all of them were survived


@pytest.mark.slow
@pytest.mark.parametrize("way", ["before", "after", "half"])
def test_a_job_can_die_at_each_write(tmp_path: Path, way: str) -> None:
    died = _die(tmp_path, "job", way, list(range(1, 9)))
    assert len(died) > 3  # the others died before their claim, or after their commit: no second run was needed
