"""What a trial of every peer does, and what all of them are told: `python -m benchmarks.peers.by_NAME --help`."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import asr_trial
from benchmarks.sleeping import sleep_in_parts

METRIC = "loss"  # what the objective is called
Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Work:
    """What to run.

    Attributes:
        trials: of the whole study.
        slots: trials at a time.
        folder: where the tuner and its trials write.
        steps: of a training of the tiny speech recogniser; 0: the trial sleeps instead.
        sleep: seconds.
        reports: so often a second a trial that sleeps tells what it is at.
        reuse: whether trials may share processes, where the tuner can be told.
        mlflow: the address that trainings log to; empty for nowhere.
    """

    trials: int
    slots: int
    folder: Path
    steps: int = 0
    sleep: float = 0.0
    reports: float = 0.0
    reuse: bool = False
    mlflow: str = ""

    def run(self, folder: Path, learning_rate: float, tell: Report) -> float:
        """One trial, in a folder that is not there yet; its objective.

        Args:
            tell: takes what a trial that sleeps reports; what a training reports goes to its folder and to MLflow.
        """
        if self.steps:
            with asr_trial.logged(self.mlflow, {"optimizer.learning_rate": learning_rate}) as log:
                return asr_trial.train(folder, self.steps, learning_rate, log)
        value = (learning_rate - 1e-3) ** 2
        for step in sleep_in_parts(self.sleep, self.reports):
            tell(step, {METRIC: value})
        return value


def parser() -> argparse.ArgumentParser:
    """Of what all peers are told."""
    options = argparse.ArgumentParser()
    options.add_argument("--trials", type=int, required=True)
    options.add_argument("--slots", type=int, default=1)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--steps", type=int, default=0, help="of a training; 0: sleep")
    options.add_argument("--sleep", type=float, default=0.0, help="seconds of a trial that trains nothing")
    options.add_argument("--reports", type=float, default=0.0, help="a second of that sleep")
    options.add_argument("--reuse", action="store_true", help="trials may share processes")
    options.add_argument("--mlflow", default="", help="the address that trainings log to; nowhere by default")
    return options
