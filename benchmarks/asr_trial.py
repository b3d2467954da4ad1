"""One short training of the tiny speech recogniser, as any program could call it that knows nothing of sweeps."""

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from trialfleet.trial.sweep_run import LocalRun

CONFIG = ("workload=asr", "model=asr_tiny")
LOWEST, HIGHEST = 1e-4, 1e-2  # learning rates, drawn on a logarithmic scale
Report = Callable[[int, Mapping[str, float]], None]


class ToldRun(LocalRun):
    """A run that tells somebody else, too, what it reports: a tuner, or MLflow."""

    def __init__(self, directory: Path, tell: Report) -> None:
        super().__init__(directory)
        self._tell = tell

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        super().report(step, values, steps)
        self._tell(step, values)


def rate(chance: random.Random) -> float:
    """A learning rate."""
    return math.exp(chance.uniform(math.log(LOWEST), math.log(HIGHEST)))


def train(folder: Path, steps: int, learning_rate: float, tell: Report) -> float:
    """Train in this folder; the objective."""
    import hydra

    from trialfleet import training
    from trialfleet.config import load
    from trialfleet.config.location import conf_directory

    words = [*CONFIG, f"training.max_steps={steps}", f"optimizer.learning_rate={learning_rate}"]
    with hydra.initialize_config_dir(str(conf_directory())):
        config = load(hydra.compose("train", words))
    folder.mkdir(parents=True)
    run = ToldRun(folder, tell)
    outcome = training.train(config, run)
    run.close()
    return float(outcome.metrics[str(config.objective.metric)])
