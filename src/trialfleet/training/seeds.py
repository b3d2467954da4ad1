"""One trial as the mean over several seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from trialfleet.config import Config
from trialfleet.training.loop import fit
from trialfleet.training.outcome import Outcome
from trialfleet.trial.run import Run, Stop


def fit_all(config: Config, run: Run) -> Outcome:
    """Trains with each of `objective.seeds` seeds in turn; the metrics of the outcome are their means.

    A trial that goes on finds the seeds before the one it was cut in finished, and takes their results from
    their last checkpoints.
    """
    count = config.objective.seeds
    if count == 1:
        return fit(config, run)
    outcomes = [
        fit(dataclasses.replace(config, seed=config.seed + index), SeedRun(run, index)) for index in range(count)
    ]
    run.note(by_seed=[dict(outcome.metrics) for outcome in outcomes])
    means = {name: fmean(outcome.metrics[name] for outcome in outcomes) for name in outcomes[0].metrics}
    return Outcome(
        metrics=means,
        step=outcomes[0].step,
        steps=sum(outcome.steps for outcome in outcomes),
        ended=outcomes[-1].ended,
    )


class SeedRun:
    """The part of a run that trains with one of several seeds: its own checkpoints and names of metrics.

    The first seed's metrics keep their names, so that a pruner sees one curve and not a bundle of them.
    """

    def __init__(self, run: Run, index: int) -> None:
        self._run, self._index = run, index
        self.directory = run.directory
        self.checkpoints = run.checkpoints / f"seed{index}"
        self.earlier_checkpoints: Sequence[Path] = [path / f"seed{index}" for path in run.earlier_checkpoints]
        self.artifacts = run.artifacts / f"seed{index}"

    def report(self, step: int, values: Mapping[str, float], steps: int | None = None) -> None:
        prefix = f"seed{self._index}/" if self._index else ""
        self._run.report(step, {prefix + name: value for name, value in values.items()}, steps)

    def stop(self) -> Stop | None:
        return self._run.stop()

    def note(self, **entries: Any) -> None:
        self._run.note(**({f"seed{self._index}": entries} if self._index else entries))
