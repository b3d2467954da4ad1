"""The run of a process that its launcher, and not this package's worker, has started for a trial.

Such are the processes that a trial's own process starts (torchrun's, those of a spawn), which find their run by an
environment variable, and the process in which a launcher without jobs of its own runs a trial (Hydra's basic launcher,
joblib's), which finds it by Hydra's output folder.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from trialfleet.trial import records
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.failure import Cause, cause_of
from trialfleet.trial.run import Preempted, Pruned, Run, Stop
from trialfleet.trial.sweep_run import NOTES, PREEMPTED, FollowerRun, SweepRun, merged

VARIABLE = "TRIALFLEET_RUN"  # the folder of the run that a process and its children belong to
LOOK_SECONDS = 0.5
# Of torchrun, Slurm, Open MPI, MPICH, submitit on one machine, and a fleet from outside.
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SUBMITIT_LOCAL_GLOBALID", "TRIALFLEET_RANK")
_signals: list[int] = []


# Called after each report of a run that the driver's own process runs: the driver looks at nothing meanwhile.
reported: list[Callable[[Path], None]] = []


def found() -> Run | None:
    """The run that this process belongs to without having been entered into it; None outside of sweeps."""
    in_process = _run_folder()  # first: a study within a trial's job has runs of its own
    folder = in_process or os.environ.get(VARIABLE)  # the variable is set in the driver, too, for its children
    if not folder:
        return None
    key = (folder, os.getpid())  # a forked child is no thread of its parent's
    with _lock:
        if key not in _runs:
            run = _attached(Path(folder), child=in_process is None)
            if run is None:
                return None
            _runs[key] = run
            while len(_runs) > KEPT:
                oldest = _runs.pop(next(iter(_runs)))
                if isinstance(oldest, AttachedRun):
                    oldest.close()
        return _runs[key]


KEPT = 16  # runs whose files this process keeps open: it may run several trials, one after another or in threads
_runs: "dict[tuple[str, int], AttachedRun | FollowerRun]" = {}
_lock = threading.RLock()


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may have held it at the fork, and is not in the child


def _attached(folder: Path, child: bool) -> "AttachedRun | FollowerRun | None":
    trial = TrialDir(folder.parent.parent)
    claim = next((claim for claim in trial.claims() if claim.label == folder.name), None)
    if claim is None:
        return None
    if child:
        _heed_the_warning()
    rank = next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdigit()), 0)
    if child and rank > 0:
        return FollowerRun(trial, claim, lambda: _is_leaving(folder), LOOK_SECONDS)
    return AttachedRun(trial, claim, lambda: _is_leaving(folder), LOOK_SECONDS)


class AttachedRun(SweepRun):
    """A run whose notes lie in a file of this process's own, from where whoever commits the result takes them."""

    @cached_property
    def _notes_file(self) -> Path:
        return self.directory / NOTES.replace("*", f"-{uuid4().hex}")

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        super().report(step, values, steps)
        for listener in reported:
            listener(self.directory)

    def note(self, **entries: Any) -> None:
        super().note(**entries)
        records.write(self._notes_file, self.notes)


def notes_of(folder: Path) -> Mapping[str, Any]:
    """What attached processes noted of the run in this folder, the latest last."""
    notes: dict[str, Any] = {}
    for file in _by_time(folder.glob(NOTES)):
        with contextlib.suppress(OSError, records.Damaged):
            notes = merged(notes, records.read(file) or {})
    return notes


def _by_time(files: Iterable[Path]) -> list[Path]:
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            found.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(found)]


def forget(folder: Path) -> None:
    """Remove what attached processes wrote of a run that is to be none."""
    told = [f"told_{reason.value}" for reason in Stop]
    for file in (folder / "metrics.jsonl", *folder.glob(NOTES), *(folder / name for name in told)):
        file.unlink(missing_ok=True)


def note_told(folder: Path, reason: Stop) -> None:
    """Leave word that the application was told to stop, whatever it does about it."""
    with contextlib.suppress(OSError):
        (folder / f"told_{reason.value}").touch()


def as_told(folder: Path, failure: BaseException | None) -> BaseException | None:
    """What ended a run whose application was told to stop: that, and not what it returned or raised then.

    Args:
        failure: the exception that its task raised; None if it returned.
    """
    if failure is not None and cause_of(failure) is not Cause.TRIAL:
        return failure
    if (folder / f"told_{Stop.PRUNE.value}").exists():
        return Pruned()
    if any((folder / f"told_{reason.value}").exists() for reason in (Stop.PREEMPT, Stop.SUPERSEDED)):
        return Preempted()
    return failure


def output_folder() -> Path | None:
    """Hydra's output folder of the job that this process runs; None outside of one."""
    module = sys.modules.get("hydra.core.hydra_config")
    if module is None or not module.HydraConfig.initialized():
        return None
    folder = module.HydraConfig.get().runtime.get("output_dir")
    return Path(folder) if folder else None


def _run_folder() -> str | None:
    """The folder of the run that a launcher without jobs of its own runs in this process."""
    folder = output_folder()
    return str(folder) if folder is not None and (folder / "claim").exists() else None


def _is_leaving(folder: Path) -> bool:
    return bool(_signals) or (folder / PREEMPTED).exists()


def _heed_the_warning() -> None:
    """Slurm sends its warning to all processes of a job, and it would end those that do nothing about it."""
    try:
        if signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
            signal.signal(signal.SIGUSR2, lambda number, frame: _signals.append(number))
    except ValueError:  # not the main thread, where alone it can be done
        pass
