"""A training killed at random places, again and again, beside the same training left alone: bit for bit.

    python -m benchmarks.trainer_resume [cuts] [workload overrides …]

Kills a process of the trial `cuts` times (20, unless said otherwise) with SIGKILL, each time after a random
number of further steps, lets the last one finish, and compares every reported number but rates, and the last
checkpoint's arrays, with those of a run that nobody touched.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from trialfleet.trial import metrics

OVERRIDES = [
    "training.max_steps=400",
    "training.report_every=5",
    "training.eval_every=50",
    "training.checkpoints.every_steps=10",
    "training.checkpoints.keep_last=3",
]


def child(folder: str, earlier: str, *overrides: str) -> None:
    """One life of the trial."""
    from hydra import compose, initialize_config_dir

    from benchmarks.trainer_steps import TimedRun
    from trialfleet.config import load
    from trialfleet.training import train

    class FileRun(TimedRun):
        def __init__(self) -> None:
            self.directory = Path(folder)
            self.checkpoints, self.artifacts = self.directory / "checkpoints", self.directory / "artifacts"
            self.earlier_checkpoints = [Path(path) for path in json.loads(earlier)]
            self.notes: dict[str, Any] = {}
            self.writer = metrics.Writer(self.directory / "metrics.jsonl")

        def report(self, step: int, values: Any, steps: int | None = None) -> None:
            self.writer.append(step, values)

    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        config = load(compose("config", overrides=[*OVERRIDES, *overrides]))
    train(config, FileRun())


def started(folder: Path, earlier: list[Path], overrides: list[str]) -> subprocess.Popen[bytes]:
    before = json.dumps([str(path / "checkpoints") for path in reversed(earlier)])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.trainer_resume", "child", str(folder), before]
    return subprocess.Popen([*command, *overrides])


def values_of(folders: list[Path]) -> tuple[dict[tuple[int, str], float], int]:
    """Every number by step and name, and how many a later run repeated differently."""
    found: dict[tuple[int, str], float] = {}
    differing = 0
    for folder in folders:
        for line in metrics.read_from(folder / "metrics.jsonl")[0]:
            for name, value in line.values.items():
                if "per_second" not in name and name != "train/utilization":
                    differing += found.setdefault((line.step, name), value) != value
    return found, differing


def digests(folder: Path) -> dict[str, bytes]:
    import jax

    from trialfleet.training import checkpoints

    newest = max((folder / "checkpoints").glob("*/manifest.json")).parent
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for name, (shape, dtype) in checkpoints.contents(newest).items()
    }
    return {name: np.asarray(leaf).tobytes() for name, leaf in checkpoints.read_some(newest, shapes).items()}


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
        return
    cuts = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    overrides, rng = sys.argv[2:], random.Random(0)
    root = Path(tempfile.mkdtemp())
    whole, lives = root / "whole", [root / f"life{n}" for n in range(cuts + 1)]
    assert started(whole, [], overrides).wait() == 0
    kills = 0
    for n, folder in enumerate(lives):
        process = started(folder, lives[:n], overrides)
        enough = rng.randint(1, 8) if n < cuts else 10**9
        while process.poll() is None:
            if len(metrics.read_from(folder / "metrics.jsonl")[0]) >= enough:
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            time.sleep(0.002)
        if process.returncode == 0:
            lives = lives[: n + 1]
            break
    ours, differing = values_of(lives)
    theirs, _ = values_of([whole])
    same_arrays = digests(lives[-1]) == digests(whole)
    print(f"killed {kills} times in {len(lives)} lives")
    print(f"numbers reported: {len(theirs)}, equal: {sum(ours.get(key) == value for key, value in theirs.items())}")
    print(f"numbers that a later life reported differently: {differing}")
    print(f"arrays of the last checkpoint equal bit for bit: {same_arrays}")
    if ours != theirs or differing or not same_arrays:
        sys.exit("not exact")


if __name__ == "__main__":
    main()
