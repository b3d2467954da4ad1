"""What the side-by-side benchmark makes of stamps and studies."""

from pathlib import Path

import pytest

from benchmarks.side_by_side import STOCK, Shape, idle_seconds, undisturbed
from benchmarks.toy.task import Stamp

SMALL = Shape(trials=4, slots=2, shortest=0.1)


def test_idle_is_what_slots_had_no_trial() -> None:
    ran = [Stamp(0.0, 10.0, 11.0), Stamp(0.5, 10.0, 14.0), Stamp(0.1, 12.0, 14.0)]
    assert idle_seconds(ran, slots=2) == pytest.approx(1.0)


def test_the_grid_spans_the_lengths() -> None:
    assert SMALL.grid() == [0.0, 0.3333, 0.6667, 1.0]
    assert Shape(trials=1).grid() == [0.0]


@pytest.mark.slow
def test_a_study_runs_each_trial_once(tmp_path: Path) -> None:
    assert undisturbed(STOCK, tmp_path / "study", SMALL).trials == SMALL.trials
