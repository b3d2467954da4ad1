"""Gradient descent on a parabola, with noise that is a function of the step: a trial that costs sleep, not work.

The objective is bit for bit a function of the parameters, wherever and however often the run was cut; what a
study should have found is computed by `undisturbed`.
"""

import errno
import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trialfleet.trial import run as runs
from trialfleet.trial.run import Preempted, Pruned, Run, Stop

MODES = {
    "raise": "an exception half-way",
    "undefined": "returns NaN",
    "word": "returns what is no number",
    "exit": "sys.exit half-way",
    "die": "is killed at its first step, before it could save",
    "die later": "each run is killed at its third step, having saved by then",
    "full": "meets a full disk half-way, once",
    "hang": "goes on for ever, saving and listening",
    "wait": "goes no further than half-way before it is told to leave, once",
    "held": "goes no further than half-way before there is the file `go` in the study's folder",
}


@dataclass
class State:
    """All that a checkpoint holds."""

    step: int = 0
    position: float = 10.0
    velocity: float = 0.0

    def advance(self, x: float, y: float) -> None:
        self.step += 1
        noise = math.sin(self.step * 12.9898) * 0.01
        self.velocity = 0.5 * self.velocity - 0.1 * x * (2 * (self.position - y) + noise)
        self.position += self.velocity

    def loss(self, y: float) -> float:
        return (self.position - y) ** 2 + y


def undisturbed(x: float, y: float, steps: int) -> float:
    """The objective of a trial with these parameters."""
    state = State()
    for _ in range(steps):
        state.advance(x, y)
    return state.loss(y)


def task(cfg: DictConfig) -> Any:
    run = runs.current()
    mode = cfg.mode if cfg.x > cfg.above else None
    state = _restored(run)
    began = state.step
    while state.step < cfg.steps or mode == "hang":
        state.advance(cfg.x, cfg.y)
        time.sleep(cfg.seconds)
        if run is None:
            continue
        run.report(state.step, {"loss": state.loss(cfg.y), "position": state.position})
        _misbehave(mode, state.step - began, state.step, cfg.steps, run)
        stop = run.stop()
        if stop is Stop.SUPERSEDED:
            raise Preempted
        if stop is Stop.PRUNE:
            raise Pruned
        if stop is Stop.PREEMPT or state.step % cfg.save_every == 0:
            _save(run, state)
        if stop is Stop.PREEMPT:
            raise Preempted
    if mode == "undefined":
        return math.nan
    if mode == "word":
        return "a word"
    return state.loss(cfg.y)


def two(cfg: DictConfig) -> Any:
    """The same with two objectives."""
    value = task(cfg)
    return [value, cfg.x]


def _misbehave(mode: str | None, done: int, step: int, steps: int, run: Run) -> None:
    half_way = step == steps // 2
    if mode == "die" or (mode == "die later" and done == 3):
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "raise" and half_way:
        raise RuntimeError(f"step {step} went wrong")
    if mode == "exit" and half_way:
        raise SystemExit(3)
    if mode == "full" and half_way and not run.earlier_checkpoints:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.checkpoints))
    go = run.directory.parents[3] / "go"
    while mode == "held" and half_way and not go.exists() and run.stop() is None:
        time.sleep(0.05)
    while mode == "wait" and half_way and not run.earlier_checkpoints and run.stop() is None:
        time.sleep(0.1)


def _save(run: Run, state: State) -> None:
    """One file a checkpoint, whole or not there."""
    run.checkpoints.mkdir(exist_ok=True)
    temporary = run.checkpoints / f".{state.step}"
    temporary.write_text(json.dumps(vars(state)))
    temporary.rename(run.checkpoints / str(state.step))


def _restored(run: Run | None) -> State:
    """From the newest checkpoint that can be read, of any earlier run."""
    folders = [] if run is None else run.earlier_checkpoints
    files = [file for folder in folders for file in _files(folder)]
    for file in sorted(files, key=lambda path: int(path.name), reverse=True):
        try:
            return State(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return State()


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("[0-9]*")) if folder.is_dir() else []
