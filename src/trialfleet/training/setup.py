"""From a config to everything a training needs before its first state: mesh, workload, program, inputs."""

import importlib
import inspect
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from trialfleet.config import Config, hyperparameters, static_part
from trialfleet.errors import UserError
from trialfleet.training.contract import Factory, Source, Workload
from trialfleet.training.control import Knobs
from trialfleet.training.data import plans_of, total_steps
from trialfleet.training.mesh import make_mesh, replicated
from trialfleet.training.program import REPORT_EVERY, TOTAL_STEPS, Inputs, Program, program
from trialfleet.training.wishes import Wishes


@dataclass(frozen=True)
class Setup:
    """What stays the same during a training."""

    config: Config
    workload: Workload
    train_source: Source
    program: Program
    total_steps: int

    @cached_property
    def inputs(self) -> Inputs:
        """The hyperparameters and the seed on the devices, placed once."""
        values = hp_values(self.config, self.total_steps)
        whole = replicated(self.program.mesh)
        return Inputs(
            hp=put(np.asarray([values[name] for name in self.program.hp_names], np.float32), self.program.mesh),
            knobs=self.knobs(Knobs({}, {}, None)),
            seed=jax.device_put(jax.random.key(self.config.seed), whole),
            stop=put(np.zeros((), np.int32), self.program.mesh),
        )
