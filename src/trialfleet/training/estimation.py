"""Whether a training fits its devices, from shapes alone: its programs are compiled ahead of time and never run.

The state's bytes follow from shapes and places: they are exact. What a program needs besides is what its compiler has
planned, and an estimate wherever that compiler is the CPU's: it fuses less than an accelerator's, calculates bfloat16
in float32, and joins other collectives. Batches are those of the largest bucket.
"""

# mypy: allow-untyped-calls
# (jax's PartitionSpec, ShapeDtypeStruct and a few functions have no annotations.)

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from trialfleet.config import Config, devices
from trialfleet.config.devices import Device, Needs
from trialfleet.training import compiled, trees
from trialfleet.training.compiled import Memory
from trialfleet.training.mesh import batch_sharding, on_mesh, replicated
from trialfleet.training.setup import INDEX, Setup, parameter_counts, placed_shapes
from trialfleet.training.state import State
from trialfleet.training.workload import Batch, Params

INIT, PREPARE, STEP, EVALUATE = "init", "preparation", "step", "evaluation"

# Of what the CPU's compiler does only what decides about memory and collectives: nobody runs this program.
_QUICK: dict[str, bool | str] = {
    "xla_llvm_disable_expensive_passes": True,
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": False,
}
# How often the bytes of a collective's result cross a device's links, in a ring of many devices.
_CROSSINGS = {"all-reduce": 2}


class Planned(NamedTuple):
    """One program of a training, on each device.

    Attributes:
        memory: what its compiler has planned.
        given: bytes of what it is given besides the state: batches, hyperparameters.
        flops: of its products and convolutions, in one call; loops of unknown length count once.
        collectives: how many run in one call, and the bytes of their results, by kind.
    """

    memory: Memory
    given: int
    flops: float
    collectives: Mapping[str, tuple[int, int]]

    @property
    def bytes(self) -> int:
        """What is needed besides the state."""
        return self.given + self.memory.outputs + self.memory.temporaries


@dataclass(frozen=True)
class Estimate:
    """What a training needs of each device of its mesh.

    Attributes:
        compiler: of which platform the programs are.
        dtype: what is calculated in.
        device: name of the device that it is held against, None for none.
        parameters: how many there are, `trained` and `frozen`.
        state: bytes of the state and the frozen parameters, by part.
        waiting: bytes of the batches that are made ready ahead.
        programs: by name; without the step if nobody can say what its batches are.
        model_flops: of a step, over all devices; None if the workload does not count them.
    """

    mesh: Mapping[str, int]
    compiler: str
    dtype: str
    device: str | None
    parameters: Mapping[str, int]
    state: Mapping[str, int]
    waiting: int
    programs: Mapping[str, Planned]
    model_flops: float | None

    @property
    def spec(self) -> Device | None:
        return None if self.device is None else devices.DEVICES[self.device]

    @property
    def state_bytes(self) -> int:
        return sum(self.state.values())

    def peak_of(self, name: str) -> int:
        """Bytes while a program runs: the whole state is there, whatever of it the program is given."""
        if name == INIT:  # which makes the state
            return self.programs[name].memory.peak
        return self.state_bytes + self.waiting + self.programs[name].bytes

    @property
    def peak(self) -> int | None:
        """The most bytes at a time; None if the step is not known."""
        return max(map(self.peak_of, self.programs)) if STEP in self.programs else None

    @property
    def needs(self) -> Needs | None:
        return None if self.spec is None else Needs(str(self.device), self.spec.memory, self.state_bytes, self.peak)

    def seconds(self) -> dict[str, float]:
        """What a step takes at the device's peak rates: products, memory (all that is given, once), collectives."""
        spec, step = self.spec, self.programs.get(STEP)
        if spec is None or step is None:
            return {}
        sent = sum(_CROSSINGS.get(kind, 1) * size for kind, (_, size) in step.collectives.items())
        return {
            "products": step.flops / spec.rate(self.dtype),
            "memory": (step.memory.arguments + step.memory.outputs) / spec.bandwidth,
            "collectives": sent / spec.link,
        }


def estimate(config: Config, hopeless_too: bool = True) -> Estimate:
    """See `trialfleet.training.estimate`."""
    return of(Setup(config), hopeless_too)


