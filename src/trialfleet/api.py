"""What a training script says to the study that runs it, and hears from it.

Every function does nothing harmful outside of a study, so that the same script runs by itself. In a job of several
processes (srun, torchrun, a spawn) all of them may call all of these: the first one reports, and all hear a stop.
"""

import operator
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialfleet.trial import attached, run
from trialfleet.trial.checkpoints import whole_entries
from trialfleet.trial.run import Preempted, Pruned, Run, Stop
from trialfleet.trial.sweep_run import FollowerRun

if TYPE_CHECKING:
    from trialfleet.review.studies import Study

_STOPS = (None, Stop.PRUNE, Stop.PREEMPT, Stop.SUPERSEDED)  # later ones outweigh earlier ones


def report(step: int, metrics: Mapping[str, float], steps: int | None = None) -> None:
    """Report metrics at a step: for the pruner, the live table and MLflow's curves.

    Args:
        step: counts up, over restarts of the trial, too; what is reported for a step again is ignored.
        metrics: name → number, which may be of numpy, torch or jax.
        steps: how many there will be, if that is known: the live table shows how far the trial is.

    Raises:
        TypeError: `step` or `steps` is no whole number, `metrics` no mapping, or a value no number.
    """
    whole = _whole("step", step)
    total = None if steps is None else _whole("steps", steps)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"trialfleet.report: metrics must be a mapping from names to numbers, got {metrics!r}")
    values = {str(name): _number(str(name), value) for name, value in metrics.items()}
    if (current := _current()) is not None and _is_first():
        current.report(whole, values, total)


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
    if (current := _current()) is not None and _is_first():
        current.note(**entries)


def study(name: str, folder: str | Path | None = None) -> "Study":
    """A study to look at, from a notebook say, whether its driver is at work or not.

    `.trials()` gives a pandas frame of all trials, `.best()` the best ones, `.state`, `.finished` and `.total` how it
    stands. It is read when it is first asked for; call this again for news.

    Args:
        name: the study's, or the path of its folder.
        folder: where studies lie; `sweeps` in the present folder by default.

    Raises:
        UserError: there is no such study; it names the nearest.
    """
    from trialfleet.review.studies import find  # jobs never look at studies

    return find(name, None if folder is None else Path(folder))


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


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"trialfleet.report: {name} must be a whole number, got {value!r}") from None


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError("a text")
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # torch's, for a tensor of many values
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
    torch, jax = _torch_of_several(), _jax_of_several()
    if torch is not None:
        heard = torch.tensor([_STOPS.index(own)])
        if torch.distributed.get_backend() == "nccl":
            heard = heard.cuda()
        torch.distributed.all_reduce(heard, op=torch.distributed.ReduceOp.MAX)
        return _STOPS[int(heard.item())]
    if jax is not None:
        from jax.experimental import multihost_utils

        return _STOPS[int(multihost_utils.process_allgather(jax.numpy.asarray(_STOPS.index(own))).max())]
    return own or (current.stop_by_files() if isinstance(current, FollowerRun) else None)


def _is_first() -> bool:
    """Whether this process reports for those that it speaks with: they may have been started without ranks."""
    torch, jax = _torch_of_several(), _jax_of_several()
    if torch is not None:
        return bool(torch.distributed.get_rank() == 0)
    return jax is None or bool(jax.process_index() == 0)


def _torch_of_several() -> Any:
    """torch, if this process has loaded it and speaks with others by it."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return torch


def _jax_of_several() -> Any:
    """The same of jax. It is not asked for its processes before: that would start its devices."""
    jax = sys.modules.get("jax")
    initialized = getattr(getattr(jax, "distributed", None), "is_initialized", None)
    return jax if initialized is not None and initialized() and jax is not None and jax.process_count() > 1 else None
