"""python -m pipelines.train …: one training with the config of conf/; with -m a grid of them.

--dry-run composes, validates and builds, reports shapes, parameters and mesh, compiles for simulated devices, says
whether that fits `runtime.device`, and trains nothing. Its exit code is 0 if it fits, or nobody asked; 3 if the state
alone does not; 4 if the peak that a compiler has planned does not.
"""

import json
import re
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipelines import base_training, cli, single
from pipelines.single import Objectives
from trialfleet.config.location import conf_directory, expanded
from trialfleet.errors import UserError, nearest
from trialfleet.trial import run

if TYPE_CHECKING:
    from trialfleet.config import Config
    from trialfleet.config.devices import Needs


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
        _dry_run(config)
        return None
    current = run.current()
    if current is None:
        base_training.check(config)
        training.check(config)
        return single.train_alone(_train, cfg, config)
    outcome = training.train(base_training.ready(config, current.stop), current)
    values = [outcome.metrics[name] for name in config.objective.metrics]
    return values[0] if isinstance(config.objective.metric, str) else values


DOES_NOT_FIT, PROBABLY_DOES_NOT = 3, 4  # exit codes of a dry run


def _dry_run(config: "Config") -> None:
    """Print what the training would do, what of memory and time it needs, and whether it fits."""
    from rich.console import Console

    from trialfleet import training
    from trialfleet.training import estimate_table

    console = Console(highlight=False, markup=False)
    console.print(training.describe(config), soft_wrap=True)
    estimate = training.estimate(config)
    estimate_table.show(estimate, console)
    if not estimate_table.state_fits(estimate):
        cli.exit_with(DOES_NOT_FIT)
    elif not estimate_table.peak_fits(estimate):
        cli.exit_with(PROBABLY_DOES_NOT)


def check(cfg: DictConfig) -> None:
    """Refuse a config that no trial could run with. Imports no jax: the driver of a sweep calls it.

    Raises:
        UserError: naming the key.
    """
    from trialfleet.config import load

    own = _of_a_trial(cfg)
    config = load(own)
    base_training.check(config)
    _refuse_unheard_dry_run(cfg)
    _refuse_other_direction(cfg)
    _refuse_no_device(cfg)
    _refuse_missing_start(config)
    _refuse_unknown_bounds(cfg, config)
    sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.tp)
    tried = (config.functions(), sizes)
    # What conf/ names is known to work: only its mesh may not fit this machine.
    unknown = max(sizes) > 1 or not config.functions() <= _of_presets()
    if unknown and _runs_here(cfg) and tried not in _tried:
        _tried.add(tried)
        _asked("check", own)


def memory(cfg: DictConfig) -> "Needs":
    """What a trial with this config needs of each device's memory. Imports no jax: the driver of a sweep calls it.

    Raises:
        UserError: the config cannot be built.
    """
    from trialfleet.config import load, signature
    from trialfleet.config.devices import Needs

    own = _of_a_trial(cfg)
    config = load(own)
    of_host = (config.training.prefetch, config.training.evaluate_test)  # no part of a signature, but of what is held
    key = json.dumps([signature(config), config.runtime.device, of_host])
    if key not in _needs:
        _needs[key] = Needs(**json.loads(_asked("estimate", own)))
    return _needs[key]


def signature(cfg: DictConfig) -> str:
    """Names the programs of a trial with this config: trials of the same signature run what is compiled for one."""
    from trialfleet.config import load
    from trialfleet.config import signature as of
    from trialfleet.trial import records

    return records.digest(records.plain(of(load(_of_a_trial(cfg)))))


_needs: dict[str, "Needs"] = {}  # by signature: trials that differ in numbers alone need the same


