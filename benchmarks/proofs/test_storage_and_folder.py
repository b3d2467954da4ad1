"""A study that is moved, made anew or put aside by a command that is killed at each moment of it in turn."""

from itertools import count

import pytest

from tests.sweep.test_storage_and_folder import (
    QMC,
    STEPS_OF_A_FRESH_START,
    Kinds,
    NewQuickStudy,
    begin_anew_and_die,
    move_and_die,
    move_twice,
    rebuild_and_die,
)


@pytest.mark.parametrize("kinds", [(None, "study", None), ("study", "other", None), ("study", None, "study")])
def test_a_study_that_moves_is_read_where_it_is(quick_study: NewQuickStudy, kinds: Kinds) -> None:
    move_twice(quick_study(*QMC), kinds)


@pytest.mark.parametrize("kinds", [("study", None), (None, "study")])
def test_a_move_can_be_killed_at_each_moment(quick_study: NewQuickStudy, kinds: Kinds) -> None:
    assert move_and_die(quick_study(*QMC), kinds, count()) > 5


@pytest.mark.parametrize("name", [None, "study"])
def test_a_rebuild_can_be_killed_at_each_moment(quick_study: NewQuickStudy, name: str | None) -> None:
    assert rebuild_and_die(quick_study(*QMC), name, count()) > 5


@pytest.mark.parametrize("step", STEPS_OF_A_FRESH_START)
def test_a_fresh_start_can_be_killed_at_each_step(quick_study: NewQuickStudy, step: str) -> None:
    begin_anew_and_die(quick_study(), step)
