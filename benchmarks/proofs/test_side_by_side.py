"""The side-by-side benchmark's own study, whose driver is killed: ours loses nothing."""

from pathlib import Path

from benchmarks.side_by_side import OURS, killed
from tests.benchmarks.test_side_by_side import SMALL


def test_a_killed_driver_of_ours_loses_nothing(tmp_path: Path) -> None:
    one = killed(OURS, tmp_path / "study", SMALL)
    assert (one.executed, one.twice, one.lost, one.running, one.complete, one.code) == (4, 0, 0, 0, 4, 0)
