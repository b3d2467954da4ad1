"""From a config to what a training needs before its first state: mesh, workload, program, inputs."""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh

from trialfleet.config import Config, hyperparameters, static_part
from trialfleet.config.freezing import NoFreezing, Staged
from trialfleet.errors import UserError
from trialfleet.training import contract, flops, trees
from trialfleet.training.contract import CheckedWorkload, batch_of
from trialfleet.training.control import Facts, Knobs
from trialfleet.training.data import examples_of, plans_of, total_steps
from trialfleet.training.mesh import batch_sharding, eval_sharding, make_mesh, put, replicated, undivided
from trialfleet.training.plans import ShortEpochs
from trialfleet.training.program import REPORT_EVERY, TOTAL_STEPS, Inputs, program, stop_sharding
from trialfleet.training.state import Layout, State
from trialfleet.training.workload import Batch, BatchPlan, Factory, Hyperparameters, Params

INDEX = jax.ShapeDtypeStruct((), np.int32)  # of an evaluation's batch, where shapes stand for numbers

log = logging.getLogger(__name__)


class Setup:
    """What stays the same during a training."""

    def __init__(self, config: Config) -> None:
        """Builds it; computes nothing on the devices, and puts nothing there.

        Raises:
            UserError: if the mesh, the batch, the data or the names of groups do not fit.
        """
        self.config = config
        self.mesh = make_mesh(config.mesh)
        factory = find_factory(config.workload.factory)
        self.workload = CheckedWorkload(factory, config)
        _check_groups(config, self.workload)
        self.updates_per_batch = self.workload.updates_per_batch
        self.train_source = self.workload.source("train")
        if config.training.limit_train_batches is not None:
            self.train_source = ShortEpochs(self.train_source, config.training.limit_train_batches)
        # What a source leaves out it may count, so that nobody wonders where examples went.
        self.dropped = int(getattr(self.train_source, "dropped", 0))
        self.total_steps = total_steps(self.train_source, config.seed, config.training, self.updates_per_batch)
        self._plans: dict[int, int] = {}
        self._flops: dict[tuple[int, tuple[str, ...]], float | None] = {}
        if self.total_steps == 0 or self.plans(0) == 0:
            raise UserError(
                "training.global_batch: the training data does not fill one batch", "choose a smaller global batch"
            )
        values = {
            **hyperparameters(config),
            TOTAL_STEPS: float(self.total_steps),
            REPORT_EVERY: float(config.training.report_every),
        }
        # float32 by construction: an integer where others have a float would compile anew.
        self._hp = np.asarray(list(values.values()), np.float32)
        self.program = program(factory, static_part(config), self.mesh, tuple(values))
        _check_stages(config, self.program.layout)
        _check_divided(config, self.mesh, self.workload)

    @cached_property
    def inputs(self) -> Inputs:
        """The hyperparameters and the seed on the devices, placed once, and knobs in their first position."""
        return Inputs(
            hp=self._put(self._hp),
            knobs=self.knobs(Knobs(1.0, {}, {}, None)),
            seed=self._put(np.asarray([self.config.seed >> 32, self.config.seed & 0xFFFFFFFF], np.uint32)),
            stop=put(np.zeros(self.mesh.size, np.int32), stop_sharding(self.mesh)),
        )

    @cached_property
    def input_shapes(self) -> Inputs:
        """The shapes and places of `inputs`."""
        layout, whole = self.program.layout, replicated(self.mesh)
        knobs = 1 + len(layout.groups) + len(layout.units)
        shapes: Any = Inputs  # of shapes instead of arrays
        return cast(
            Inputs,
            shapes(
                hp=jax.ShapeDtypeStruct(self._hp.shape, np.float32, sharding=whole),
                knobs=jax.ShapeDtypeStruct((knobs,), np.float32, sharding=whole),
                seed=jax.ShapeDtypeStruct((2,), np.uint32, sharding=whole),
                stop=jax.ShapeDtypeStruct((self.mesh.size,), np.int32, sharding=stop_sharding(self.mesh)),
            ),
        )

    @cached_property
    def hp(self) -> Hyperparameters:
        """The hyperparameters one by one, for what a workload does on the host."""
        return {name: self._put(value) for name, value in zip(self.program.hp_names, self._hp, strict=True)}

    @cached_property
    def facts(self) -> Facts:
        """What control must know of the model."""
        layout = self.program.layout
        shapes = trees.flatten(layout.shapes.params)
        sizes: dict[tuple[str, str], int] = {}
        for path, leaf in layout.leaves.items():
            key = (leaf.group, leaf.unit)
            sizes[key] = sizes.get(key, 0) + prod(shapes[path].shape)
        values = dict(zip(self.program.hp_names, map(float, self._hp), strict=True))
        base = values["optimizer.learning_rate"]
        rates = {group: values.get(f"optimizer.groups.{group}.learning_rate", base) for group in layout.groups}
        order = [unit for unit in self.workload.release_order() if unit in layout.units]
        return Facts(order, sizes, rates)

    def knobs(self, knobs: Knobs) -> jax.Array:
        """The vector of `Inputs.knobs`."""
        layout = self.program.layout
        scales = [knobs.scale, *(knobs.group_scale.get(group, 1.0) for group in layout.groups)]
        return self._put(np.asarray([*scales, *(knobs.on.get(unit, True) for unit in layout.units)], np.float32))

    def flops(self, bucket: int, on: Mapping[str, bool]) -> float | None:
        """Model FLOPs of training on one example; None if the workload does not count them.

        Args:
            on: whether a freeze unit is trained now; those that are not named are.
        """
        key = (bucket, tuple(unit for unit, trained in sorted(on.items()) if not trained))
        if key not in self._flops:
            products, leaves = self.workload.flops(bucket), self.program.layout.leaves

            def trained(path: str) -> bool:
                return path in leaves and leaves[path].unit not in key[1]

            self._flops[key] = None if products is None else flops.of_training(products, trained)
        return self._flops[key]

    def plans(self, epoch: int) -> int:
        """Batches in a training epoch."""
        if epoch not in self._plans:
            overfit = self.config.training.overfit_batches
            self._plans[epoch] = len(plans_of(self.train_source, self.config.seed, epoch, overfit))
        return self._plans[epoch]

    def largest_bucket(self, split: str) -> int:
        """The largest of the first epoch."""
        return max(plan.bucket for plan in self._plans_of(split))

    def _plans_of(self, split: str) -> Sequence[BatchPlan]:
        return self.workload.source(split).epoch(self.config.seed if split == "train" else 0, 0)

    def batch_shapes(self, split: str, bucket: int | None = None) -> Batch:
        """Shapes of the first batch of a split, or of the first in a bucket, found by reading one example.

        Raises:
            UserError: if the split has no batch, or its examples make none.
        """
        source, training = self.workload.source(split), self.config.training
        train = split == "train"
        plans = [plan for plan in self._plans_of(split) if bucket in (None, plan.bucket)]
        if not plans:
            raise UserError(f"{type(source).__name__}: {split!r} has no batches", "see where its examples went")
        rows = plans[0].rows[:1]
        examples = examples_of(source, plans[0], self.config.seed if train else 0, 0, 0, [0])
        batch = batch_of(source, examples, plans[0].bucket, None if train else rows)
        parts = self.program.accumulation
        sizes = (parts, training.global_batch // parts) if train else (training.eval_batch,)
        placed = batch_sharding(self.mesh) if train else eval_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(
                (*sizes, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype), sharding=placed
            )
            for name, leaf in batch.items()
        }

    def rehearse(self) -> None:
        """Goes through what a training calls of its workload, with shapes in the place of numbers.

        What is traced here is what the first calls of the program use: it is not traced twice.

        Raises:
            UserError: what the workload returns, or what the data gives, is not what the trainer needs.
        """
        shapes, frozen = placed_shapes(self.program.layout)
        batch = self.batch_shapes("train")
        if not self.workload.prepares:  # else only the workload knows what its updates get
            self.program.step.eval_shape(shapes, frozen, batch, self.input_shapes)
        for split in ("val", "test") if self.config.training.evaluate_test else ("val",):
            batch = self.batch_shapes(split)
            self.program.evaluate.eval_shape(shapes.params, frozen, shapes.extra, batch, INDEX, self.input_shapes)

    def _put(self, values: np.ndarray) -> jax.Array:
        return put(values, replicated(self.mesh))


