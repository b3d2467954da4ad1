"""What a study asks of Slurm's controller: `python -m benchmarks.slurm_calls --help`.

Trials that say nothing while they run, 0.6 to 3 s long, as jobs of a real Slurm that it starts itself. Slurm's own
`sdiag` tells how many requests of each kind came from this user. Those that jobs cause by themselves (a step of srun's)
and its own questions are left out.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jobs.cluster import Cluster, Settings, free_port_block

# What sbatch, squeue, scontrol, sacct and scancel ask of the controller begins with these.
ASKED = ("REQUEST_SUBMIT", "REQUEST_JOB_", "REQUEST_KILL", "REQUEST_CANCEL", "REQUEST_UPDATE", "REQUEST_PARTITION_INFO")
OF_JOBS = ("REQUEST_JOB_STEP", "REQUEST_JOB_NOTIFY", "REQUEST_JOB_REQUEUE_STEP")
_RPC = re.compile(r"^\s*(REQUEST_\w+)\s*\(\s*\d+\)\s+count:(\d+)", re.MULTILINE)


def requests(cluster: Cluster) -> Counter[str]:
    """How many requests of each kind the controller has had so far."""
    return counted(cluster.run("sdiag").stdout)


def counted(said: str) -> Counter[str]:
    """The requests in what sdiag says, without those that come from jobs and from sdiag."""
    by_type = said.partition("Remote Procedure Call statistics by message type")[2].partition("statistics by user")[0]
    return Counter(
        {
            name: int(count)
            for name, count in _RPC.findall(by_type)
            if name.startswith(ASKED) and not name.startswith(OF_JOBS)
        }
    )


def ended(folder: Path) -> int:
    return sum(1 for _ in folder.glob("trials/*/result.json"))


def study(cluster: Cluster, place: Path, trials: int, slots: int, words: list[str]) -> None:
    """Run one, and print what it asked: in all, and from its second quarter to the end of the third."""
    stamps, folder = place / "stamps", place / "sweeps" / "toy"
    stamps.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.toy", "ours", "-m", f"stamps={stamps}", f"hydra.sweep.dir={folder}"]
    command += ["hydra/launcher=submitit_slurm", f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.n_jobs={slots}"]
    command += ["hydra.launcher.use_srun=false", *words]
    before = quarter = requests(cluster)
    began = time.monotonic()
    with open(place / "log", "wb") as log:
        driver = subprocess.Popen(command, env=dict(cluster.env), stdout=log, stderr=subprocess.STDOUT)
        marks: list[tuple[int, Counter[str]]] = []
        while driver.poll() is None:
            if len(marks) < 2 and ended(folder) >= (trials // 4, 3 * trials // 4)[len(marks)]:
                marks.append((ended(folder), requests(cluster)))
            time.sleep(0.1)
    if driver.returncode or ended(folder) != trials:
        raise RuntimeError((place / "log").read_text(errors="replace")[-3000:])
    everything = requests(cluster) - before
    (first, quarter), (last, later) = marks
    middle = later - quarter
    print(f"{' '.join(words) or 'a job for each trial'}: {trials} trials in {time.monotonic() - began:.0f} s")
    _show("  all of it", everything, trials)
    _show("  steady", middle, last - first)


def _show(name: str, found: Mapping[str, int], trials: int) -> None:
    kinds = ", ".join(f"{kind.removeprefix('REQUEST_').lower()} {count}" for kind, count in sorted(found.items()))
    total = sum(found.values())
    print(f"{name}: {total} requests for {trials} trials, {total / trials:.2f} a trial ({kinds or 'none'})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--slots", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slurm-calls-") as place:
        cluster = Cluster(Path(place, "cluster"))
        cluster.up(Settings(nodes=2, port=free_port_block()))
        try:
            for name, words in [("fresh", []), ("warm", ["hydra.sweeper.worker.minutes=60"])]:
                study(cluster, Path(place, name), given.trials, given.slots, words)
        finally:
            cluster.down()


if __name__ == "__main__":
    main()
