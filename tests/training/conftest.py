"""Eight simulated devices, one thread, and short trainings of the tiny models."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

if "jax" not in sys.modules:  # read once, when jax is imported
    # Little optimisation: these programs are compiled more than they are run.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    os.environ["PJRT_NPROC"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"

from hydra import compose, initialize_config_dir

from trialfleet.config import Config, load
from trialfleet.tracking.run import Stop

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

    def report(self, step: int, values: Any) -> None:
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


@pytest.fixture
def config() -> Callable[..., Config]:
    """Composes conf/ with the small settings and some overrides on top."""

    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF)):
            return load(compose("config", overrides=[*SMALL, *overrides]))

    return composed


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


@pytest.fixture
def toy() -> Callable[..., Config]:
    """Composes the config of the toy workload, which is no part of the package, with some overrides on top."""

    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF)):
            return load(compose("config", overrides=[*TOY, *overrides]))

    return composed


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RecordingRun]:
    """Runs in folders of their own."""
    made: list[RecordingRun] = []

    def make(earlier: Sequence[RecordingRun] = (), stop: Callable[[], Stop | None] | None = None) -> RecordingRun:
        run = RecordingRun(tmp_path / f"run{len(made)}", [one.checkpoints for one in earlier], stop)
        made.append(run)
        return run

    return make
