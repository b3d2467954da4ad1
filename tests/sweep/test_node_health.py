"""What the deaths of several jobs say together."""

from types import SimpleNamespace
from typing import Any

import pytest

from trialfleet.sweep.node_health import BAD_NODE_DEATHS, FORGIVEN, MASS_CANCEL, Nodes, mass_cancelled
from trialfleet.trial.submission import JobRef


def story(nodes: Nodes, number: int, died_on: str, ended_on: str) -> str | None:
    nodes.died(number, died_on)
    return nodes.ended(number, ended_on)


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


# ---------------------------------------------------------------- deaths before the claim


def others_of(*cluster: str) -> Nodes:
    """The bookkeeping for a cluster of these nodes."""
    return Nodes(lambda than: any(name not in than for name in cluster))


def test_a_node_that_alone_kills_before_the_claim_is_named_after_three_and_no_trial_pays() -> None:
    nodes = others_of("hole", "n1")
    paid, named = [], []
    for _ in range(BAD_NODE_DEATHS + 2):  # those that ran there already die, too
        paid.append(nodes.died_unclaimed("hole"))
        named.append(nodes.to_exclude())
    assert not any(paid)
    assert named == [[]] * (BAD_NODE_DEATHS - 1) + [["hole"]] + [[]] * 2


def test_a_node_is_at_fault_if_trials_begin_elsewhere_even_beside_another_bad_one() -> None:
    nodes = others_of("n1", "n2", "n3")
    nodes.claimed("n1")
    assert not any(nodes.died_unclaimed(node) for node in ["n2", "n3"] * BAD_NODE_DEATHS)
    assert sorted(nodes.to_exclude()) == ["n2", "n3"]


def test_a_broken_set_up_kills_on_every_node_and_the_trials_pay() -> None:
    nodes = others_of("n1", "n2")
    assert [nodes.died_unclaimed(node) for node in ("n1", "n2", "n1", "n2")] == [False, True, True, True]
    assert nodes.to_exclude() == []


@pytest.mark.parametrize(("cluster", "node"), [(["n1"], "n1"), (["n1", "n2"], "")])
def test_a_node_that_is_the_only_one_or_that_nobody_knows_is_not_at_fault(cluster: list[str], node: str) -> None:
    nodes = others_of(*cluster)
    assert all(nodes.died_unclaimed(node) for _ in range(BAD_NODE_DEATHS))
    assert nodes.to_exclude() == []


def test_claims_on_the_same_node_do_not_speak_against_it() -> None:
    nodes = others_of("n1")
    nodes.claimed("n1")
    assert nodes.died_unclaimed("n1")


def test_a_claim_clears_its_node() -> None:
    nodes = others_of("n1", "n2")
    for _ in range(2):
        for _ in range(BAD_NODE_DEATHS - 1):
            assert not nodes.died_unclaimed("n1")
        nodes.claimed("n1")
    assert nodes.to_exclude() == []
    assert not nodes.died_unclaimed("n2")  # n1 is no longer blamed, and trials begin there


def test_a_trial_whose_jobs_die_wherever_they_go_pays_in_the_end() -> None:
    nodes = others_of("n1", "n2")
    paid = []
    for death in range(FORGIVEN + 2):
        nodes.claimed("n1")  # other trials are well everywhere
        nodes.claimed("n2")
        paid.append(nodes.died_unclaimed(("n1", "n2")[death % 2], trial=7))
    assert paid == [False] * FORGIVEN + [True] * 2
    assert not nodes.died_unclaimed("n1", trial=8)


def test_a_node_is_named_once_whatever_speaks_against_it() -> None:
    nodes = others_of("n1", "n2")
    nodes.claimed("n2")
    for _ in range(BAD_NODE_DEATHS):
        nodes.died_unclaimed("n1")
    assert nodes.to_exclude() == ["n1"]
    assert [story(nodes, number, "n1", "n2") for number in range(BAD_NODE_DEATHS + 1)] == [None] * 4


# ---------------------------------------------------------------- cancelled together


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


def test_the_last_node_is_never_excluded() -> None:
    """Jobs began on both; then the set-up breaks everywhere for a while."""
    nodes = Nodes(lambda than: not {"n2", "n3"} <= set(than))
    nodes.claimed("n2")
    nodes.claimed("n3")
    for _ in range(9):
        nodes.died_unclaimed("n2")
        nodes.died_unclaimed("n3")
    assert len(nodes.to_exclude()) == 1
    assert nodes.to_exclude() == []
