"""What a trainer sees of the trial it runs: where it may write, what to report to, and whether to stop.

The trainer does not know that sweeps exist. It gets a `Run`: a single training gives it a `LocalRun` on its
own output directory, a job of a sweep gives it one that also looks for verdicts and rival claims.
"""

import contextlib
import contextvars
import os
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class Stop(StrEnum):
    """Why a run is asked to end before its work is done."""

    PRUNE = "prune"  # the driver's verdict: end now, the trial is told PRUNED
    PREEMPT = "preempt"  # a signal: save and leave, another run goes on from the checkpoint
    SUPERSEDED = "superseded"  # a newer run of the same trial exists: leave and write nothing more


class Pruned(Exception):
    """Raised by a task that stopped because of `Stop.PRUNE`. The trial's last reported value stands."""


def is_pruned(failure: BaseException) -> bool:
    """Whether a task ended because it was pruned: by `Pruned`, or by raising optuna.TrialPruned itself.

    Optuna's is told by its name, so that a job need not import optuna.
    """
    names = [f"{kind.__module__}.{kind.__name__}" for kind in type(failure).__mro__]
    return isinstance(failure, Pruned) or "optuna.exceptions.TrialPruned" in names


class Preempted(Exception):
    """Raised by a task that stopped, and saved, because of `Stop.PREEMPT` or `Stop.SUPERSEDED`."""


class PeerLost(Exception):
    """Raised by a task whose other processes are gone: not the trial's fault, another run goes on."""


class NotInThisProcess(Exception):
    """Raised by a task that has done nothing yet, and cannot in a process that ran other trials before it."""


class Run(Protocol):
    """One life of a process on a trial. Only process 0 of a run writes; on others `report` does nothing."""

    directory: Path  # this run's own directory, the only one it writes to
    checkpoints: Path  # where this run saves; made by whoever saves first
    earlier_checkpoints: Sequence[Path]  # those of earlier runs of this trial, newest run first; read-only
    artifacts: Path  # files put here are shown with the trial in MLflow

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        """Append one line of metrics. Values may be non-finite. Cheap: one write(2), no fsync.

        Args:
            steps: how many there will be, if that is known: for those who watch.
        """
        ...

    def stop(self) -> Stop | None:
        """Why to stop, or None. Cheap enough for every step: files are looked at only once in a while."""
        ...

    def note(self, **entries: Any) -> None:
        """Add entries (JSON values) to the trial's record, for example seconds={"compile": 2.5}."""
        ...


_current: contextvars.ContextVar[tuple[Run, int] | None] = contextvars.ContextVar("run", default=None)


def current() -> Run | None:
    """The run that this process is on, or None outside of one, and in processes that were forked within one."""
    entry = _current.get()
    return entry[0] if entry is not None and entry[1] == os.getpid() else None


@contextlib.contextmanager
def entered(run: Run) -> Iterator[Run]:
    """Makes `run` the current one for the length of the block."""
    token = _current.set((run, os.getpid()))
    try:
        yield run
    finally:
        _current.reset(token)
