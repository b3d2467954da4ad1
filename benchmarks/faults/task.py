"""The task: a parabola, step by step. Each step leaves a line in a side file, which the product knows nothing of.

So it can be told afterwards which work was really done, by which process, whatever became of the study's folder.
"""

import atexit
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from benchmarks.faults.parabola import State, misdeed
from trialfleet.trial import run as runs
from trialfleet.trial.run import Preempted, Pruned, Run, Stop

FOR_EVER = 3600.0  # seconds; whoever waits for a process that hangs so long waits in vain
LOG_BYTES = 4 << 30


def task(cfg: DictConfig) -> Any:
    run = runs.current()
    assert run is not None, "only a study's trials run this"
    mode = misdeed(cfg.x, list(cfg.misdeeds))
    state = _restored(run)
    while state.step < cfg.steps:
        state.advance(cfg.x, cfg.y)
        time.sleep(cfg.seconds)
        _leave_a_line(cfg, state.step)
        run.report(state.step, {"loss": state.loss(cfg.y), "position": state.position})
        stop = run.stop()
        if stop is Stop.SUPERSEDED:
            raise Preempted
        if stop is Stop.PRUNE:
            raise Pruned
        if stop is Stop.PREEMPT or state.step % cfg.save_every == 0:
            _save(run, state)
        if stop is Stop.PREEMPT:
            raise Preempted
        if state.step == cfg.steps // 2 + 1:
            _misbehave(mode, run)
    if mode == "not a number":
        return float("nan")
    _leave_something_behind(mode, run)
    return state.loss(cfg.y)


def _leave_a_line(cfg: DictConfig, step: int) -> None:
    """One write(2) in append mode: lines of many processes do not mix."""
    job = os.environ.get("SLURM_JOB_ID", "")
    line = {"x": cfg.x, "y": cfg.y, "step": step, "pid": os.getpid(), "job": job}
    descriptor = os.open(cfg.side, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, f"{json.dumps(line)}\n".encode())
    finally:
        os.close(descriptor)


def _misbehave(mode: str, run: Run) -> None:
    """What goes wrong half-way."""
    first = not run.earlier_checkpoints
    if mode == "surrogate":
        raise ValueError("half a character: \ud800")
    if mode == "device memory":
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68719476736 bytes.")
    if mode == "exit":
        sys.exit(3)
    if mode == "host memory" and first:
        raise MemoryError
    if mode == "killed" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "full disk" and first:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.checkpoints))
    if mode == "big log" and first:
        os.truncate(run.directory / "log", LOG_BYTES)
        os.kill(os.getpid(), signal.SIGKILL)


def _leave_something_behind(mode: str, run: Run) -> None:
    """What hangs on after the work is done."""
    if mode == "thread":
        threading.Thread(target=time.sleep, args=(FOR_EVER,)).start()
    if mode == "atexit":
        atexit.register(time.sleep, FOR_EVER)
    if mode == "child":
        subprocess.Popen(["sleep", str(FOR_EVER)], start_new_session=True)
    if mode == "note":
        run.note(odd={"self": task, "nothing": object()})


def _save(run: Run, state: State) -> None:
    """One file a checkpoint, whole or not there."""
    run.checkpoints.mkdir(exist_ok=True)
    temporary = run.checkpoints / f".{state.step}"
    temporary.write_text(json.dumps(vars(state)))
    temporary.rename(run.checkpoints / str(state.step))


def _restored(run: Run) -> State:
    """From the newest checkpoint that can be read, of any earlier run."""
    files = [file for folder in run.earlier_checkpoints for file in Path(folder).glob("[0-9]*")]
    for file in sorted(files, key=lambda path: int(path.name), reverse=True):
        try:
            return State(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return State()
