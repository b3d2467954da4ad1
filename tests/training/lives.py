"""Trials as processes of their own: started, killed at a step, and compared with one that nobody touched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from trialfleet.trial import metrics

TRIAL = Path(__file__).with_name("trial.py")


def start(folder: Path, earlier: list[Path], *overrides: str, **environment: str) -> subprocess.Popen:
    arguments = [str(folder), ",".join(str(path / "checkpoints") for path in earlier), *overrides]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.Popen([sys.executable, str(TRIAL), *arguments], env=environment)


def killed_at(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Kills the process, without a warning, once it has reported a step."""
    while process.poll() is None:
        lines, _ = metrics.read_from(folder / "metrics.jsonl")
        if any(line.step >= step for line in lines):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL


def values_of(*folders: Path) -> dict[tuple[int, str], float]:
    """Every metric but rates, by step and name; a later run's lines must repeat an earlier one's."""
    found: dict[tuple[int, str], float] = {}
    for folder in folders:
        for line in metrics.read_from(folder / "metrics.jsonl")[0]:
            for name, value in line.values.items():
                if "per_second" not in name:
                    assert found.setdefault((line.step, name), value) == value
    return found


def newest(folder: Path) -> Path:
    """The last checkpoint of a life."""
    return max(path.parent for path in (folder / "checkpoints").glob("*/manifest.json"))


def arrays_of(folder: Path) -> dict[str, bytes]:
    """The arrays of the last checkpoint, bit for bit."""
    import jax

    from trialfleet.training import checkpoints

    saved, here = newest(folder), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for name, (shape, dtype) in checkpoints.contents(saved).items()
    }
    return {name: np.asarray(leaf).tobytes() for name, leaf in checkpoints.read_some(saved, shapes).items()}
