"""python -m pipelines.train …: one training with the config of conf/; with -m a grid of them.

--dry-run composes, validates and builds, reports shapes, parameters and mesh, and trains nothing.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipelines import cli
from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError
from trialfleet.trial import run

if TYPE_CHECKING:
    from trialfleet.config import Config

Objectives = float | list[float]


def task(cfg: DictConfig) -> Objectives | None:
    """What a job of a sweep runs, and a single training too: train, and return the objective(s).

    Raises:
        UserError: the config is wrong.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.RUN and run.current() is None:
        return cli.single(_train, cfg)
    return _train(cfg)


def _train(cfg: DictConfig) -> Objectives | None:
    from trialfleet.config import load

    config = load(cfg)
    from trialfleet import training

    if config.dry_run:
        print(training.describe(config))
        return None
    current = run.current()
    if current is None:
        training.check(config)
        return _single(cfg, config)
    outcome = training.train(config, current)
    values = [outcome.metrics[name] for name in config.objective.metrics]
    return values[0] if isinstance(config.objective.metric, str) else values


def check(cfg: DictConfig) -> None:
    """Refuse a config that no trial could run with. Imports no jax: the driver of a sweep calls it.

    Raises:
        UserError: naming the key.
    """
    from trialfleet.config import load

    config = load(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    _refuse_other_direction(cfg)
    sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.tp)
    tried = (config.workload.factory, *sizes)
    # What is part of the package is known to work: only its mesh may not fit this machine.
    unknown = max(sizes) > 1 or not config.workload.factory.startswith("trialfleet.")
    if unknown and _runs_here(cfg) and tried not in _tried:
        _tried.add(tried)
        where = [word for word in cfg.hydra.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath=")]
        _try_out([*cfg.hydra.overrides.task, *where])


def _refuse_other_direction(cfg: DictConfig) -> None:
    """The trainer looks for the best step, and the sweeper for the best trial, by the same direction."""
    sweeper, trainer = OmegaConf.select(cfg, "hydra.sweeper.direction"), cfg.objective.direction
    if sweeper is not None and sweeper != trainer:
        raise UserError(
            f"hydra.sweeper.direction={sweeper} contradicts objective.direction={trainer}",
            "set objective.direction alone: the sweeper follows it",
        )


_tried: set[tuple[str | int, ...]] = set()  # workloads and meshes that were tried out: once is enough for all probes


def _runs_here(cfg: DictConfig) -> bool:
    """Whether the sweep's trials run on this machine, so that its devices are theirs."""
    target = OmegaConf.select(cfg, "hydra.launcher._target_")
    return isinstance(target, str) and target.endswith(".LocalLauncher")


def _try_out(overrides: list[str]) -> None:
    """A dry run in a process of its own: jax alone knows how many devices there are, and what a workload returns.

    Raises:
        UserError: what the dry run said.
    """
    command = [sys.executable, "-m", "pipelines.train", *overrides, "dry_run=true", "hydra.output_subdir=null"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
        done = subprocess.run([*command, f"hydra.run.dir={folder}"], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        start = next((index for index, line in enumerate(lines) if line.startswith("error: ")), max(0, len(lines) - 3))
        raise UserError("\n".join(lines[start:]).removeprefix("error: "))


def _single(cfg: DictConfig, config: "Config") -> Objectives | None:
    """A training that belongs to no study, logged to MLflow by the same path as a trial's."""
    from trialfleet.tracking import exporter
    from trialfleet.tracking.destination import resolve
    from trialfleet.trial.sweep_run import LocalRun

    directory = Path(HydraConfig.get().runtime.output_dir)
    destination = resolve(config.tracking.uri, config.tracking.experiment, Path.cwd())
    params = dict(text.lstrip("+").split("=", 1) for text in HydraConfig.get().overrides.task if "=" in text)
    signalled: list[int] = []

    def flag(number: int, frame: FrameType | None) -> None:
        signalled.append(number)

    old = {number: signal.signal(number, flag) for number in (signal.SIGTERM, signal.SIGUSR2)}
    own = LocalRun(directory, lambda: bool(signalled))
    try:
        with (
            exporter.single_run(
                directory,
                destination,
                config.experiment_name or directory.name,
                params,
                exporter.label_tags(config.tags),
                config.tracking.poll_interval,
            ) as outcome,
            run.entered(own),
        ):
            value = _train(cfg)
            values = value if isinstance(value, list) else [value]
            outcome.objectives = dict(zip(config.objective.metrics, values, strict=True))  # type: ignore[arg-type]  # not a dry run
    finally:
        own.close()
        for number, handler in old.items():
            signal.signal(number, handler)
    print("  ".join(f"{name}={item:.6g}" for name, item in (outcome.objectives or {}).items()))
    print(f"results: {directory}")
    if outcome.problem:
        print(f"MLflow: {outcome.problem}")
    return value


# The sweeper looks for these two on its task function.
task.check = check  # type: ignore[attr-defined]
task.review = "make dashboard   (python -m pipelines.dashboard)"  # type: ignore[attr-defined]  # the command for it


if __name__ == "__main__":
    # The task function is imported by its name, so that jobs load it as pipelines.train and not as a copy.
    from pipelines.train import task as named

    cli.main(hydra.main(config_path=str(conf_directory()), config_name="train")(named))
