"""What a training script says to the study that runs it, and hears from it.

Every function does nothing harmful outside of a study, so that the same script runs by itself. In a job of several
processes (srun, torchrun, a spawn) all of them may call all of these: the first one reports, and all hear a stop.
"""

import operator
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trialfleet.trial import attached, run
from trialfleet.trial.checkpoints import whole_entries
from trialfleet.trial.run import Preempted, Pruned, Run, Stop
from trialfleet.trial.sweep_run import FollowerRun

_STOPS = (None, Stop.PRUNE, Stop.PREEMPT, Stop.SUPERSEDED)  # later ones outweigh earlier ones


def report(step: int, metrics: Mapping[str, float]) -> None:
    """Report metrics at a step: for the pruner, the live table and MLflow's curves.

    Args:
        step: counts up, over restarts of the trial, too; what is reported for a step again is ignored.
        metrics: name → number, which may be of numpy, torch or jax.

    Raises:
        TypeError: `step` is no whole number, or a value no number.
    """
    try:
        whole = operator.index(step)
    except TypeError:
        raise TypeError(f"trialfleet.report: step must be a whole number, got {step!r}") from None
    values = {str(name): _number(str(name), value) for name, value in metrics.items()}
    if (current := _current()) is not None:
        current.report(whole, values)


def should_stop() -> bool:
    """Whether to save and leave: the trial is pruned, or its job is about to end and another one goes on.

    Cheap enough for every step. With torch.distributed or jax.distributed it is a collective: call it on all processes.
    Once it has said so, what the task returns does not count: a pruned trial has its last reported value, and one whose
    job ends goes on from its checkpoint.
    """
    return _stop() is not None


def raise_if_stopped() -> None:
    """Leave, if `should_stop()`.

    Raises:
        Pruned: the trial is pruned.
        Preempted: another run of the trial goes on from what was saved.
    """
    reason = _stop()
    if reason is Stop.PRUNE:
        raise Pruned
    if reason is not None:
        raise Preempted


def checkpoint_dir() -> Path:
    """The folder for this run's checkpoints, which exists. Only what lies here survives a preemption.

    Name what you save by its step (`step_120.pt`, `120/`), and rename it into place when it is whole: a name that
    starts with a dot or ends in `.tmp` is not taken for a checkpoint. Of all but the best trials they are removed at
    the end (`hydra.sweeper.keep_checkpoints`).
    """
    return _folder("checkpoints")


def earlier_checkpoint_dir() -> Path | None:
    """The newest folder with checkpoints that earlier runs of this trial left, to go on from; None if there is none."""
    current = _current()
    for folder in () if current is None else current.earlier_checkpoints:
        if whole_entries(folder):
            return folder
    return None


def artifact_dir() -> Path:
    """A folder, which exists, whose files are shown with the trial in MLflow."""
    return _folder("artifacts")


def note(**entries: Any) -> None:
    """Add entries (JSON values) to the trial's record, for example `note(parameters=1200)`."""
    if (current := _current()) is not None:
        current.note(**entries)


def _current() -> Run | None:
    return run.current() or attached.found()


def _folder(name: str) -> Path:
    current = _current()
    if current is not None:
        folder: Path = getattr(current, name)
    else:
        folder = (attached.output_folder() or Path.cwd()) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises RuntimeError for a tensor of many values
        raise TypeError(f"trialfleet.report: {name} must be a number, got {value!r}") from error


def _stop() -> Stop | None:
    current = _current()
    if current is None:
        return None
    reason = _agreed(current, current.stop())
    if reason is not None:
        attached.note_told(current.directory, reason)
    return reason


def _agreed(current: Run, own: Stop | None) -> Stop | None:
    """What all processes of the run do: the weightiest of what each heard, where they have a way to tell each other."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        heard = torch.tensor([_STOPS.index(own)])
        if torch.distributed.get_backend() == "nccl":
            heard = heard.cuda()
        torch.distributed.all_reduce(heard, op=torch.distributed.ReduceOp.MAX)
        return _STOPS[int(heard.item())]
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return _STOPS[int(multihost_utils.process_allgather(jax.numpy.asarray(_STOPS.index(own))).max())]
    return own or (current.stop_by_files() if isinstance(current, FollowerRun) else None)
