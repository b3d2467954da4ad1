"""Trialfleet: hyperparameter sweeps on Slurm that nothing can kill, for any Hydra application.

A study is started with `python train.py -m hydra/sweeper=trialfleet …`. What a training script may say to it:

    trialfleet.report(step, {"loss": 0.3})    metrics, for the pruner and MLflow
    trialfleet.should_stop()                  whether to save and leave
    trialfleet.raise_if_stopped()             leave, by Pruned or Preempted
    trialfleet.checkpoint_dir()               where to save
    trialfleet.earlier_checkpoint_dir()       where an earlier run of this trial saved
    trialfleet.artifact_dir()                 files to show in MLflow
    trialfleet.note(parameters=1200)          entries of the trial's record
"""

from trialfleet.api import (
    artifact_dir,
    checkpoint_dir,
    earlier_checkpoint_dir,
    note,
    raise_if_stopped,
    report,
    should_stop,
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
]
