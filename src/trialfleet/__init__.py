"""Trialfleet: hyperparameter sweeps on Slurm that nothing can kill, for any Hydra application.

A study is started with `python train.py -m hydra/sweeper=trialfleet …`. What a training script may say to it:

    trialfleet.report(step, {"loss": 0.3})    metrics, for the pruner and MLflow
    trialfleet.should_stop()                  whether to save and leave
    trialfleet.raise_if_stopped()             leave, by Pruned or Preempted
    trialfleet.checkpoint_dir()               where to save
    trialfleet.earlier_checkpoint_dir()       where an earlier run of this trial saved
    trialfleet.artifact_dir()                 files to show in MLflow
    trialfleet.note(parameters=1200)          entries of the trial's record

And to look at a study, in a notebook say:

    trialfleet.study("name").trials()         a pandas frame
"""

from typing import TYPE_CHECKING

from trialfleet.api import (
    artifact_dir,
    checkpoint_dir,
    earlier_checkpoint_dir,
    note,
    raise_if_stopped,
    report,
    should_stop,
    study,
)
from trialfleet.trial.run import Preempted, Pruned

__all__ = [
    "Preempted",
    "Pruned",
    "artifact_dir",
    "checkpoint_dir",
    "earlier_checkpoint_dir",
    "note",
    "raise_if_stopped",
    "report",
    "should_stop",
    "study",
]

__version__: str

if not TYPE_CHECKING:  # else any name would pass for one of this module

    def __getattr__(name: str) -> str:
        """The installed version, looked up when somebody asks: jobs need not import what reads it."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("trialfleet")
