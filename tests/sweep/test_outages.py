"""What ends a turn in the middle: how long the driver rests, what it says, and when it gives up."""

import errno
import os
from pathlib import Path

import psycopg.errors as pg
import pytest

from trialfleet.sweep.outages import FIRST_REST, FULL_DISK_PAUSE, LONGEST_REST, Outages


class Story:
    """Outages on a clock of the test's, and what was said."""

    def __init__(self, folder: Path, patience: float = 100.0) -> None:
        self.said: list[str] = []
        self.outages = Outages(folder, patience, self.said.append)
        self.now = 0.0

    def rest_after(self, error: Exception) -> float | str:
        """Seconds until the next turn after a turn that ended so; or why there is none."""
        if reason := self.outages.meet(error, self.now):
            return reason
        began = self.now
        while self.outages.resting(self.now):
            self.now += 0.25
        return self.now - began


EIO = OSError(errno.EIO, os.strerror(errno.EIO), "trial.json")


def test_errors_that_pass_are_waited_for_longer_and_longer_up_to_the_patience(tmp_path: Path) -> None:
    story = Story(tmp_path)
    rests = [story.rest_after(EIO) for _ in range(8)]
    assert rests == [min(FIRST_REST * 2**index, LONGEST_REST) for index in range(8)]
    story.now = 100.0
    assert "still so after 100 s (hydra.sweeper.patience)" in str(story.rest_after(EIO))
    assert all("trial.json" in said for said in story.said)


def test_a_turn_that_came_to_its_end_begins_the_count_anew(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.rest_after(EIO)
    assert story.outages.cut_off
    story.outages.mended()
    story.outages.over()
    assert not story.outages.cut_off
    story.now = 1000.0
    assert story.rest_after(EIO) == FIRST_REST


@pytest.mark.parametrize(
    ("error", "where"),
    [(OSError(errno.ENOSPC, "no room", "x"), "folder"), (pg.DiskFull("could not extend file"), "database")],
)
def test_a_full_disk_is_waited_for_without_end_and_named(tmp_path: Path, error: Exception, where: str) -> None:
    story = Story(tmp_path)
    assert [story.rest_after(error) for _ in range(50)] == [FULL_DISK_PAUSE] * 50
    assert (str(tmp_path) in story.said[0]) == (where == "folder")
    assert ("database" in story.said[0]) == (where == "database")


def test_before_the_next_turn_there_is_room_or_the_error_again(tmp_path: Path) -> None:
    story = Story(tmp_path / "gone")
    story.outages.check_room()  # of no effect while the disk was not full
    story.rest_after(OSError(errno.ENOSPC, "no room"))
    with pytest.raises(FileNotFoundError):
        story.outages.check_room()
    (tmp_path / "gone").mkdir()
    story.outages.check_room()
    assert list((tmp_path / "gone").iterdir()) == []


def test_any_other_error_is_raised(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Story(tmp_path).outages.meet(KeyError("x"), 0.0)
