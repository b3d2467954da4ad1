"""The training that another one begins from: made once, and shared by all that begin from the same.

`training.base` says what `pipelines.train` is told for it. Each has a folder of its own, named by its config, in which
it is a single training like any other. Of several trials that need it the first one trains it and the others wait; if
that one is gone, the next one goes on from its newest checkpoint.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

import trialfleet
from pipelines import base_overrides
from trialfleet.config.location import expanded
from trialfleet.errors import UserError
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.ui import command_line
from trialfleet.trial import attached, records
from trialfleet.trial.checkpoints import whole_entries
from trialfleet.trial.run import Preempted, Stop

if TYPE_CHECKING:
    from trialfleet.config import Config

log = logging.getLogger(__name__)

COMPLETE = "complete.json"  # in its folder, when it has ended: which checkpoint is its last
SILENT = 60.0  # seconds after which another machine that trains it, and says nothing, is taken for gone
BEAT = 5.0  # seconds between two signs of life
POLL = 1.0  # seconds between two looks
# Keys of a config that change nothing of what is learned.
APART = ("hydra", "experiment_name", "tags", "tracking", "study", "dry_run")
# What tells a process that it is one of several, or a trial's: the training is neither.
OF_A_JOB = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", attached.VARIABLE)


def ready(config: "Config", stop: Callable[[], Stop | None] = lambda: None) -> "Config":
    """The config with `training.init_from` in place of `training.base`, as soon as there is what to begin from.

    Args:
        stop: why to stop waiting, if at all.

    Raises:
        UserError: the training's config is wrong, or it failed; where its log is.
        Preempted: asked to stop while it was trained or waited for; what was trained is saved.
    """
    base = config.training.base
    if base is None or config.training.init_from is not None:
        return config
    words = base_overrides.told(config, base)
    composed = base_overrides.composed(words)
    folder = expanded(base.folder).absolute() / records.digest(_learned(composed))
    while (checkpoint := _last(folder)) is None:
        _make(folder)
        with _turn(folder, stop) as ours:
            if ours and _last(folder) is None:
                _train(folder, [*words, *_shared(config)], stop)
    return replace(config, training=replace(config.training, base=None, init_from=str(checkpoint)))


def check(config: "Config") -> None:
    """Refuse a base whose config no training could run with. Imports no jax.

    Raises:
        UserError: naming the key.
    """
    from trialfleet.config import load

    if config.training.base is None or config.training.init_from is not None:
        return
    composed = base_overrides.composed(base_overrides.told(config, config.training.base))
    try:
        base = load(composed)
    except UserError as error:
        raise UserError(f"training.base.overrides: {error.message}", error.fix) from error
    if base.dry_run:
        raise UserError("training.base.overrides: dry_run, but a base must be trained", "leave it out")
    if base.training.base is not None:
        raise UserError("training.base.overrides: that training has a base, too", "give it training.init_from")


def _learned(composed: DictConfig) -> dict[str, Any]:
    """What decides the parameters that such a training ends with."""
    kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in APART])
    plain: Any = OmegaConf.to_container(kept, resolve=True)
    for key in ("compilation_cache", "compilation_cache_bytes", "device"):
        plain["runtime"].pop(key)
    return dict(plain)


def _shared(config: "Config") -> list[str]:
    """What the training has in common with the one that needs it."""
    own = config.tracking
    values = {"tracking.uri": own.uri, "tracking.experiment": own.experiment}
    if config.runtime.compilation_cache is not None:
        values["runtime.compilation_cache"] = config.runtime.compilation_cache
    return [command_line.override(key, value) for key, value in values.items()]


def _last(folder: Path) -> Path | None:
    """The last checkpoint of a training that has ended; None if it is not there (any more)."""
    try:
        record = records.read(folder / COMPLETE) if folder.is_dir() else None
        checkpoint = None if record is None else folder / "checkpoints" / str(int(record["checkpoint"])).zfill(8)
    except (records.Damaged, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"training.base: {folder / COMPLETE} is damaged: {error}",
            "delete it: the training goes on from its newest checkpoint",
        ) from error
    return checkpoint if checkpoint is not None and checkpoint.is_dir() else None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"training.base.folder: {folder} cannot be made: {error.strerror}", "give a folder that can be written to"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"training.base.folder: {folder} cannot be written to", "give one that can")


@contextmanager
def _turn(folder: Path, stop: Callable[[], Stop | None]) -> Iterator[bool]:
    """Whether it is our turn to train: else the one whose turn it is has been waited for a while."""
    lease = Lease(folder / "lease", SILENT, BEAT)
    try:
        lease.acquire()
    except UserError:  # somebody trains it
        for _ in range(10):
            _heed(stop)
            time.sleep(POLL)
            if _last(folder) is not None:
                break
        yield False
        return
    try:
        yield True
    finally:
        lease.release()


def _heed(stop: Callable[[], Stop | None]) -> None:
    reason = stop()
    if reason is not None:
        raise Preempted(f"asked to stop ({reason}) before the base training had ended")


def _train(folder: Path, overrides: list[str], stop: Callable[[], Stop | None]) -> None:
    """Train it in a process of its own, which logs it to MLflow as any single training, and goes on where it was."""
    where = folder / "output.log"
    words = [*overrides, command_line.override("hydra.run.dir", str(folder))]
    log.info("training.base: trained first, in %s", folder)
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_JOB}
    own = [str(Path(__file__).parents[1]), str(Path(str(trialfleet.__file__)).parents[1])]
    environment["PYTHONPATH"] = os.pathsep.join([*own, *filter(None, [environment.get("PYTHONPATH")])])
    with open(where, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.train", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at our terminal is ours: we pass on what it must hear
        )
        try:
            while process.poll() is None:
                _heed(stop)
                time.sleep(POLL / 4)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # it saves and leaves
                process.wait()
    steps = whole_entries(folder / "checkpoints")
    if process.returncode != 0 or not steps:
        end = records.tail(where, 2000).strip().splitlines()[-5:]
        raise UserError(
            "training.base: that training failed" + "".join(f"\n  {line}" for line in end),
            f"see {where}; alone it is: python -m pipelines.train {shlex.join(words)}",
        )
    records.write(folder / COMPLETE, {"checkpoint": max(steps), "overrides": overrides})