def placed_shapes(layout: Layout) -> tuple[State, Params]:
    """Shapes of the state and of the frozen parameters, with their places: what a program can be compiled from."""
    return _placed(layout.shapes, layout.shardings), _placed(layout.frozen_shapes, layout.frozen_shardings)


def _placed(shapes: Any, shardings: Any) -> Any:
    """Shapes with their places: what is traced of them is what is traced of the arrays."""
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place, weak_type=shape.weak_type),
        shapes,
        shardings,
    )


def find_factory(path: str) -> Factory:
    """The workload class that `workload.factory` names.

    Raises:
        UserError: if it cannot be imported, is no complete workload, or has methods that take other arguments.
    """
    module, _, name = path.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"workload.factory: {path} cannot be imported: {error}", "correct the path, or put its folder on PYTHONPATH"
        ) from error
    contract.check_class(factory, path)
    found: Factory = factory
    return found


def fingerprint(mesh: Mesh) -> dict[str, str]:
    """What the last bits of a result depend on besides the config."""
    devices = mesh.devices.ravel()
    return {
        "jax": jax.__version__,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "mesh": " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        "processes": str(jax.process_count()),
        "cpu_threads": os.environ.get("PJRT_NPROC", ""),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def parameter_counts(trees_of_shapes: Sequence[object]) -> list[int]:
    """The number of parameters in each of some trees of shapes."""
    return [sum(prod(leaf.shape) for leaf in trees.flatten(tree).values()) for tree in trees_of_shapes]


def _check_divided(config: Config, mesh: Mesh, workload: CheckedWorkload) -> None:
    """Say which parameters every device of a mesh axis has whole.

    Raises:
        UserError: there are some, and `mesh.undivided` is error.
    """
    shapes = trees.flatten(workload.shapes)
    found = {path: undivided(mesh, axes, shapes[path].shape) for path, axes in workload.axes().items()}
    whole = [f"{path} ({', '.join(axes)})" for path, axes in sorted(found.items()) if axes]
    if not whole:
        return
    shown = ", ".join(whole[:5]) + (f" and {len(whole) - 5} more" if len(whole) > 5 else "")
    if config.mesh.undivided == "error":
        raise UserError(
            f"mesh: does not divide {shown}", "choose sizes that do, or mesh.undivided=warn to keep these axes whole"
        )
    log.warning("mesh: does not divide %s: each device has these axes whole", shown)


def _check_stages(config: Config, layout: Layout) -> None:
    """Each unit is trained in some stage, and no other is named.

    Raises:
        UserError: naming the unit.
    """
    if not isinstance(config.freezing, Staged):
        return
    named = {unit for stage in config.freezing.stages for unit in stage}
    if strange := sorted(named - set(layout.units)):
        raise UserError(
            f"freezing.stages: no unit {strange[0]!r} is trained; there are {', '.join(layout.units)}",
            "use these names",
        )
    if idle := sorted(set(layout.units) - named):
        raise UserError(
            f"freezing.stages: {idle[0]} is trained in none of them",
            "name it in one, or leave it out by freezing.never",
        )


def _check_groups(config: Config, workload: CheckedWorkload) -> None:
    groups = sorted({workload.group(path) for path in workload.shapes})
    boost = getattr(config.freezing, "rate_boost", None)
    named = {f"optimizer.groups.{group}": group for group in config.optimizer.groups}
    if boost is not None:
        named |= {"freezing.rate_boost.group": boost.group, "freezing.rate_boost.of_group": boost.of_group}
    for key, group in named.items():
        if group not in groups:
            raise UserError(
                f"{key}: there is no parameter group {group!r}; {config.workload.name} has {', '.join(groups)}",
                "use one of these names",
            )
    by_order = not isinstance(config.freezing, NoFreezing | Staged)
    if by_order and not workload.release_order():
        raise UserError(
            f"freezing: {config.workload.name} has no units that could be released one by one", "use freezing=none"
        )
