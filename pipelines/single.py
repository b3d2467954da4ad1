"""A training that belongs to no study: it is logged by the same path as a trial's, and goes on in its folder."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trialfleet.errors import UserError
from trialfleet.sweep.ui import command_line
from trialfleet.trial import run
from trialfleet.trial.checkpoints import whole_entries

if TYPE_CHECKING:
    from trialfleet.config import Config

Objectives = float | list[float]
PATIENCE = 30.0  # seconds for which the end waits for MLflow


def train_alone(
    train: Callable[[DictConfig], Objectives | None], cfg: DictConfig, config: "Config"
) -> Objectives | None:
    """Train in Hydra's output folder, and say at the end, whatever it was, where the results are and how to go on."""
    from trialfleet.tracking import exporter
    from trialfleet.tracking.destination import resolve
    from trialfleet.tracking.waiting import Waiting
    from trialfleet.trial.sweep_run import LocalRun
    from trialfleet.worker.system_metrics import sampled

    directory = Path(HydraConfig.get().runtime.output_dir)
    destination = resolve(config.tracking.uri, config.tracking.experiment, Path.cwd())
    here = command_line.override("hydra.run.dir", str(directory))
    again = command_line.again(here)
    params = dict(text.lstrip("+").split("=", 1) for text in HydraConfig.get().overrides.task if "=" in text)
    with _signals() as signalled, contextlib.closing(LocalRun(directory, lambda: bool(signalled))) as own:
        waiting = Waiting(directory, PATIENCE, _note, lambda: len(signalled), f"`{again}`")
        try:
            with (
                exporter.single_run(
                    directory,
                    destination,
                    config.experiment_name or directory.name,
                    params,
                    exporter.label_tags(config.tags),
                    config.tracking.poll_interval,
                    PATIENCE,
                    waiting,
                ) as outcome,
                run.entered(own),
                sampled(directory, config.tracking.system_metrics),
            ):
                value = train(cfg)
                values = value if isinstance(value, list) else [value]
                outcome.objectives = dict(zip(config.objective.metrics, values, strict=True))  # type: ignore[arg-type]  # not a dry run
        except BaseException as error:
            if not isinstance(error, UserError):
                _show_folder(directory, config, again)
            raise
    print("  ".join(f"{name}={item:.6g}" for name, item in (outcome.objectives or {}).items()))
    _show_folder(directory, config, command_line.again(here, *_longer(config)))
    if not outcome.arrived:
        print(waiting.in_vain(outcome.problem))
    elif outcome.problem:
        print(f"MLflow: {outcome.problem}")
    return value


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals so far that ask a training to save and leave."""
    signalled: list[int] = []

    def flag(number: int, frame: FrameType | None) -> None:
        signalled.append(number)

    old = {number: signal.signal(number, flag) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield signalled
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _note(message: str) -> None:
    print(f"note  {message}", file=sys.stderr, flush=True)


def _show_folder(directory: Path, config: "Config", resume: str) -> None:
    """Where the results are, and the command that goes on from the newest checkpoint there, if there is one."""
    print(f"results: {directory}")
    if config.training.resume != "never" and whole_entries(directory / "checkpoints"):
        print(f"resume:  {resume}")


def _longer(config: "Config") -> list[str]:
    """Twice as long a training."""
    lengths = {"max_steps": config.training.max_steps, "max_epochs": config.training.max_epochs}
    return [f"training.{name}={2 * length}" for name, length in lengths.items() if length is not None]
