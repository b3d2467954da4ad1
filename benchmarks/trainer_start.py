"""From the start of a process to the end of the first step: the trainer beside plain JAX, with the same cache.

    python -m benchmarks.trainer_start [repeats]

Cold is with an empty compilation cache, warm with a full one. Destination, warm: no more than plain JAX + 0.8 s,
plus loading the data (which plain JAX is spared here). Processes take turns, so that both see the same machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OVERRIDES = ["training.report_every=1", "training.max_steps=50", "mesh.data=1"]


def child_of_ours(cache: str, began: float) -> None:
    """One trial, ended at its first report."""
    from hydra import compose, initialize_config_dir

    from benchmarks.trainer_steps import TimedRun
    from trialfleet.config import load
    from trialfleet.training import train

    composing = time.time()

    class FirstStep(TimedRun):
        def report(self, step: int, values: Any, steps: int | None = None) -> None:
            from trialfleet.training import goodput

            parts = {
                "imports": composing - began,
                "rest": time.time() - composing,
                "of which compiling": goodput.compilations.seconds,
            }
            print(json.dumps({"seconds": time.time() - began, "parts": parts}), flush=True)
            os._exit(0)

    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        settings = load(compose("config", overrides=[*OVERRIDES, f"runtime.compilation_cache={cache}"]))
    train(settings, FirstStep())


def child_of_peer(cache: str, began: float) -> None:
    """The same first step in plain JAX; its batch and its config come from files."""
    os.environ.update(
        PJRT_NPROC="1",
        JAX_COMPILATION_CACHE_DIR=cache,
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    import jax
    import numpy as np

    from benchmarks.trainer_peer import make
    from benchmarks.trainer_start import Settings

    init, step = make(Settings(), 50)
    params, opt = init(jax.random.key(0))
    with np.load(Path(cache).parent / "batch.npz") as arrays:
        batch = {name: jax.device_put(arrays[name]) for name in arrays}
    params, opt, loss = step(params, opt, batch, jax.random.key(1))
    float(loss)
    print(json.dumps({"seconds": time.time() - began, "parts": {}}), flush=True)
    os._exit(0)


class Settings:
    """The numbers of the default trial, without the config that holds them."""

    class model:
        width, blocks, kernel, expansion, dropout, input_noise = 64, 3, 5, 2, 0.05, 0.1

    class optimizer:
        learning_rate, beta1, beta2, eps, weight_decay = 2e-3, 0.9, 0.98, 1e-8, 0.01

    class training:
        gradient_clip = 1.0


def measured(kind: str, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.trainer_start", kind, str(cache), str(time.time())]
    line = subprocess.check_output(command, text=True).strip().splitlines()[-1]
    result: dict[str, Any] = json.loads(line)
    return result


def write_batch(folder: Path) -> None:
    """The peer's first batch, of the shape that the trainer's first batch has."""
    code = (
        "import numpy as np; from benchmarks.trainer_peer import batches; from benchmarks.trainer_steps import *;"
        "from hydra import compose, initialize_config_dir;"
        "c = initialize_config_dir(str(Path('conf').absolute())).__enter__();"
        f"np.savez({str(folder / 'batch.npz')!r}, **batches(load(compose('config')), 1)[0])"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def main() -> None:
    if len(sys.argv) > 2:
        child = {"ours": child_of_ours, "peer": child_of_peer}[sys.argv[1]]
        child(sys.argv[2], float(sys.argv[3]))
        return
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = Path(tempfile.mkdtemp())
    write_batch(folder)
    caches = {kind: folder / kind for kind in ("ours", "peer")}
    cold = {kind: measured(kind, cache)["seconds"] for kind, cache in caches.items()}
    warm: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for n in range(repeats):
        for kind in ("ours", "peer") if n % 2 else ("peer", "ours"):
            warm[kind].append(measured(kind, caches[kind]))
    medians = {kind: statistics.median(one["seconds"] for one in runs) for kind, runs in warm.items()}
    for kind, name in (("ours", "trainer"), ("peer", "plain JAX")):
        print(f"{name:10} cold {cold[kind]:6.2f} s   warm {medians[kind]:6.2f} s")
    print(f"difference, warm: {medians['ours'] - medians['peer']:+.2f} s (target ≤ 0.8 s and loading the data)")
    parts = {part: statistics.median(run["parts"][part] for run in warm["ours"]) for part in warm["ours"][0]["parts"]}
    print("trainer, warm:", ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items()))


if __name__ == "__main__":
    main()
