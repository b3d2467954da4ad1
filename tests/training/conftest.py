"""Eight simulated devices and one thread, before anything imports jax."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import xla

if "jax" not in sys.modules:  # read once, when jax is imported
    os.environ["XLA_FLAGS"] = xla.flags(devices=8)
    os.environ["PJRT_NPROC"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"

from tests.config import reads
from tests.training.harness import SMALL, TOY, RecordingRun, composed
from trialfleet.config import Config
from trialfleet.trial.run import Stop

reads.record_hyperparameters()


@pytest.fixture
def config() -> Callable[..., Config]:
    """The default workload with the small settings, and some overrides on top."""
    return lambda *overrides: composed(*SMALL, *overrides)


@pytest.fixture
def toy() -> Callable[..., Config]:
    """The toy workload, which is no part of the package, with some overrides on top."""
    return lambda *overrides: composed(*TOY, *overrides)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RecordingRun]:
    """Runs in folders of their own."""
    made: list[RecordingRun] = []

    def make(earlier: Sequence[RecordingRun] = (), stop: Callable[[], Stop | None] | None = None) -> RecordingRun:
        run = RecordingRun(tmp_path / f"run{len(made)}", [one.checkpoints for one in earlier], stop)
        made.append(run)
        return run

    return make
