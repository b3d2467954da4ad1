"""What the deaths of several jobs say together."""

from types import SimpleNamespace
from typing import Any

import pytest

from trialfleet.sweep.casualties import BAD_NODE_DEATHS, MASS_CANCEL, Nodes, mass_cancelled
from trialfleet.tracking.submission import JobRef


class Trial:
    """A trial that was last seen on a node."""

    def __init__(self, number: int, node: str) -> None:
        self.number, self.place = number, node

    def node(self) -> str:
        return self.place


def story(nodes: Nodes, number: int, died_on: str, ended_on: str) -> str | None:
    trial: Any = Trial(number, died_on)
    nodes.died(trial)
    trial.place = ended_on
    return nodes.ended(trial)


def test_a_node_where_trials_die_that_survive_elsewhere_is_named_once() -> None:
    nodes = Nodes()
    named = [story(nodes, number, "bad", "good") for number in range(BAD_NODE_DEATHS + 1)]
    assert named == [None] * (BAD_NODE_DEATHS - 1) + ["bad", None]


def test_a_trial_that_ends_well_on_a_node_speaks_for_it() -> None:
    nodes = Nodes()
    for number in range(BAD_NODE_DEATHS - 1):
        assert story(nodes, number, "n1", "n2") is None
    assert story(nodes, 10, "n2", "n1") is None  # n1 is well again
    assert story(nodes, 11, "n1", "n2") is None


def test_who_dies_twice_on_one_node_may_be_at_fault_itself() -> None:
    nodes = Nodes()
    assert [story(nodes, number, "n1", "n1") for number in range(BAD_NODE_DEATHS)] == [None] * BAD_NODE_DEATHS


@pytest.mark.parametrize(("cancelled", "of", "many"), [(2, 2, False), (3, 4, True), (3, 6, True), (3, 7, False)])
def test_many_are_several_and_half_of_all(cancelled: int, of: int, many: bool) -> None:
    fleet: Any = SimpleNamespace(cancelled=lambda job: int(job.id) < cancelled)
    missing = SimpleNamespace(exists=lambda: False)
    trials: Any = [
        SimpleNamespace(record=SimpleNamespace(job=JobRef("slurm", str(n))), dir=SimpleNamespace(result_json=missing))
        for n in range(of)
    ]
    assert MASS_CANCEL == 3
    assert mass_cancelled(trials, {"slurm": fleet}) == (cancelled if many else 0)
