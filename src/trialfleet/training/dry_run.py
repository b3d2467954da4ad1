"""What a training would do, as text, from shapes alone."""

import jax

from trialfleet.config import Config, hyperparameters, signature
from trialfleet.training import trees
from trialfleet.training.mesh import batch_shards
from trialfleet.training.setup import Setup, parameter_counts


def text(config: Config) -> str:
    """See `trialfleet.training.describe`."""
    setup = Setup(config)
    setup.rehearse()
    layout, mesh = setup.program.layout, setup.mesh
    trained, frozen = parameter_counts([layout.shapes.params, layout.frozen_shapes])
    per_device = config.training.global_batch // setup.program.accumulation // batch_shards(mesh)
    model = getattr(getattr(config, "model", None), "name", None)
    lines = [
        f"workload    {config.workload.name}" + (f", model {model}" if model else ""),
        f"mesh        {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}"
        f" of {jax.device_count()} {mesh.devices.ravel()[0].device_kind} devices",
        f"parameters  {trained:,} trained, {frozen:,} frozen",
        f"batch       {config.training.global_batch} examples = {setup.program.accumulation} micro-batches x "
        f"{batch_shards(mesh)} shards x {per_device}",
        *(
            f"            {name}: {leaf.dtype} {leaf.shape[2:]}"
            for name, leaf in sorted(setup.batch_shapes("train").items())
        ),
        f"steps       {setup.total_steps}, {setup.plans(0)} batches in the first epoch"
        + (f", {setup.dropped} examples left out" if setup.dropped else ""),
        *_of_base(config),
        f"objective   {', '.join(config.objective.metrics)} ({', '.join(config.objective.directions)})",
        "parameters by path",
        *(
            f"            {path}: {shape.shape} {layout.leaves[path].group} {_place(setup, path)}"
            for path, shape in trees.flatten(layout.shapes.params).items()
        ),
        "hyperparameters",
        *(f"            {name} = {value:g}" for name, value in hyperparameters(config).items()),
        "signature",
        *(f"            {name} = {value}" for name, value in signature(config).items() if value != "<traced>"),
    ]
    return "\n".join(lines)


def _of_base(config: Config) -> list[str]:
    base = config.training.init_from
    return [] if base is None else [f"begins      with the parameters of {base}, which is not looked at"]


def _place(setup: Setup, path: str) -> str:
    return str(trees.flatten(setup.program.layout.shardings.params)[path].spec)
