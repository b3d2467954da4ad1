"""What a dry run says of a study, before it begins, on its way, and at its end."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from tests.tasks.forked import QuickStudy
from trialfleet.sweep.ui.live_table import LiveTable

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


def test_the_end_says_why_none_is_the_best_and_how_what_is_missing_is_done(
    quick_study: Callable[..., QuickStudy],
) -> None:
    study = quick_study('hydra.sweeper.constraints={unheard: "<= 2"}')
    said = study.run(f"{N}1")
    assert "none of the 1 complete ones keeps hydra.sweeper.constraints (unheard <= 2)" in said
    assert f"{N}2" in said  # more of them
    said = study.run("hydra.sweeper.max_failure_rate=0", "study.allow_changes=[mode]", "mode=raise", f"{N}4", code=1)
    resume = said.rpartition("resume:")[2].splitlines()[0]
    assert f"{N}4" in resume, "the same command finishes them"


def test_a_question_is_shown_where_there_is_no_table() -> None:
    said = io.StringIO()
    terminal = LiveTable(Console(file=said), False, "wide", ["objective"], lambda: None)
    for question in ("leave?", "leave?", ""):
        terminal.ask(question)
    assert said.getvalue() == "leave?\n"


def test_a_pruner_that_comes_late_is_told_what_was_reported_before(quick_study: Callable[..., QuickStudy]) -> None:
    study = quick_study()
    study.run(f"{N}1")
    late = "hydra/sweeper/pruner=median"
    assert "the pruner has no reports of 1 complete trials" in study.run(late, f"{N}1")
    assert "the pruner has no reports" not in study.run(late, "study.rebuild=true", f"{N}1")
    assert all(trial.intermediate_values for trial in study.stored())
