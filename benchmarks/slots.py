"""Many short trials on few slots: `python -m benchmarks.slots --help`.

Trials of the tiny speech recogniser, two at a time on this machine, as four programs run them in turns: our sweep with
a fresh process for each trial, started from nothing or forked, our sweep with workers that go on to the next trial, and
the ideal: as many processes as slots, each a loop around the trainer with no sweep at all. All draw learning rates from
the same range, save and report alike, and find the compilation cache filled. Nothing goes to MLflow.
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

FRESH, FORKED, WARM, IDEAL = "ours, fresh", "ours, forked", "ours, warm", "ideal"
CONFIG = ("workload=asr", "model=asr_tiny")
LOWEST, HIGHEST = 1e-4, 1e-2  # learning rates


def sweep(place: Path, trials: int, slots: int, steps: int, warm: bool, fork: bool = False) -> float:
    """Seconds of a whole study, from the command's start to its exit."""
    command = [sys.executable, "-m", "pipelines.sweep", *CONFIG, f"training.max_steps={steps}"]
    command += [f"hydra.sweep.dir={place}", f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.n_jobs={slots}"]
    command += [
        f"hydra.sweeper.worker.local={str(warm).lower()}",
        f"hydra.sweeper.worker.fork={str(fork).lower()}",
        "hydra.sweeper.tracking.uri=null",
        "hydra.sweeper.live=false",
    ]
    command += ["hydra/sweeper/sampler=random", f"optimizer.learning_rate=tag(log,interval({LOWEST},{HIGHEST}))"]
    return _seconds([command], place.with_suffix(".log"))


def ideal(place: Path, trials: int, slots: int, steps: int) -> float:
    """Seconds of the loops, one process for each slot, from their start to their exit."""
    shares = [trials // slots + (slot < trials % slots) for slot in range(slots)]
    command = [sys.executable, "-m", "benchmarks.slots", "--steps", str(steps)]
    commands = [
        [*command, "--loop", str(share), "--folder", str(place / str(slot))] for slot, share in enumerate(shares)
    ]
    return _seconds(commands, place.with_suffix(".log"))


def _seconds(commands: list[list[str]], log: Path) -> float:
    """From the start of all to the end of the last.

    Raises:
        RuntimeError: one failed; with what they said.
    """
    began = time.monotonic()
    with open(log, "wb") as file:
        started = [subprocess.Popen(one, stdout=file, stderr=subprocess.STDOUT) for one in commands]
        codes = [one.wait() for one in started]
    if any(codes):
        raise RuntimeError(log.read_text(errors="replace")[-3000:])
    return time.monotonic() - began


def loop(folder: Path, trials: int, steps: int) -> None:
    """Train so often, in this process, with nothing around it."""
    import hydra

    from trialfleet import training
    from trialfleet.config import load
    from trialfleet.config.location import conf_directory
    from trialfleet.trial.sweep_run import LocalRun

    chance = random.Random(str(folder))
    with hydra.initialize_config_dir(str(conf_directory())):
        for number in range(trials):
            rate = math.exp(chance.uniform(math.log(LOWEST), math.log(HIGHEST)))
            words = [*CONFIG, f"training.max_steps={steps}", f"optimizer.learning_rate={rate}"]
            config = load(hydra.compose("train", words))
            own = folder / str(number)
            own.mkdir(parents=True)
            training.train(config, LocalRun(own))


def measure(place: Path, trials: int, slots: int, steps: int, rounds: int) -> None:
    """Run all in turns, there and back again, and print medians, their spread, and the ratio to the ideal."""
    kinds = {
        FRESH: lambda folder: sweep(folder, trials, slots, steps, warm=False),
        FORKED: lambda folder: sweep(folder, trials, slots, steps, warm=False, fork=True),
        WARM: lambda folder: sweep(folder, trials, slots, steps, warm=True),
        IDEAL: lambda folder: ideal(folder, trials, slots, steps),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    ideal(place / "cache", slots, slots, steps)  # fills the compilation cache
    for turn in range(rounds):
        for name in kinds if turn % 2 == 0 else reversed(kinds):
            found[name].append(kinds[name](place / f"{turn}-{name.replace(', ', '-')}"))
            print(f"  {name}: {found[name][-1]:.1f} s", flush=True)
    print(f"\n{trials} trials of {steps} steps on {slots} slots, in {place}, load {os.getloadavg()[0]:.1f}")
    print(f"{'':14}{'median s':>10}{'spread s':>10}{'s a trial and slot':>20}{'/ ideal':>10}")
    for name, seconds in found.items():
        middle, each = median(seconds), slots * median(seconds) / trials
        spread = max(seconds) - min(seconds)
        print(f"{name:14}{middle:>10.1f}{spread:>10.1f}{each:>20.2f}{middle / median(found[IDEAL]):>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="of each")
    parser.add_argument("--folder", type=Path, default=None, help="decides which disk")
    parser.add_argument("--loop", type=int, default=0, help="train so often in this process, and nothing else")
    given = parser.parse_args()
    if given.loop:
        loop(given.folder, given.loop, given.steps)
        return
    with tempfile.TemporaryDirectory(prefix="slots-", dir=given.folder) as place:
        measure(Path(place), given.trials, given.slots, given.steps, given.rounds)


if __name__ == "__main__":
    main()
