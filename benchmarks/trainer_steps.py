"""Step time of the trainer beside the same model and optimizer in plain JAX.

    python -m benchmarks.trainer_steps [pairs]

Blocks of both are run in turn in one process (A B B A), so that whatever else the machine does hits both. The
trainer loads its data, reports every 10 steps and polls for stops; the peer does none of it. Destination: a median
overhead of at most 5 % at 50 ms a step. The last line is the peer against itself: what noise alone makes.
Processor time counts the thread that makes batches ready too, and does not count what others do meanwhile.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["PJRT_NPROC"] = "1"

from hydra import compose, initialize_config_dir

from trialfleet.config import Config, load
from trialfleet.training import train

STEPS, WARM = 60, 20  # of a block, and those at its start that are not timed
OVERRIDES = [
    "model.width=144",
    "training.global_batch=16",
    "dataset.buckets=[80]",
    f"training.max_steps={STEPS}",
    "training.report_every=10",
    "training.eval_every=100000",
    "training.limit_eval_batches=1",
    "training.checkpoints.at_end=false",
    "training.checkpoints.keep_best=0",
    "mesh.data=1",
]


class TimedRun:
    """A run that notes when it was told what."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.checkpoints, self.artifacts = self.directory / "checkpoints", self.directory / "artifacts"
        self.earlier_checkpoints: list[Path] = []
        self.times: dict[int, tuple[float, float]] = {}  # wall and processor seconds
        self.notes: dict[str, Any] = {}

    def report(self, step: int, values: Any, steps: int | None = None) -> None:
        self.times.setdefault(step, (time.perf_counter(), time.process_time()))

    def stop(self) -> None:
        return None

    def note(self, **entries: Any) -> None:
        self.notes.update(entries)


def config() -> Config:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        return load(compose("config", overrides=OVERRIDES))


Milliseconds = tuple[float, float]  # a step; by the wall's clock and by the processor's


def ours(settings: Config) -> tuple[Milliseconds, float]:
    """Time of a step, and the share of the time that was spent waiting for data."""
    run = TimedRun()
    train(settings, run)
    seconds = run.notes["seconds"]
    waited = seconds["wait for data"] / (seconds["train"] + seconds["wait for data"])
    # A report is written one step late, all of them alike; the last one is written at the end of its step.
    return per_step(run.times[WARM], run.times[STEPS - 10]), waited


def per_step(began: tuple[float, float], ended: tuple[float, float]) -> Milliseconds:
    wall, processor = ((end - begin) / (STEPS - 10 - WARM) * 1e3 for begin, end in zip(began, ended, strict=True))
    return wall, processor


def peers(settings: Config, step: Any, init: Any, batches: list[Any]) -> Milliseconds:
    import jax

    params, opt = init(jax.random.key(0))
    began = (0.0, 0.0)
    for n in range(STEPS - 10):
        if n == WARM:
            jax.block_until_ready(params)
            began = (time.perf_counter(), time.process_time())
        params, opt, loss = step(params, opt, batches[n % len(batches)], jax.random.key(n))
        if n % 10 == 9:
            float(loss)
    jax.block_until_ready(params)
    return per_step(began, (time.perf_counter(), time.process_time()))


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    settings = config()
    ours(settings)  # which also starts jax as the config says
    from benchmarks.trainer_peer import batches, make

    made = batches(settings, 20)
    init, step = make(settings, STEPS)
    peers(settings, step, init, made)
    a_all: list[Milliseconds] = []
    b_all: list[Milliseconds] = []
    waits: list[float] = []
    for _ in range(pairs):
        for turn in (ours, peers, peers, ours):
            if turn is ours:
                time_of_step, wait = ours(settings)
                a_all.append(time_of_step)
                waits.append(wait)
            else:
                b_all.append(peers(settings, step, init, made))
    for clock, name in enumerate(("wall", "processor")):
        a, b = ([one[clock] for one in blocks] for blocks in (a_all, b_all))
        ratios = [(a[n] + a[n + 1]) / (b[n] + b[n + 1]) for n in range(0, 2 * pairs, 2)]
        noise = statistics.median(b[n] / b[n + 1] for n in range(0, 2 * pairs, 2))
        print(
            f"{name:10} trainer {statistics.median(a):6.2f} ms, plain JAX {statistics.median(b):6.2f} ms a step; "
            f"ratio {statistics.median(ratios):.3f} (median of {pairs} pairs; target ≤ 1.05; plain/plain {noise:.3f})"
        )
    print(f"data wait  {100 * statistics.median(waits):.2f} % of the time (target ≤ 2 %)")


if __name__ == "__main__":
    main()
