"""Short trainings of tiny models, and runs that keep what they are told."""

import copy
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from trialfleet.config import Config, load
from trialfleet.trial.run import Stop

if TYPE_CHECKING:
    from trialfleet.training.setup import Setup

CONF = Path(__file__).parents[2] / "conf"

# A model that compiles and trains in seconds; everything else as by default.
SMALL = (
    "model.width=16",
    "model.blocks=1",
    "dataset.buckets=[80]",
    "dataset.train_strings=64",
    "dataset.eval_strings=16",
    "training.global_batch=8",
    "training.eval_batch=8",
    "training.max_steps=6",
    "training.report_every=2",
    "training.eval_every=3",
    "mesh.data=1",
    "runtime.compilation_cache=null",
)
# Of these, what makes the model quick to compile.
SMALL_MODEL = tuple(override for override in SMALL if override.startswith(("model.", "dataset.")))


TOY = (
    f"hydra.searchpath=[file://{Path(__file__).parent / 'conf'}]",
    "workload=toy",
    "training.global_batch=8",
    "training.eval_batch=8",
    "training.max_steps=16",
    "training.report_every=1",
    "training.eval_every=4",
    "training.checkpoints.keep_best=0",
    "mesh.data=1",
    "runtime.compilation_cache=null",
)


class RecordingRun:
    """A run that keeps what it is told."""

    def __init__(self, directory: Path, earlier: Sequence[Path] = (), stop: Callable[[], Stop | None] | None = None):
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.earlier_checkpoints = list(earlier)
        self.artifacts = directory / "artifacts"
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.notes: dict[str, Any] = {}
        self._stop = stop or (lambda: None)

    def report(self, step: int, values: Any, steps: int | None = None) -> None:
        self.lines.append((step, dict(values)))

    def stop(self) -> Stop | None:
        return self._stop()

    def note(self, **entries: Any) -> None:
        self.notes.update(entries)

    def reported(self, name: str) -> dict[int, float]:
        """One metric by step."""
        return {step: values[name] for step, values in self.lines if name in values}

    def untimed(self) -> list[tuple[int, dict[str, float]]]:
        """All lines without the rates, which no two runs have in common."""
        return [
            (step, {name: value for name, value in values.items() if not name.endswith("_per_second")})
            for step, values in self.lines
        ]


def composed(*overrides: str) -> Config:
    """conf/ with these overrides. Hydra composes each choice of members once; values are set in a copy of that."""
    plain = {word for word in overrides if re.match(r"[a-z_]+(\.\w+)+=", word) and not word.startswith("hydra.")}
    config = copy.deepcopy(_composed(tuple(word for word in overrides if word not in plain)))
    for override in OverridesParser.create().parse_overrides([word for word in overrides if word in plain]):
        OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
    return load(config)


@lru_cache(maxsize=200)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF)):
        return compose("config", overrides=list(overrides))


def after(calls: int, stop: Stop) -> Callable[[], Stop | None]:
    """Wants to stop from the n-th time it is asked."""
    counter = count(1)
    return lambda: stop if next(counter) >= calls else None


def losses_of(setup: "Setup", steps: int) -> list[float]:
    """The loss of each of some steps on the first batches, with nothing of the loop around them. Imports jax."""
    import numpy as np

    from trialfleet.training.data import Feed, Loader, Position
    from trialfleet.training.mesh import batch_sharding

    state, frozen = setup.program.init(setup.inputs.hp, setup.inputs.seed)
    size, accumulation = setup.config.training.global_batch, setup.program.accumulation
    loader = Loader(setup.train_source, batch_sharding(setup.mesh), size, accumulation)
    feed, losses = Feed(loader, setup.config.seed, Position(0, 0, 0), None, 1), []
    try:
        for _ in range(steps):
            state, signals = setup.program.step(state, frozen, feed.next().batch, setup.inputs)
            losses.append(setup.program.signals.means(np.asarray(signals))["loss"])
    finally:
        feed.close()
    return losses
