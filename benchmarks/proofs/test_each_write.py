"""A study of three trials whose driver, or first job, dies at each of its writes in turn, in each way."""

from pathlib import Path

import pytest

from tests.sweep.test_each_write import WAYS, WRITES, die

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("way", WAYS)
def test_a_driver_can_die_at_each_write(tmp_path: Path, way: str) -> None:
    numbers = range(1, 2 * WRITES)
    died = die(tmp_path, "driver", [way], numbers)
    assert died == list(numbers[: len(died)])
    assert 30 < len(died) < len(numbers)  # all of them were survived


@pytest.mark.parametrize("way", WAYS)
def test_a_job_can_die_at_each_write(tmp_path: Path, way: str) -> None:
    assert len(die(tmp_path, "job", [way], range(1, 9))) > 3
