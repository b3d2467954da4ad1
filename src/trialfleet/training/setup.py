"""From a config to what a training needs before its first state: mesh, workload, program, inputs."""

import importlib
import inspect
import os
from collections.abc import Sequence
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from trialfleet.config import Config, hyperparameters, static_part
from trialfleet.errors import UserError
from trialfleet.training import trees
from trialfleet.training.contract import Factory, Workload
from trialfleet.training.control import Knobs
from trialfleet.training.data import plans_of, total_steps
from trialfleet.training.mesh import make_mesh, replicated
from trialfleet.training.program import REPORT_EVERY, TOTAL_STEPS, Inputs, program, stop_sharding


class Setup:
    """What stays the same during a training."""

    def __init__(self, config: Config) -> None:
        """Builds it; computes nothing on the devices.

        Raises:
            UserError: if the mesh, the batch, the data or the names of groups do not fit.
        """
        self.config = config
        self.mesh = make_mesh(config.mesh)
        factory = find_factory(config.workload.factory)
        self.workload = factory(config)
        self.updates_per_batch = self.workload.updates_per_batch
        self.train_source = self.workload.source("train")
        self.total_steps = total_steps(self.train_source, config.seed, config.training, self.updates_per_batch)
        values = {
            **hyperparameters(config),
            TOTAL_STEPS: float(self.total_steps),
            REPORT_EVERY: float(config.training.report_every),
        }
        self._hp = np.asarray(list(values.values()), np.float32)
        self.program = program(factory, static_part(config), self.mesh, tuple(values), (), frozenset())
        _check_groups(config, self.program.layout.groups)
        self._plans: dict[int, int] = {}

    @cached_property
    def inputs(self) -> Inputs:
        """The hyperparameters and the seed on the devices, placed once, and knobs in their first position."""
        return Inputs(
            hp=self._put(self._hp),
            knobs=self.knobs(Knobs(1.0, {}, {}, None)),
            seed=jax.device_put(jax.random.key(self.config.seed), replicated(self.mesh)),
            stop=jax.device_put(np.zeros(self.mesh.size, np.int32), stop_sharding(self.mesh)),
        )

    def knobs(self, knobs: Knobs) -> jax.Array:
        """The vector of `Inputs.knobs`."""
        layout = self.program.layout
        scales = [knobs.scale * knobs.group_scale.get(group, 1.0) for group in layout.groups]
        return self._put(np.asarray([*scales, *(knobs.on.get(unit, True) for unit in layout.units)], np.float32))

    def plans(self, epoch: int) -> int:
        """Batches in a training epoch."""
        if epoch not in self._plans:
            overfit = self.config.training.overfit_batches
            self._plans[epoch] = len(plans_of(self.train_source, self.config.seed, epoch, overfit))
        return self._plans[epoch]

    def _put(self, values: np.ndarray) -> jax.Array:
        return jax.device_put(values, replicated(self.mesh))


def find_factory(path: str) -> Factory:
    """The workload class that `workload.factory` names.

    Raises:
        UserError: if it cannot be imported or lacks a method of the contract.
    """
    module, _, name = path.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"workload.factory: {path} cannot be imported: {error}", "correct the path, or put its folder on PYTHONPATH"
        ) from error
    needed = [name for name in vars(Workload) if not name.startswith("_")] + ["updates_per_batch"]
    lacking = sorted(name for name in set(needed) if not hasattr(factory, name))
    if not inspect.isclass(factory) or lacking:
        raise UserError(f"workload.factory: {path} is no workload: it lacks {', '.join(lacking) or 'a class'}")
    return factory


def fingerprint(mesh: Mesh) -> dict[str, str]:
    """What the last bits of a result depend on besides the config."""
    devices = mesh.devices.ravel()
    return {
        "jax": jax.__version__,
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "mesh": " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        "processes": str(jax.process_count()),
        "cpu_threads": os.environ.get("PJRT_NPROC", ""),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def parameter_counts(shapes: Sequence[object]) -> list[int]:
    """The number of parameters in each of some trees of shapes."""
    return [sum(int(np.prod(leaf.shape)) for leaf in trees.flatten(tree).values()) for tree in shapes]


def _check_groups(config: Config, groups: Sequence[str]) -> None:
    unknown = sorted(set(config.optimizer.groups) - set(groups))
    if unknown:
        raise UserError(
            f"optimizer.groups.{unknown[0]}: no such parameter group; {config.workload.name} has {', '.join(groups)}",
            "use one of these names",
        )
