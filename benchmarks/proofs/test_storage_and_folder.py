"""A study that is moved, made anew or put aside by a command that is killed at each moment of it in turn."""

from itertools import count

import pytest

from tests.sweep.test_storage_and_folder import (
    IN_DATABASE,
    MOVES,
    ONE_BY_ONE,
    QMC,
    STEPS_OF_A_FRESH_START,
    TWO,
    Kinds,
    NewQuickStudy,
    begin_anew_and_die,
    database,
    known_by_the_study_alone,
    lines,
    lose_lines,
    more_than,
    move_and_die,
    rebuild_and_die,
)


@pytest.mark.parametrize("kinds", [(None, "study", None), ("study", "other", None), ("study", None, "study")])
def test_a_study_that_moves_is_read_where_it_is(quick_study: NewQuickStudy, kinds: Kinds) -> None:
    """From the first storage to the second and on to the third, each time with more trials.

    It is read where it is: what was left in an earlier place is older. It alone knows a trial whose folder is gone.
    """
    study = quick_study(*QMC)
    urls = [database(study, name) if name else None for name in kinds]
    storages = [f"hydra.sweeper.storage={url or 'null'}" for url in urls]
    study.run(storages[0], "hydra.sweeper.n_trials=2")
    known = known_by_the_study_alone(study, urls[0])
    study.run(storages[1], "study.rebuild=true", "hydra.sweeper.n_trials=4")
    known = more_than(known, study, urls[1])
    study.run(storages[2], "study.rebuild=true", "hydra.sweeper.n_trials=6")
    study.run(storages[2], "hydra.sweeper.n_trials=7")
    known = more_than(known, study, urls[2])
    assert len(known) == 7


@pytest.mark.parametrize("way", MOVES)
def test_a_move_can_be_killed_at_each_moment(finished_study: NewQuickStudy, way: str) -> None:
    kinds, begun = MOVES[way]
    assert move_and_die(finished_study(*begun), kinds, count()) > 5


@pytest.mark.parametrize("where", [(), (IN_DATABASE,)], ids=["journal", "database"])
def test_a_rebuild_can_be_killed_at_each_moment(finished_study: NewQuickStudy, where: tuple[str, ...]) -> None:
    study = finished_study(*QMC, TWO, *where)
    assert rebuild_and_die(study, database(study) if where else None, count()) > 5


@pytest.mark.parametrize("step", STEPS_OF_A_FRESH_START)
def test_a_fresh_start_can_be_killed_at_each_step(finished_study: NewQuickStudy, step: str) -> None:
    begin_anew_and_die(finished_study(TWO, IN_DATABASE), step)


def test_any_end_of_a_journal_can_be_lost(finished_study: NewQuickStudy) -> None:
    study = finished_study(*ONE_BY_ONE)
    lose_lines(study, range(1, len(lines(study)) - 3))
