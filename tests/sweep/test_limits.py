"""What ends a study besides n_trials, and what keeps a trial from being the best: budgets and constraints."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.descent import undisturbed
from tests.tasks.forked import QuickStudy
from trialfleet.errors import UserError
from trialfleet.sweep.study import constraints
from trialfleet.sweep.study.budget import Account, exceeded
from trialfleet.sweep.sweeper_settings import Budget

NewQuickStudy = Callable[..., QuickStudy]
NONE = {"wall_hours": None, "device_hours": None, "no_improvement": None}


def opened(folder: Path, devices: int, notices: list[str] | None = None) -> Account:
    """The account of a study whose ended trials say that they took 1,800 seconds."""
    said: list[str] = [] if notices is None else notices
    return Account.open(folder / "budget.json", devices, said.append, lambda: 1800.0)


def test_time_is_counted_over_all_drivers(tmp_path: Path) -> None:
    first = opened(tmp_path, devices=4)
    first.pass_time({7: {"1.0": 2.5}, 8: {}})
    first.trial_over(3, 900.0)
    first.save()
    second = opened(tmp_path, devices=4)
    assert second.device_seconds == 3600.0
    assert second.wall_seconds == first.wall_seconds > 0
    assert second.running == {7: {"1.0": 2.5}}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"wall_seconds": "much"}', '{"device_seconds": -1}', '{"running": 3}']
)
def test_a_damaged_budget_is_set_aside_and_known_from_the_trials(tmp_path: Path, content: str) -> None:
    (tmp_path / "budget.json").write_text(content)
    notices: list[str] = []
    account = opened(tmp_path, devices=2, notices=notices)
    if not content:  # as a power cut may leave it: nothing is known that could be lost
        assert (account.device_seconds, notices) == (0.0, [])
        return
    assert account.device_seconds == 3600.0
    assert str(tmp_path / "budget.json") in notices[0]
    assert [path.read_text() for path in tmp_path.glob("budget.json.damaged-*")] == [content]


def test_device_hours_count_running_trials_too(tmp_path: Path) -> None:
    account = opened(tmp_path, devices=2)
    account.trial_over(0, 1000.0)
    budget = Budget(**{**NONE, "device_hours": 1.0})
    assert exceeded(budget, account, running_seconds=700.0) == ""
    assert "device_hours=1.0" in exceeded(budget, account, running_seconds=800.0)


def test_a_study_without_limits_has_none(tmp_path: Path) -> None:
    account = Account(tmp_path / "budget.json", 1, wall_seconds=1e9, device_seconds=1e9)
    assert exceeded(Budget(**NONE), account, 1e9) == ""


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=basic",)], ids=["local", "basic"])
@pytest.mark.parametrize("limit", ["wall_hours=1e-5", "device_hours=1e-5"])
def test_a_study_at_its_limit_starts_no_more_trials(
    quick_study: NewQuickStudy, limit: str, launcher: tuple[str, ...]
) -> None:
    """In a driver's own process, too, devices are used."""
    study = quick_study("hydra.sweeper.n_trials=50", f"hydra.sweeper.budget.{limit}", *launcher)
    said = study.run()
    assert limit.partition("=")[0] in said
    assert study.states()["COMPLETE"] == len(study.stored()) < 50


def test_a_study_that_no_longer_improves_ends(quick_study: NewQuickStudy) -> None:
    same = ("hydra.sweeper.params={x: 'choice(1.0)', y: 'choice(1.0)'}", "hydra.sweeper.n_jobs=1", "steps=1")
    study = quick_study("hydra.sweeper.n_trials=50", "hydra.sweeper.budget.no_improvement=2", *same)
    assert "no improvement in 2 trials" in study.run()
    assert study.states()["COMPLETE"] == len(study.stored()) < 10


def test_a_bound_says_by_how_much_it_is_missed() -> None:
    low, high = constraints.parse({"loss": "<= 2", "accuracy": ">= 0.5"})
    assert low.violation({"loss": 3.0}) == 1.0
    assert low.violation({"loss": 1.5}) == -0.5
    assert high.violation({"accuracy": 0.25}) == 0.25
    assert high.violation({"accuracy": math.nan}) == high.violation({}) == constraints.MISSING


@pytest.mark.parametrize("text", ["<= nan", "2", "< 2", "<= two", "=> 1", ""])
def test_what_is_no_bound_is_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.constraints\.loss"):
        constraints.parse({"loss": text})


@pytest.mark.slow
def test_an_infeasible_trial_is_not_the_best(quick_study: NewQuickStudy) -> None:
    values = [undisturbed(x, x, 4) for x in (0.1, 1.0, 2.0)]
    bound = sorted(values)[1]
    study = quick_study(
        "hydra.sweeper.n_trials=3", "hydra.sweeper.enqueue=[{x: 0.1, y: 0.1}, {x: 1, y: 1}, {x: 2, y: 2}]"
    )
    said = study.run(f"hydra.sweeper.constraints={{loss: '>= {bound}'}}")
    trials = study.stored()
    assert [trial.value for trial in trials] == values
    assert f"best: trial {values.index(min(values))} " not in said
    assert [trial.constraints["loss"] <= 0 for trial in trials] == [value >= bound for value in values]