def _of_a_trial(cfg: DictConfig) -> DictConfig:
    """The config as a trial gets it: Hydra's part is not for it, and a dry run of the sweep is none of the trial's."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    own.dry_run = False
    return own


def _refuse_unheard_dry_run(cfg: DictConfig) -> None:
    if cfg.dry_run and OmegaConf.select(cfg, "hydra.sweeper.dry_run") is False:
        raise UserError(
            "dry_run: the sweeper does not hear of it, and would start trials",
            "choose hydra/sweeper=optuna, which this project fills, or say hydra.sweeper.dry_run=true, too",
        )


def _refuse_no_device(cfg: DictConfig) -> None:
    if OmegaConf.select(cfg, "hydra.sweeper.check_memory") and cfg.runtime.device is None:
        raise UserError(
            "hydra.sweeper.check_memory: needs to know the device of the trials' jobs",
            "name it, for example runtime.device=h100",
        )


def _refuse_missing_start(config: "Config") -> None:
    """What each trial would begin with: without it all of them fail alike."""
    from trialfleet.config.schema import RESUME
    from trialfleet.training.published import INDEX, ONE

    for key, folder, files in (
        ("training.init_from", config.training.init_from, ("manifest.json",)),
        *((key, folder, (ONE, INDEX)) for key, folder in config.published().items()),
    ):
        if folder is not None and not any((expanded(folder) / name).is_file() for name in files):
            raise UserError(
                f"{key}: {folder} has no {' or '.join(files)}",
                "give the folder that has it, by its path from here or from the root",
            )
    for key, paths in config.data_files().items():
        for path in paths:
            if not expanded(path).exists():
                raise UserError(f"{key}: there is no {path}", "give it by its path from here or from the root")
    if config.training.resume not in RESUME and not expanded(config.training.resume).is_dir():
        raise UserError(
            f"training.resume: there is no folder {config.training.resume}",
            f"give that of a training or of a checkpoint, or one of {', '.join(RESUME)}",
        )


def _refuse_unknown_bounds(cfg: DictConfig, config: "Config") -> None:
    """A bound of what no trial reports would keep each of them from being the best."""
    from trialfleet.config.schema import known_metrics

    known = sorted(known_metrics(config))
    for metric in OmegaConf.select(cfg, "hydra.sweeper.constraints") or ():
        if metric not in known:
            raise UserError(
                f"hydra.sweeper.constraints: {config.workload.name} logs no metric {metric!r}{nearest(metric, known)}",
                f"choose of {', '.join(known)}",
            )


def _refuse_other_direction(cfg: DictConfig) -> None:
    """The trainer looks for the best step, and the sweeper for the best trial, by the same direction."""
    sweeper, trainer = OmegaConf.select(cfg, "hydra.sweeper.direction"), cfg.objective.direction
    if sweeper is not None and sweeper != trainer:
        raise UserError(
            f"hydra.sweeper.direction={sweeper} contradicts objective.direction={trainer}",
            "set objective.direction alone: the sweeper follows it",
        )


# What was tried out, functions and sizes of a mesh: once is enough for all probes.
_tried: set[tuple[frozenset[str], tuple[int, int, int]]] = set()


@cache
def _of_presets() -> frozenset[str]:
    """The dotted paths that members of conf/ name."""
    files = [path for group in ("workload", "rewards") for path in (conf_directory() / group).glob("*.yaml")]
    return frozenset(name for path in files for name in _DOTTED.findall(path.read_text(encoding="utf-8")))


_DOTTED = re.compile(r"\btrialfleet(?:\.\w+)+")


def _runs_here(cfg: DictConfig) -> bool:
    """Whether the sweep's trials run on this machine, so that its devices are theirs."""
    target = OmegaConf.select(cfg, "hydra.launcher._target_")
    return isinstance(target, str) and target.endswith(".LocalLauncher")


def _asked(question: str, config: DictConfig) -> str:
    """The answer of a process of its own: jax alone knows what devices there are, and what a workload returns.

    Raises:
        UserError: what that process said.
    """
    composed = OmegaConf.to_yaml(config, resolve=True)
    command = [sys.executable, "-m", "trialfleet.training", question]
    # Apart from our terminal: a Ctrl-C at the sweep is no answer.
    done = subprocess.run(command, capture_output=True, text=True, input=composed, start_new_session=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        start = next((index for index, line in enumerate(lines) if line.startswith("error: ")), max(0, len(lines) - 3))
        raise UserError("\n".join(lines[start:]).removeprefix("error: "))
    return done.stdout


# The sweeper looks for these on its task function.
task.check = check  # type: ignore[attr-defined]
task.memory = memory  # type: ignore[attr-defined]
task.signature = signature  # type: ignore[attr-defined]
task.imports = ("pipelines.train", "trialfleet.training.seeds")  # type: ignore[attr-defined]
task.review = "python -m pipelines.dashboard"  # type: ignore[attr-defined]  # the command for it


if __name__ == "__main__":
    # The task function is imported by its name, so that jobs load it as pipelines.train and not as a copy.
    from pipelines.train import task as named

    cli.main(hydra.main(config_path=str(conf_directory()), config_name="train")(named))