def of(setup: Setup, hopeless_too: bool = True) -> Estimate:
    """The estimate of a training that is set up.

    Args:
        hopeless_too: compile the programs even if the state alone is more than the device has.
    """
    config = setup.config
    setup.rehearse()
    layout, mesh = setup.program.layout, setup.mesh
    held = state_bytes(setup)
    trained, frozen = parameter_counts([layout.shapes.params, layout.frozen_shapes])
    bucket = setup.largest_bucket("train")
    batch, of_one = setup.batch_shapes("train", bucket), setup.flops(bucket, {})
    here = mesh.devices.ravel()[0]
    device = config.runtime.device or devices.of_kind(here.device_kind)
    hopeless = device is not None and sum(held.values()) > devices.DEVICES[device].memory
    return Estimate(
        mesh=dict(mesh.shape),
        compiler=here.platform,
        dtype=config.training.compute_dtype,
        device=device,
        parameters={"trained": trained, "frozen": frozen},
        state=held,
        waiting=(max(1, config.training.prefetch) + 1) * share(batch),  # in the feed's queue, and one at its door
        programs=_compiled(_programs(setup, batch), here.platform) if hopeless_too or not hopeless else {},
        model_flops=None if of_one is None else config.training.global_batch * of_one,
    )


def state_bytes(setup: Setup) -> dict[str, int]:
    """Bytes on each device of what a training holds all the time, by part."""
    state, frozen = placed_shapes(setup.program.layout)
    return {
        "trained parameters": share(state.params),
        "frozen parameters": share(frozen),
        "optimizer": share(state.opt),
        "averaged parameters": share(state.ema),
        "statistics": share((state.extra, state.step, state.acc)),
    }


def share(shapes: Any) -> int:
    """Bytes that one device holds of arrays with these shapes and places."""
    return sum(
        prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(shapes)
    )


class _Program(NamedTuple):
    lowered: Callable[[], Any]
    given: int  # bytes besides the state


def _programs(setup: Setup, batch: Batch) -> dict[str, _Program]:
    """What is to be compiled, by name."""
    program, inputs = setup.program, setup.input_shapes
    state, frozen = placed_shapes(program.layout)
    found = {INIT: _Program(lambda: program.init.lower(inputs.hp, inputs.seed), 0)}
    given: Batch | None = batch
    if setup.workload.prepares:
        making = _preparation(setup, state, frozen, batch)
        given = making and _prepared_shapes(setup, making)
        if making is not None:
            found[PREPARE] = _Program(making.lower, share((batch, inputs)))
    if given is not None:
        shapes = given
        found[STEP] = _Program(lambda: program.step.lower(state, frozen, shapes, inputs), share((shapes, inputs)))
    seen = setup.batch_shapes("val", setup.largest_bucket("val"))
    # At the end the best checkpoint's parameters are evaluated, and the last state may be saved meanwhile.
    best = share((state.params, state.extra)) if setup.config.training.evaluate_test else 0
    found[EVALUATE] = _Program(
        lambda: program.evaluate.lower(state.params, frozen, state.extra, seen, INDEX, inputs),
        share((seen, inputs)) + best,
    )
    return found


class _Making(NamedTuple):
    """The program that makes prepared batches, and what it is given."""

    program: Any
    given: tuple[Any, ...]

    def lower(self) -> Any:
        return self.program.lower(*self.given)


def _preparation(setup: Setup, state: State, frozen: Params, batch: Batch) -> _Making | None:
    """None if the workload does not say what it makes of a batch."""

    def make(params: Params, extra: Any, batch: Batch, key: jax.Array, hp: Any) -> Batch | None:
        return setup.workload.prepared(setup.mesh, params, extra, batch, key, hp)

    whole = replicated(setup.mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    hp = {name: jax.ShapeDtypeStruct((), np.float32, sharding=whole) for name in setup.program.hp_names}
    given = (trees.merge(state.params, frozen), state.extra, batch, key, hp)
    traced = on_mesh(setup.mesh, make)
    if jax.eval_shape(traced, *given) is None:
        return None
    return _Making(jax.jit(traced, out_shardings=batch_sharding(setup.mesh)), given)


def _prepared_shapes(setup: Setup, making: _Making) -> Batch:
    placed = batch_sharding(setup.mesh)
    made: Batch = making.program.eval_shape(*making.given)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed) for name, leaf in made.items()}


def _compiled(programs: Mapping[str, _Program], platform: str) -> dict[str, Planned]:
    """All of them, side by side: a compiler works alone for most of its time."""
    options = _QUICK if platform == "cpu" else {}

    def planned(one: _Program) -> Planned:
        made = one.lowered().compile(compiler_options=options)
        found = compiled.by_kind(compiled.collectives(made))
        return Planned(compiled.memory(made), one.given, compiled.flops(made), found)

    with ThreadPoolExecutor(len(programs)) as threads:
        return dict(zip(programs, threads.map(planned, programs.values()), strict=True))
