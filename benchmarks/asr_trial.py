"""One short training of the tiny speech recogniser, as any program could call it that knows nothing of sweeps."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def logged(address: str, params: Mapping[str, Any], config: Any = None) -> Iterator[Report]:
    """A run of MLflow's for a trial, as users of a tuner write it who want to see its curves: what reports are told to.

    Args:
        address: of MLflow; empty for nowhere.
        config: of the trial, kept as an artifact; none by default.
    """
    if not address:
        yield lambda step, values: None
        return
    import mlflow

    def tell(step: int, values: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(values), step=step)

    mlflow.set_tracking_uri(address)
    mlflow.set_experiment("asr")
    with mlflow.start_run():
        mlflow.log_params(dict(params))
        if config is not None:
            mlflow.log_dict(config, "config.yaml")
        yield tell


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
