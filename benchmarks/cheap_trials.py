"""What a sweeper takes beside trials that cost nothing: `python -m benchmarks.cheap_trials --help`.

A function of a millisecond, called by Hydra's basic launcher in the sweeper's own process, as in any program with
`hydra/sweeper: optuna`, or (`--launcher submitit_local`) in a process of its own for each trial: the stock
hydra-optuna-sweeper against ours, in turns, with the same sampler. The stock one
keeps its study in memory, as it does by default, or in SQLite, so that it outlives the process as ours does. What a
study of one trial takes is told apart: imports, the check of the command, the end.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

CONFIG = """\
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: tpe
  - _self_
hydra:
  sweeper: {study_name: cheap, n_trials: 40, n_jobs: 1, params: {}}
  sweep: {dir: multirun}
x: 1
y: 1
"""

PROGRAM = """\
import time

import hydra


@hydra.main(config_path=".", config_name="config")
def cheap(cfg):
    time.sleep(0.001)
    return cfg.x**2 + cfg.y**2


cheap()
"""

SPACE = ("x=interval(-5.0,5.0)", "y=interval(-5.0,5.0)", "hydra.sweeper.sampler.seed=1")
IN_MEMORY, IN_SQLITE, OURS, WITH_MLFLOW = "stock, in memory", "stock, SQLite", "ours", "ours, with MLflow"
_OURS = "hydra/sweeper=trialfleet"
OVERRIDES = {
    IN_MEMORY: [],
    IN_SQLITE: ["hydra.sweeper.storage=sqlite:///study.db"],
    OURS: [_OURS, "hydra/sweeper/sampler=tpe", "hydra.sweeper.tracking.uri=null"],
    WITH_MLFLOW: [_OURS, "hydra/sweeper/sampler=tpe"],
}

BASIC, LOCAL = "basic", "submitit_local"

COLUMNS = ("wall s", "CPU s", "one trial s", "wall ms a trial", "CPU ms a trial", "wall / ours")


@dataclass(frozen=True)
class Taken:
    """Seconds of a command, from its start to its exit: on the wall, and of the processors in it and its children."""

    wall: float
    cpu: float

    def __sub__(self, other: "Taken") -> "Taken":
        return Taken(self.wall - other.wall, self.cpu - other.cpu)


def run(which: str, place: Path, trials: int, jobs: int, launcher: str) -> Taken:
    """A whole study of so many trials, `jobs` at a time, in a new folder below `place`.

    Raises:
        RuntimeError: the command failed; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="cheap-trials-", dir=place) as folder:
        (Path(folder) / "config.yaml").write_text(CONFIG)
        (Path(folder) / "program.py").write_text(PROGRAM)
        command = [sys.executable, "program.py", "--multirun", *OVERRIDES[which], *SPACE]
        command += [f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.n_jobs={jobs}", f"hydra/launcher={launcher}"]
        log = Path(folder) / "log"
        began = time.monotonic()
        with open(log, "wb") as file:
            process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{which}:\n{log.read_text(errors='replace')[-3000:]}")
        return Taken(wall, used.ru_utime + used.ru_stime)


def compare(kinds: Sequence[str], place: Path, trials: int, jobs: int, rounds: int, launcher: str) -> None:
    """Run each kind in turns, there and back again, and print means and the ratios to ours."""
    found: dict[str, list[Taken]] = {which: [] for which in kinds}
    starts: dict[str, list[Taken]] = {which: [] for which in kinds}
    for turn in range(rounds):
        for which in kinds if turn % 2 == 0 else reversed(kinds):
            starts[which].append(run(which, place, 1, 1, launcher))
            found[which].append(run(which, place, trials, jobs, launcher))
    print(f"\n{trials} trials, {jobs} at a time, {launcher} launcher, in {place}")
    print(f"{'':18}" + " ".join(f"{name:>15}" for name in COLUMNS))
    ours = mean(one.wall for one in found[OURS])
    for which in kinds:
        wall, start = (mean(one.wall for one in several[which]) for several in (found, starts))
        each = [whole - start for whole, start in zip(found[which], starts[which], strict=True)]
        numbers = [
            wall,
            mean(one.cpu for one in found[which]),
            start,
            1000 * mean(one.wall for one in each) / (trials - 1),
            1000 * mean(one.cpu for one in each) / (trials - 1),
            wall / ours,
        ]
        print(f"{which:18}" + " ".join(f"{number:>15.2f}" for number in numbers), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[40, 200], help="2 or more")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1], help="trials at a time")
    parser.add_argument("--launcher", choices=(BASIC, LOCAL), nargs="+", default=[BASIC])
    parser.add_argument("--rounds", type=int, default=2, help="of each")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="decides which disk")
    parser.add_argument("--mlflow", action="store_true", help="ours with MLflow on SQLite, too")
    given = parser.parse_args()
    kinds = [IN_MEMORY, IN_SQLITE, OURS, *([WITH_MLFLOW] if given.mlflow else [])]
    for launcher, jobs, trials in itertools.product(given.launcher, given.jobs, given.trials):
        compare(kinds, given.folder, trials, jobs, given.rounds, launcher)


if __name__ == "__main__":
    main()
