"""Proposals that are made before a slot is free: the same as any, outdated by a rule, no trials before their time."""

import sys
import types
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import HyperbandPruner
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState

from trialfleet.sweep.study import search_space as spaces
from trialfleet.sweep.study.ahead import Ahead, Rule
from trialfleet.sweep.study.proposer import AskedPoint, Proposer
from trialfleet.sweep.study.samplers import SamplerFactory
from trialfleet.sweep.study.storage import StudyStorage, Told, open_storage

MIXED = spaces.parse(["lr=tag(log,interval(1e-5,1e-1))", "depth=int(interval(1,64))", "kind=a,b,c,d"])
NUMBERS = spaces.parse(["x=interval(0,1)", "y=interval(0,1)"])
GRID = spaces.parse(["lr=0.1,0.2,0.3,0.4", "kind=a,b,c", "depth=range(1,4)"])
SAMPLERS: dict[str, tuple[dict[str, Any], spaces.Space]] = {
    "TPESampler": ({"multivariate": True, "constant_liar": True, "n_startup_trials": 4}, MIXED),
    "TPESampler in groups": ({"multivariate": True, "group": True, "n_startup_trials": 4}, MIXED),
    "TPESampler each for itself": ({"n_startup_trials": 4}, MIXED),
    "RandomSampler": ({}, MIXED),
    "QMCSampler": ({"scramble": True}, NUMBERS),
    "GridSampler": ({}, GRID),
    "CmaEsSampler": ({"n_startup_trials": 2, "popsize": 4}, NUMBERS),
    "NSGAIISampler": ({"population_size": 4}, MIXED),
    "NSGAIIISampler": ({"population_size": 4}, MIXED),
    "GPSampler": ({"n_startup_trials": 4}, NUMBERS),
    "BruteForceSampler": ({}, GRID),
}
LEARNS, LEARNS_NOT = "TPESampler", "RandomSampler"
ALWAYS = Rule(proposals=3, unseen=99)


class Sweep:
    """A study in a journal and its proposer, as one driver has them; in memory without a file."""

    def __init__(
        self,
        journal: Path | None,
        sampler: str = LEARNS,
        rule: Rule = ALWAYS,
        enqueued: tuple[dict[str, Any], ...] = (),
        custom: str | None = None,
    ) -> None:
        settings, space = SAMPLERS[sampler]
        node = OmegaConf.create({"_target_": f"optuna.samplers.{sampler.partition(' ')[0]}", "seed": None, **settings})
        self.objectives = 2 if sampler.startswith("NSGA") else 1
        memory = InMemoryStorage() if journal is None else None
        storage = open_storage(memory, journal or Path("none"), lambda: None)
        self.store = StudyStorage(storage, "study", ["minimize"] * self.objectives, lambda: None)
        samplers = SamplerFactory(node, space, 3)
        config: DictConfig = OmegaConf.create()
        self.proposer = Proposer(self.store, "uid", space, samplers, enqueued, Path("nowhere"), custom, config, rule)

    def tell(self, number: int, best: bool = False) -> None:
        trial = self.store.trials()[number]
        values = [float(len(str(sorted(trial.params.items()))) + number % 3 + one) for one in range(self.objectives)]
        values = [-value for value in values] if best else values
        self.store.tell(self.store.id_of(trial), Told(TrialState.COMPLETE, values, {}, None))

    def propose(self) -> dict[str, Any]:
        return self.proposer.propose()[1].params

    def all_of_it(self) -> Any:
        trials = [
            (one.number, one.state, one.values, one.params, one.distributions, one.user_attrs, one.system_attrs)
            for one in self.store.trials()
        ]
        return trials, self.store.study._storage.get_study_system_attrs(self.store.study._study_id)


def asked_for(sampler: str) -> None:
    """A sampler that cannot be had here is none that a test can try."""
    if sampler == "GPSampler" and find_spec("torch") is None:
        pytest.skip("GPSampler needs torch")


