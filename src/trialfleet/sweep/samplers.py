"""Building the sampler and the pruner that the config names, and seeding the sampler for each trial.

A sampler that lived through a whole study would repeat its first proposals after a resume. So one is built
for each trial, seeded from (study seed, trial number): what trial n is offered depends on the study's
history, not on how often the driver was restarted. Grid and QMC walk a fixed sequence: theirs is one seed.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.samplers import BaseSampler, GridSampler, QMCSampler

from trialfleet.errors import UserError
from trialfleet.sweep import space as spaces
from trialfleet.sweep.space import Space

_TRUSTED = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.*", "optunahub.*", "trialfleet.sweep.*")


class SamplerFactory:
    """Makes the sampler of each trial.

    Args:
        config: the node `hydra.sweeper.sampler`, or a sampler that was built already.
        space: the search space; the grid sampler enumerates it.
        seed: the study's seed, used where the config gives none.
    """

    def __init__(self, config: Any, space: Space, seed: int) -> None:
        self._build = self._builder(config)
        target = self._build.func if isinstance(self._build, partial) else self._build
        self.is_grid = inspect.isclass(target) and issubclass(target, GridSampler)
        self._one_seed = self.is_grid or (inspect.isclass(target) and issubclass(target, QMCSampler))
        self.grid_size: int | None = None
        if self.is_grid:
            values = spaces.grid(space)
            self.grid_size = int(np.prod([len(choices) for choices in values.values()]))
            self._build = partial(self._build, values)
        own = config.get("seed") if isinstance(config, DictConfig | dict) else None
        self.seed = seed if own is None else int(own)
        self._takes_seed = "seed" in inspect.signature(target).parameters or target is not type(target)
        self.name = getattr(target, "__name__", type(target).__name__)
        self(0)  # what the sampler refuses, it refuses now

    def __call__(self, number: int) -> BaseSampler:
        """The sampler for trial `number`."""
        seed = self.seed if self._one_seed else trial_seed(self.seed, number)
        with warnings.catch_warnings():
            # Users choose these samplers by name; that Optuna calls some experimental is no news each trial.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                return self._build(seed=seed)
            except (TypeError, ValueError, ImportError) as error:
                raise UserError(f"hydra.sweeper.sampler: {error}", "correct its settings") from None

    def _builder(self, config: Any) -> Callable[..., BaseSampler]:
        if isinstance(config, BaseSampler):
            return lambda seed: config
        if isinstance(config, partial):  # upstream's form of the grid sampler
            return config
        try:
            built = instantiate(config, _partial_=True, _execution_whitelist_=_TRUSTED)
        except Exception as error:
            cause = error.__cause__ or error
            raise UserError(
                f"hydra.sweeper.sampler: {cause}", "choose one with hydra/sweeper/sampler=tpe|random|…"
            ) from None
        keywords = {name: value for name, value in built.keywords.items() if name != "seed"}
        return partial(built.func, *built.args, **keywords)


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
            pruner = instantiate(config, _execution_whitelist_=_TRUSTED)
        except Exception as error:
            raise UserError(f"hydra.sweeper.pruner: {error.__cause__ or error}", "correct its settings") from None
    return None if isinstance(pruner, optuna.pruners.NopPruner) else pruner
