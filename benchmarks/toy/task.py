"""The task: sleep, and leave a stamp of when that was."""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import trialfleet
from benchmarks.sleeping import sleep_in_parts


@dataclass
class Stamp:
    """One execution of the task with parameter `x`, by a process; Unix seconds. `end` is None if it was cut."""

    x: float
    start: float
    end: float | None = None
    number: int = 0  # of the trial
    process: str = ""  # its node and id

    def write(self, path: Path) -> None:
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def stamps(folder: Path) -> list[Stamp]:
    """All executions that left a stamp in the folder."""
    return [Stamp(**json.loads(path.read_text())) for path in folder.glob("[0-9a-f]*")]


def objective(x: float) -> float:
    """What the task returns."""
    return (x - 0.3) ** 2


def seconds(cfg: DictConfig, number: int) -> float:
    """How long the trial of this number sleeps."""
    if cfg.sleepers is not None and not any(first <= number < end for first, end in cfg.sleepers):
        return 0.0
    return float(cfg.shortest * cfg.ratio**cfg.x)


def task(cfg: DictConfig) -> Any:
    number = int(HydraConfig.get().job.num)
    process = f"{os.environ.get('SLURMD_NODENAME', 'localhost')}:{os.getpid()}"
    stamp, path = Stamp(float(cfg.x), time.time(), None, number, process), Path(cfg.stamps) / uuid4().hex
    stamp.write(path)
    _sleep(seconds(cfg, number), cfg.kill_every and number % cfg.kill_every == cfg.kill_every // 2, cfg, number)
    stamp.end = time.time()
    stamp.write(path)
    return objective(cfg.x)


def _sleep(length: float, killed: bool, cfg: DictConfig, number: int) -> None:
    """Sleep so long; one that is to be killed is so half-way, and goes on from there when it is run again."""
    half = Path(cfg.stamps) / f".half-{number}"
    if not killed:
        for step in sleep_in_parts(length, cfg.reports):
            trialfleet.report(step, {"objective": objective(cfg.x)})
        return
    time.sleep(length / 2)
    if not half.exists():
        half.touch()
        os.kill(os.getpid(), signal.SIGKILL)


task.imports = ("benchmarks.toy.task",)  # type: ignore[attr-defined]  # before its jobs are forked
