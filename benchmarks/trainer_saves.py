"""How long a step waits for a save, beside how long the save takes.

    python -m benchmarks.trainer_saves

Destination: at most the larger of 20 ms and 5 % of the save's own time.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["PJRT_NPROC"] = "1"

import jax
import jax.numpy as jnp

from trialfleet.config.schema import Checkpoints
from trialfleet.training.checkpoints import CheckpointManager


def main() -> None:
    keep = Checkpoints(
        every_steps=None,
        every_seconds=None,
        keep_last=1,
        keep_best=0,
        keep_every=None,
        at_end=True,
        verify=False,
    )
    for megabytes in (1, 16, 64, 256):
        leaf = megabytes * 2**20 // 4 // 16
        state = {f"leaf{n}": jax.block_until_ready(jnp.full((leaf,), float(n))) for n in range(16)}
        saves = CheckpointManager(Path(tempfile.mkdtemp()), [], keep)
        waited, took = [], []
        for step in range(8):
            began = time.perf_counter()
            saves.save(step, state, {"score": None})
            waited.append(time.perf_counter() - began)
            saves.wait()
            took.append(time.perf_counter() - began)
        wait, whole = statistics.median(waited[1:]), statistics.median(took[1:])
        target = max(0.020, 0.05 * whole)
        print(
            f"{megabytes:4d} MiB: the step waits {1e3 * wait:6.1f} ms of {1e3 * whole:7.1f} ms "
            f"(target ≤ {1e3 * target:.1f} ms)"
        )


if __name__ == "__main__":
    main()
