"""Samplers by name, seeded for each trial: what trial n is offered does not depend on restarts."""

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra_plugins.hydra_optuna_sweeper.config as upstream
import optuna
import pytest
from omegaconf import DictConfig, OmegaConf

from trialfleet.errors import UserError
from trialfleet.sweep.study import search_space as spaces
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.samplers import SamplerFactory, build_pruner, trial_seed
from trialfleet.sweep.study.search_space import Space
from trialfleet.sweep.study.storage import StudyStorage, Told, open_storage

SPACE = spaces.parse(["lr=tag(log,interval(1e-5,1e-1))", "depth=int(interval(1,64))", "kind=a,b,c,d"])
GRID = spaces.parse(["lr=0.1,0.2,0.3", "kind=a,b", "depth=range(1,4)"])  # 18 points
NUMBERS = spaces.parse(["x=interval(0,1)", "y=interval(0,1)"])

UPSTREAM = {
    "tpe": upstream.TPESamplerConfig,
    "random": upstream.RandomSamplerConfig,
    "grid": upstream.GridSamplerConfig,
    "cmaes": upstream.CmaEsSamplerConfig,
    "nsgaii": upstream.NSGAIISamplerConfig,
    "nsgaiii": upstream.NSGAIIISamplerConfig,
    "qmc": upstream.QMCSamplerConfig,
    "gp": upstream.GPSamplerConfig,
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As the sweep sets it: Optuna's own remarks on each proposal are not for its users."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def named(name: str, **settings: Any) -> DictConfig:
    """The node `hydra.sweeper.sampler` of one of upstream's choices."""
    node = OmegaConf.structured(UPSTREAM[name])
    OmegaConf.set_struct(node, False)
    return OmegaConf.merge(node, settings)  # type: ignore[return-value]


class Sweep:
    """A study in a journal and its proposer, as a driver has them; made anew for each life of the driver."""

    def __init__(self, journal: Path, sampler: Any, space: Space, seed: int = 3) -> None:
        storage = open_storage(None, journal, lambda: None)
        self.store = StudyStorage(storage, "study", ["minimize"], lambda: None)
        factory = SamplerFactory(sampler, space, seed)
        self.proposer = Proposer(self.store, "uid", space, factory, [], Path("nowhere"), None, OmegaConf.create())

    def propose(self) -> tuple[int, dict[str, Any]]:
        trial_id, record = self.proposer.propose()
        return trial_id, record.params

    def tell(self, trial_id: int) -> None:
        params = self.store.frozen(trial_id).params
        value = float(sum(value for value in params.values() if isinstance(value, int | float)))
        self.store.tell(trial_id, Told(optuna.trial.TrialState.COMPLETE, [value], {}, None))


def proposals(make: Callable[[], Sweep], count: int, in_flight: int, lives: int) -> list[dict[str, Any]]:
    """What the first `count` trials of a study are offered, by a driver that is restarted `lives` - 1 times."""
    restarts = {round(index * count / lives) for index in range(1, lives)}
    running: list[int] = []
    sweep = make()
    found = []
    for number in range(count):
        if number in restarts:
            sweep = make()
        if len(running) == in_flight:
            sweep.tell(running.pop(0))
        trial_id, params = sweep.propose()
        running.append(trial_id)
        found.append(params)
    for trial_id in running:
        sweep.tell(trial_id)
    return found


def test_random_search_gives_a_trial_the_same_parameters_in_any_order(tmp_path: Path) -> None:
    """However many run at a time, whatever was told before, and however often the driver was restarted."""
    ways = [(1, 1), (4, 1), (2, 5), (3, 10)]
    found = [
        proposals(lambda way=way: Sweep(tmp_path / f"{way}.log", named("random"), SPACE), 10, *way)  # type: ignore[misc]
        for way in ways
    ]
    assert all(proposed == found[0] for proposed in found)
    different = [tuple(params.values()) for params in found[0]]
    assert len(set(different)) == 10


def test_a_seed_of_the_sampler_comes_before_the_studys(tmp_path: Path) -> None:
    def first(sampler: DictConfig, seed: int) -> dict[str, Any]:
        path = tmp_path / f"{sampler.seed}-{seed}.log"
        return proposals(lambda: Sweep(path, sampler, SPACE, seed), 1, 1, 1)[0]

    assert first(named("random", seed=5), 1) == first(named("random", seed=5), 2)
    assert first(named("random"), 1) != first(named("random"), 2)


@pytest.mark.parametrize("name", ["tpe", "cmaes", "nsgaii", "nsgaiii"])
def test_a_restarted_sampler_does_not_repeat_itself(tmp_path: Path, name: str) -> None:
    """One that is seeded once a driver would offer its first proposals again after each restart."""
    sampler = named(name, seed=1)
    found = proposals(lambda: Sweep(tmp_path / "study.log", sampler, NUMBERS), 12, 2, 6)
    assert len({tuple(params.values()) for params in found}) == 12


@pytest.mark.parametrize("lives", [1, 4])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_the_grid_is_walked_whole_and_once(tmp_path: Path, lives: int, in_flight: int) -> None:
    found = proposals(lambda: Sweep(tmp_path / "study.log", named("grid"), GRID), 18, in_flight, lives)
    wanted = itertools.product([0.1, 0.2, 0.3], ["a", "b"], [1, 2, 3])
    assert sorted(tuple(p[name] for name in ("lr", "kind", "depth")) for p in found) == sorted(wanted)


def test_the_grids_size_is_known(tmp_path: Path) -> None:
    assert SamplerFactory(named("grid"), GRID, 0).grid_size == 18
    assert SamplerFactory(named("random"), GRID, 0).grid_size is None
    with pytest.raises(UserError, match="lr: the grid sampler"):
        SamplerFactory(named("grid"), SPACE, 0)


@pytest.mark.parametrize("settings", [{}, {"scramble": True}, {"qmc_type": "halton"}])
def test_a_quasi_random_sequence_goes_on_where_it_was(tmp_path: Path, settings: dict[str, Any]) -> None:
    sampler = named("qmc", **settings)
    in_one = proposals(lambda: Sweep(tmp_path / "one.log", sampler, NUMBERS), 9, 2, 1)
    in_four = proposals(lambda: Sweep(tmp_path / "four.log", sampler, NUMBERS), 9, 2, 4)
    assert in_four == in_one
    assert len({tuple(params.values()) for params in in_one}) == 9


def test_trials_that_run_together_are_told_apart_by_their_seeds() -> None:
    seeds = {trial_seed(study, number) for study in range(3) for number in range(200)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_samplers_build_under_their_names(name: str, caplog: pytest.LogCaptureFixture) -> None:
    if name == "gp" and find_spec("torch") is None:
        with pytest.raises(UserError, match="torch"):
            SamplerFactory(named(name), NUMBERS, 0)
        return
    with caplog.at_level(logging.WARNING):
        factory = SamplerFactory(named(name), GRID, 0)
        assert isinstance(factory(4), optuna.samplers.BaseSampler)
    assert factory.name == type(factory(4)).__name__
    assert not caplog.records


def test_the_config_of_each_choice_here_builds() -> None:
    folder = Path(str(files("trialfleet.conf"))) / "hydra" / "sweeper"
    assert len(list(folder.glob("*/*.yaml"))) > 8
    for path in sorted((folder / "sampler").glob("*.yaml")):
        if path.stem == "auto" and not hasattr(optuna.samplers, "AutoSampler"):
            with pytest.raises(UserError, match="AutoSampler"):
                SamplerFactory(OmegaConf.load(path), NUMBERS, 0)
        else:
            SamplerFactory(OmegaConf.load(path), NUMBERS, 0)
    for path in sorted((folder / "pruner").glob("*.yaml")):
        node = OmegaConf.load(path)
        if path.stem == "threshold":
            node.lower = 0.0  # a threshold has no default
        assert (build_pruner(node) is None) == (path.stem == "none")


def test_motpe_says_what_to_use_instead() -> None:
    with pytest.raises(UserError, match="hydra/sweeper/sampler=tpe"):
        SamplerFactory(OmegaConf.structured(upstream.MOTPESamplerConfig), NUMBERS, 0)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "optuna.samplers.NoSuchSampler"},
        {"_target_": "no_such_package.Sampler"},
        {"_target_": "optuna.samplers.TPESampler", "n_startup_trails": 5},
        {"_target_": "optuna.samplers.QMCSampler", "qmc_type": "sobel"},
        {"_target_": "optuna.samplers.TPESampler", "seed": "seven"},
        {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": "ten"},  # Optuna looks at it in the first trial
        {"seed": 3},
    ],
)
def test_what_is_no_sampler_is_refused_at_once(node: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler"):
        SamplerFactory(OmegaConf.create(node), NUMBERS, 0)


def test_a_sampler_that_takes_no_seed_is_left_without() -> None:
    class Fixed(optuna.samplers.RandomSampler):
        def __init__(self, width: int = 1) -> None:
            super().__init__(width)

    factory = SamplerFactory(partial(Fixed, width=3), NUMBERS, 0)
    assert isinstance(factory(1), Fixed)


def test_a_sampler_that_was_built_already_is_used_as_it_is() -> None:
    sampler = optuna.samplers.RandomSampler(seed=1)
    assert SamplerFactory(sampler, NUMBERS, 0)(7) is sampler


def test_pruners() -> None:
    assert build_pruner(None) is None
    assert build_pruner(OmegaConf.create({"_target_": "optuna.pruners.NopPruner"})) is None
    median = build_pruner(OmegaConf.create({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2}))
    assert isinstance(median, optuna.pruners.MedianPruner)
    assert build_pruner(median) is median
    with pytest.raises(UserError, match=r"hydra\.sweeper\.pruner"):
        build_pruner(OmegaConf.create({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": -2}))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.pruner\.n_warmup_steps: must be a whole number, got 'two'"):
        build_pruner(OmegaConf.create({"_target_": "optuna.pruners.MedianPruner", "n_warmup_steps": "two"}))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.pruner"):
        build_pruner(OmegaConf.create({"_target_": "optuna.pruners.NoSuchPruner"}))


def test_a_pruner_and_a_sampler_of_the_users_own_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra builds what it is allowed to by name; a name that the user typed is allowed, wherever it is nested."""
    (tmp_path / "users_own.py").write_text(
        "import optuna\n\nclass Pruner(optuna.pruners.MedianPruner):\n    pass\n\n"
        "class Sampler(optuna.samplers.RandomSampler):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = build_pruner(OmegaConf.create({"_target_": "users_own.Pruner", "n_startup_trials": 2}))
    patient = {"_target_": "optuna.pruners.PatientPruner", "wrapped_pruner": {"_target_": "users_own.Pruner"}}
    nested = build_pruner(OmegaConf.create({**patient, "patience": 1}))
    assert type(own).__name__ == "Pruner"
    assert type(nested._wrapped_pruner).__name__ == "Pruner"  # type: ignore[union-attr]
    assert SamplerFactory(OmegaConf.create({"_target_": "users_own.Sampler"}), NUMBERS, 0).name == "Sampler"


@pytest.mark.parametrize(("name", "takes"), [("TPESampler", True), ("NSGAIISampler", True), ("RandomSampler", False)])
def test_which_samplers_learn_from_violated_constraints(name: str, takes: bool) -> None:
    node = OmegaConf.create({"_target_": f"optuna.samplers.{name}"})
    assert SamplerFactory(node, NUMBERS, 0).takes_constraints is takes