@pytest.mark.parametrize("pruner", [None, HyperbandPruner(max_resource=9)], ids=["", "in brackets"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_asked_ahead_is_what_would_be_asked_for_then(
    sampler: str, pruner: optuna.pruners.BasePruner | None
) -> None:
    """Parameters, distributions, and all that samplers note of trials and of the study."""
    asked_for(sampler)
    ahead = Sweep(None, sampler)
    then = Sweep(None, sampler, Rule())
    for sweep in (ahead, then):
        if pruner is not None:
            sweep.store.study.pruner = pruner
        sweep.propose()
    for number in range(8):
        ahead.proposer.make_ready(3)
        assert len(ahead.store.trials()) == 3 * number + 1
        for sweep in (ahead, then):
            for _ in range(3):
                sweep.propose()
            for told in range(3 * number, 3 * number + 3):
                sweep.tell(told)
    assert ahead.all_of_it() == then.all_of_it()


@pytest.mark.parametrize("sampler", ["RandomSampler", "QMCSampler", "GridSampler"])
def test_whose_proposals_depend_on_no_result_keeps_them(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same however many results came meanwhile, and none is asked for twice."""
    ahead = Sweep(None, sampler, Rule(proposals=2, unseen=0))
    made, make = [], Ahead._made
    monkeypatch.setattr(
        Ahead, "_made", lambda self, number, results: made.append(number) or make(self, number, results)
    )  # type: ignore[func-returns-value]
    found = [ahead.propose(), ahead.propose()]
    for number in range(8):
        ahead.proposer.make_ready(9)
        ahead.tell(number)
        ahead.proposer.make_ready(9)
        found.append(ahead.propose())
    assert made == list(range(2, 11))
    then = Sweep(None, sampler, Rule())
    assert found == [then.propose() for _ in range(10)]


def test_a_sampler_that_learns_is_asked_again_when_there_is_a_result() -> None:
    ahead, then = Sweep(None), Sweep(None, rule=Rule())
    for sweep in (ahead, then):
        for number in range(6):
            sweep.propose()
            sweep.tell(number)
        sweep.propose()
    ahead.proposer.make_ready(1)
    for sweep in (ahead, then):
        sweep.tell(6)
    ahead.proposer.make_ready(1)
    assert ahead.propose() == then.propose()


@pytest.mark.parametrize(("results", "kept"), [(1, True), (2, True), (3, False)])
def test_no_proposal_misses_more_results_than_the_rule_allows(results: int, kept: bool) -> None:
    """A slot that is free gets what is ready, or what the sampler says with all results."""
    found = {}
    for name, told_before, rule in [
        ("ahead", 0, Rule(proposals=1, unseen=2)),
        ("without the results", 0, Rule()),
        ("with them", results, Rule()),
    ]:
        sweep = Sweep(None, rule=rule)
        for _ in range(12):
            sweep.propose()
        for number in range(8):
            sweep.tell(number)
        for number in range(8, 8 + told_before):
            sweep.tell(number, best=True)
        if name == "ahead":
            sweep.proposer.make_ready(1)
            for number in range(8, 8 + results):
                sweep.tell(number, best=True)
        found[name] = sweep.propose()
    assert found["ahead"] == found["without the results" if kept else "with them"]
    assert found["with them"] != found["without the results"]


def test_nothing_is_ready_where_no_result_may_be_missed() -> None:
    learns = Sweep(None, LEARNS, Rule(proposals=1, unseen=0))
    not_asked = Sweep(None, LEARNS_NOT, Rule(proposals=0, unseen=9))
    for sweep in (learns, not_asked):
        sweep.propose()
        sweep.proposer.make_ready(1)
        assert sweep.proposer._ahead._ready == []


def test_a_trial_comes_into_the_study_whole_and_in_one_record(tmp_path: Path) -> None:
    """So a driver that dies leaves all of it, or nothing, and what was only ready is no trial of anybody's."""
    journal, copied = tmp_path / "study.log", tmp_path / "copied.log"
    sweep = Sweep(journal)
    sweep.propose()
    sweep.proposer.make_ready(2)
    before = journal.read_bytes()
    copied.write_bytes(before)
    assert [one.number for one in Sweep(copied).store.trials()] == [0]
    params = sweep.propose()
    assert len(journal.read_bytes().removeprefix(before).splitlines()) == 1
    next_driver = Sweep(journal)
    trials = next_driver.store.trials()
    assert [one.state for one in trials] == [TrialState.RUNNING] * 2
    assert trials[1].params == params
    assert next_driver.proposer.complete(next_driver.store.id_of(trials[1])).params == params


def test_points_that_people_name_come_first() -> None:
    point = {"lr": 0.01, "depth": 7, "kind": "b"}
    sweep = Sweep(None, LEARNS_NOT, enqueued=(point, {**point, "depth": 8}))
    sweep.proposer.make_ready(3)
    assert sweep.propose() == point
    sweep.proposer.make_ready(3)  # another enqueued one is still to come
    assert sweep.propose()["depth"] == 8
    sweep.proposer.make_ready(3)
    sweep.proposer.ask(AskedPoint("a request", {**point, "depth": 9}))
    assert sweep.propose()["depth"] == 9
    sweep.proposer.make_ready(3)
    sweep.store.study.enqueue_trial({**point, "depth": 10})
    assert sweep.propose()["depth"] == 10
    then = Sweep(None, LEARNS_NOT, Rule())
    assert sweep.propose() == [then.propose() for _ in range(5)][4]


def test_trials_that_somebody_else_adds_change_the_numbers() -> None:
    sweep, then = Sweep(None, LEARNS_NOT), Sweep(None, LEARNS_NOT, Rule())
    sweep.propose()
    sweep.proposer.make_ready(2)
    sweep.store.study.add_trial(optuna.trial.create_trial(value=1.0))
    found = [sweep.propose()]
    sweep.store.study.add_trial(optuna.trial.create_trial(value=1.0))
    sweep.proposer.make_ready(2)
    found.append(sweep.propose())
    by_number = [then.propose() for _ in range(5)]
    assert found == [by_number[2], by_number[4]]


def suggests(config: DictConfig, trial: Trial) -> None:
    trial.suggest_float("more", 0, 1)
    trial.set_user_attr("seen", trial.number)


def writes_into_the_study(config: DictConfig, trial: Trial) -> None:
    trial.study.set_user_attr("last", trial.number)
    trial.suggest_float("more", 0, 1)


def fails_once(failures: list[str], config: DictConfig, trial: Trial) -> None:
    if failures:
        raise ValueError(failures.pop())


@pytest.fixture
def users_own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("users_own_space")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for function in (suggests, writes_into_the_study):
        setattr(module, function.__name__, function)
    return module


@pytest.mark.parametrize(("function", "ready"), [(suggests, 1), (writes_into_the_study, 0)])
def test_a_space_of_the_users_own(users_own: types.ModuleType, function: Any, ready: int) -> None:
    """What only a trial in the study can take is asked for when a slot is free."""
    path = f"{users_own.__name__}.{function.__name__}"
    ahead = Sweep(None, LEARNS_NOT, custom=path)
    then = Sweep(None, LEARNS_NOT, Rule(), custom=path)
    for _ in range(3):
        ahead.proposer.make_ready(1)
        assert ahead.propose() == then.propose()
    assert ahead.all_of_it() == then.all_of_it()
    assert ahead.store.study.user_attrs == then.store.study.user_attrs
    ahead.proposer.make_ready(1)
    assert len(ahead.proposer._ahead._ready) == ready


def test_an_error_is_told_by_the_trial_that_meets_it(users_own: types.ModuleType) -> None:
    failures: list[str] = []
    users_own.fails_once = partial(fails_once, failures)  # type: ignore[attr-defined]
    sweep = Sweep(None, LEARNS_NOT, custom="users_own_space.fails_once")
    sweep.propose()
    failures.append("no")
    sweep.proposer.make_ready(1)
    assert not failures
    assert sweep.propose()


def test_samplers_of_other_people_are_asked_when_a_slot_is_free() -> None:
    """Nobody knows what else they touch; and one that was built before remembers what it was asked."""

    class Own(optuna.samplers.RandomSampler):
        pass

    sweep = Sweep(None)
    for sampler in (partial(Own), optuna.samplers.RandomSampler(seed=1)):
        ahead = Ahead(ALWAYS, sweep.store, "uid", SamplerFactory(sampler, NUMBERS, 0), lambda trial: None)
        ahead.make(1)
        assert ahead.take(0) is None
