"""How long a slot stays empty between two trials on a real Slurm: `python -m benchmarks.refill --help`.

From a trial's end (the last line of its task) to the next one's first step (the first line of its task) in the same
job, when 10 and when 1,000 trials have ended, with jobs that take trial after trial. The Slurm is the test cluster,
which it starts itself; its nodes share this machine's file system, so that the kernel tells the driver of files: on a
network file system it looks four times a second. All trials of one study; those between the places that are measured
end at once, and those that are measured last 0.6 to 3 s. The spread is that of single gaps, from the tenth part to
nine tenths.

By default about 3 minutes, 40 gaps at each place; `--at 10 1000 10000` about 30.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

from benchmarks.toy.task import Stamp, stamps
from benchmarks.turns import machine, seconds, table
from jobs.cluster import Cluster, Settings, free_port_block


def gaps(ran: Sequence[Stamp], first: int, end: int) -> list[float]:
    """Seconds between a trial's end and the next one's start in the same process, both numbered from first to end."""
    by_process: defaultdict[str, list[Stamp]] = defaultdict(list)
    for stamp in sorted(ran, key=lambda stamp: stamp.start):
        by_process[stamp.process].append(stamp)
    return [
        later.start - earlier.end
        for several in by_process.values()
        for earlier, later in pairwise(several)
        if earlier.end is not None and first <= earlier.number < end and first <= later.number < end
    ]


def study(cluster: Cluster, place: Path, windows: Sequence[tuple[int, int]], slots: int) -> list[Stamp]:
    """Run one whose trials in these windows sleep; what its tasks left."""
    (place / "stamps").mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.toy", "ours", "-m", f"hydra.sweep.dir={place}/sweep"]
    command += [f"stamps={place}/stamps", f"sleepers={[list(window) for window in windows]}".replace(" ", "")]
    command += ["hydra/launcher=submitit_slurm", "hydra.launcher.use_srun=false", "hydra.sweeper.worker.minutes=1000"]
    command += [f"hydra.sweeper.n_trials={windows[-1][1]}", f"hydra.sweeper.n_jobs={slots}"]
    command += ["hydra.sweeper.tracking.uri=null", "hydra.sweeper.live=false"]
    took = seconds([command], place / "log", cluster.env)
    print(f"  {windows[-1][1]} trials, {took:.0f} s", flush=True)
    return stamps(place / "stamps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", type=int, nargs="+", default=[10, 1000], help="trials that have ended, ascending")
    parser.add_argument("--trials", type=int, default=44, help="that are measured at each of these")
    parser.add_argument("--slots", type=int, default=4)
    given = parser.parse_args()
    windows = [(at, at + given.trials) for at in given.at]
    if any(earlier[1] > later[0] for earlier, later in pairwise(windows)):
        parser.error(f"--at: less than --trials ({given.trials}) apart, or not ascending")
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="refill-") as place:
        cluster = Cluster(Path(place, "cluster"))
        cluster.up(Settings(nodes=2, port=free_port_block()))
        try:
            ran = study(cluster, Path(place, "study"), windows, given.slots)
        finally:
            cluster.down()
    print(f"\n{given.slots} slots\n")
    print(table(["trials that have ended", "gaps", "median ms", "10 %", "90 %", "most"], _rows(ran, windows)))


def _rows(ran: Sequence[Stamp], windows: Sequence[tuple[int, int]]) -> list[list[str]]:
    rows = []
    for first, end in windows:
        found = gaps(ran, first, end)
        low, *_, high = quantiles(found, n=10)
        middle = quantiles(found, n=2)[0]
        numbers = [f"{1000 * one:.0f}" for one in (middle, low, high, max(found))]
        rows.append([f"{first:,}", str(len(found)), *numbers])
    return rows


if __name__ == "__main__":
    main()
