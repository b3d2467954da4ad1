"""Building the sampler and the pruner that the config names, and seeding the sampler for each trial.

A sampler that lived through a whole study would repeat its first proposals after a resume. So one is built
for each trial, seeded from (study seed, trial number): what trial n is offered depends on the study's
history, not on how often the driver was restarted. Grid and QMC walk a fixed sequence: theirs is one seed.
"""

import inspect
import warnings
from copy import copy
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import optuna
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException
from optuna.samplers import BaseSampler, GPSampler, GridSampler, QMCSampler
from optuna.study import Study

from trialfleet.compat.optuna import counts_qmc_points
from trialfleet.errors import UserError
from trialfleet.sweep.study.search_space import Space, grid
from trialfleet.sweep.study.trusted import trusted


class SamplerFactory:
    """Makes the sampler of each trial.

    Args:
        config: the node `hydra.sweeper.sampler`, or a sampler that was built already.
        space: the search space; the grid sampler enumerates it.
        seed: the study's seed, used where the config gives none.

    Attributes:
        shared: whether all trials have one sampler, which remembers what it was asked.
    """

    def __init__(self, config: Any, space: Space, seed: int) -> None:
        self.shared = isinstance(config, BaseSampler)
        self._build = _builder(config)
        target = self._build.func
        _check_kinds("hydra.sweeper.sampler", self._build)
        kind = target if inspect.isclass(target) else object
        self._one_seed = issubclass(kind, GridSampler | QMCSampler)
        self.grid_size: int | None = None
        if issubclass(kind, GridSampler):
            values = grid(space)
            self.grid_size = prod(len(choices) for choices in values.values())
            self._build = partial(self._build, values)
        if issubclass(kind, GPSampler) and find_spec("torch") is None:  # Optuna would say so at the tenth trial
            raise UserError("hydra.sweeper.sampler: GPSampler needs the package torch", "pip install torch")
        taken = inspect.signature(target).parameters.values()
        self._takes_seed = any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in taken)
        own = self._build.keywords.get("seed")
        try:
            self.seed = seed if own is None else int(own)
        except (TypeError, ValueError):
            raise UserError(f"hydra.sweeper.sampler.seed: {own!r} is no whole number", "correct it") from None
        self._own_seed = own is not None
        self.name = type(self(0)).__name__  # what the sampler refuses, it refuses now
        # Optuna's samplers that learn from violated constraints are those that took them as an argument before.
        self.takes_constraints = any(p.name == "constraints_func" for p in taken)

    def seeded(self, seed: int) -> "SamplerFactory":
        """The same for a study with this seed, which is used where the config gives none."""
        other = copy(self)
        other.seed = self.seed if self._own_seed else seed
        return other

    def __call__(self, number: int) -> BaseSampler:
        """The sampler for trial `number`."""
        seed = self.seed if self._one_seed else trial_seed(self.seed, number)
        with warnings.catch_warnings():
            # Users choose these samplers by name; that Optuna calls some experimental is no news each trial.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                return self._build(seed=seed) if self._takes_seed else self._build()
            except (TypeError, ValueError, ImportError) as error:
                raise UserError(f"hydra.sweeper.sampler: {error}", "correct its settings") from None

    def skip_points(self, study: Study) -> None:
        """Let a QMC sampler go on behind the points that the study's trials took.

        Optuna counts them in the study. One that was made anew from its folder alone has lost that count, and would
        begin the sequence again.
        """
        sampler = self(0)
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.params]
        if not isinstance(sampler, QMCSampler) or not trials or counts_qmc_points(study):
            return
        space = sampler.infer_relative_search_space(study, trials[0])
        for _ in trials[1:]:  # the first trial of a study is drawn at random, and tells the sampler the space
            sampler.sample_relative(study, trials[0], space)  # uses up a point, whichever trial it is for


def _builder(config: Any) -> "partial[BaseSampler]":
    if isinstance(config, BaseSampler):
        return partial(lambda: config)
    if isinstance(config, partial):  # upstream's form of the grid sampler
        return config
    fix = "choose one with hydra/sweeper/sampler=tpe|random|…"
    try:
        built = instantiate(config, _partial_=True, _execution_whitelist_=trusted(config))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"hydra.sweeper.sampler: {error.__cause__ or error}", fix) from None
    if not isinstance(built, partial):
        raise UserError("hydra.sweeper.sampler: names no _target_", fix)
    return built


_PLAIN = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def _check_kinds(key: str, built: "partial[Any]") -> None:
    """Refuse text where a number is wanted: Optuna looks at it in the middle of a study.

    Raises:
        UserError: naming the setting.
    """
    for name, wanted in inspect.signature(built.func).parameters.items():
        kind = wanted.annotation
        words = {word.strip() for word in getattr(kind, "__name__", str(kind)).split("|")} - {"None"}
        value = built.keywords.get(name)
        if isinstance(value, str) and words and words <= _PLAIN.keys():
            must = " or ".join(_PLAIN[word] for word in sorted(words))
            raise UserError(f"{key}.{name}: must be {must}, got {value!r}", "correct it")


def trial_seed(study_seed: int, number: int) -> int:
    """A seed of 32 bits for one trial, well spread even for neighbouring numbers."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def build_pruner(config: Any) -> optuna.pruners.BasePruner | None:
    """The pruner that `hydra.sweeper.pruner` names; None if it names none."""
    if config is None or isinstance(config, optuna.pruners.BasePruner):
        return config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            built = instantiate(config, _partial_=True, _execution_whitelist_=trusted(config))
            if isinstance(built, partial):
                _check_kinds("hydra.sweeper.pruner", built)
                built = built()
            pruner = built
        except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
            raise UserError(f"hydra.sweeper.pruner: {error.__cause__ or error}", "correct its settings") from None
    return None if isinstance(pruner, optuna.pruners.NopPruner) else pruner
