"""Whatever dies at whichever write: in the end each (trial, metric, step) is in MLflow once, each trial in one run."""

import random
from pathlib import Path

import pytest

from tests.tracking.test_crashes import DELETED, WAYS, suffer, suffer_deletion, suffer_twice
from trialfleet.tracking.destination import Destination


@pytest.mark.parametrize("way", WAYS)
def test_each_write_in_turn_can_be_the_last(way: str, target: Destination, tmp_path: Path) -> None:
    survived = 0
    while suffer(way, survived + 1, target, tmp_path / str(survived)):
        survived += 1
    assert survived > 30


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", DELETED)
def test_each_write_after_a_deletion_can_be_the_last(
    names: tuple[str, ...], way: str, target: Destination, tmp_path: Path
) -> None:
    survived = 0
    while suffer_deletion(names, way, survived + 1, target, tmp_path / str(survived)):
        survived += 1
    assert survived > 10


def test_any_writes_can_be_the_last_of_their_lives(target: Destination, tmp_path: Path) -> None:
    choice = random.Random(0)
    for case in range(60):
        suffer_twice(case, choice, target, tmp_path / str(case))
