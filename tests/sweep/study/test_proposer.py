"""Points that are enqueued: by which names, and what is said of one that is outside of the space."""

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from trialfleet.errors import UserError
from trialfleet.sweep.study.proposer import known_point, untried
from trialfleet.sweep.study.search_space import parse

NUMBERS = {name: FloatDistribution(0.0, 9.0) for name in ("x", "y")}
SPACE = parse(["+x=tag(log,interval(1e-4,1e-2))", "++width=64,128", "layers=[1],[1,2]"])


@pytest.mark.parametrize(
    ("point", "known"),
    [
        ({"+x": 1e-3, "++width": 64}, {"+x": 1e-3, "++width": 64}),
        ({"x": 1e-3, "width": 64}, {"+x": 1e-3, "++width": 64}),
        ({"layers": [1, 2]}, {"layers": "[1,2]"}),
    ],
    ids=["as in the space", "without the plus", "a list among choices"],
)
def test_a_point_is_known_by_the_names_and_values_of_the_space(point: dict[str, Any], known: dict[str, Any]) -> None:
    assert known_point(point, SPACE, None) == known


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"x": 7}, "enqueue: x=7 is outside of +x=tag(log,interval(1e-4,1e-2))"),
        ({"width": True}, "enqueue: width=True is outside of ++width=64,128"),
        ({"x": "1e-3"}, "enqueue: x='1e-3' is outside of +x=tag(log,interval(1e-4,1e-2))"),
        ({"widht": 64}, "enqueue: widht is not in the search space, did you mean width?"),
        ({"momentum": 0.9}, "enqueue: momentum is not in the search space, which has x, width, layers"),
    ],
    ids=["outside", "no number", "a text", "misspelt", "not there"],
)
def test_what_is_outside_of_the_space_is_refused_in_the_words_of_the_command(point: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refusal:
        known_point(point, SPACE, None)
    assert said in refusal.value.message


def test_a_space_of_the_users_own_may_have_more() -> None:
    assert known_point({"momentum": 0.9}, SPACE, "some.function") == {"momentum": 0.9}


def test_points_that_are_named_later_are_tried_and_none_is_tried_anew() -> None:
    """By the study alone: the command that goes on may name others than the one before."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 1})  # given, and not begun
    study.add_trial(create_trial(params={"x": 2.0, "y": 0.5}, distributions=NUMBERS, value=0.0))
    points = [{"x": 3}, {"x": 1}, {"x": 2}, {"x": 2}]
    assert untried(points, study.get_trials()) == [{"x": 3}, {"x": 2}]
