"""What a dry run says of a study, before it begins, on its way, and at its end."""

from collections.abc import Callable

import pytest

from tests.tasks.forked import QuickStudy

DRY = "hydra.sweeper.dry_run=true"
N = "hydra.sweeper.n_trials="


@pytest.mark.slow
@pytest.mark.everyday
def test_a_dry_run_shows_the_space_as_it_was_written_and_what_would_happen(
    quick_study: Callable[..., QuickStudy],
) -> None:
    study = quick_study()
    said = study.run(DRY, f"{N}2")
    assert "x=interval(0.1, 2.0)" in said
    assert "Distribution" not in said
    assert "2 trials would be started" in said
    assert not study.numbers()

    study.run(f"{N}2")
    assert "2 of 3 trials have ended; 0 that began would be finished, and 1 more started" in study.run(DRY, f"{N}3")
    assert "nothing, since 2 of 2 trials have ended; raise hydra.sweeper.n_trials" in study.run(DRY, f"{N}2")
    assert study.numbers() == [0, 1]
