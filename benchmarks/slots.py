"""Many short trials on few slots: `python -m benchmarks.slots --help`.

Trainings of the tiny speech recogniser, two at a time on this machine, as several programs run them in turns: the stock
hydra-optuna-sweeper with submitit's local launcher, our sweep with a fresh process for each trial, forked (as without a
word) or started from nothing, our sweep with workers that go on to the next trial, plain Optuna in as many processes as
slots, other tuners where `--python` names an environment of theirs, and the ideal: as many processes as slots, each a
loop around the trainer with no sweep at all. All draw learning rates from the same range, save alike, and find the
compilation cache filled. All but the ideal's are in MLflow (in nothing with `--no-mlflow`): ours are sent there by the
driver, the others' log to it themselves, as their users' do; each study finds a SQLite database with MLflow's tables.

16 trials of 100 steps, three times on each side, take about 15 minutes on two cores; `--trials 64`, the whole
measurement, an hour.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import asr_trial, mlflow_database, stock_asr
from benchmarks.asr_trial import CONFIG, HIGHEST, LOWEST
from benchmarks.peers import sides as peers
from benchmarks.turns import Side, against, in_turns, machine, seconds

STOCK, FRESH, FORKED, WARM, IDEAL = "stock", "ours, fresh", "ours, forked", "ours, warm", "ideal"
SPACE = f"optimizer.learning_rate=tag(log,interval({LOWEST},{HIGHEST}))"


class Sides:
    """Everything that runs so many trials of so many steps on so many slots.

    Args:
        mlflow: a database with MLflow's tables and nothing in them, or None for studies that nothing of goes there.
    """

    def __init__(self, trials: int, slots: int, steps: int, mlflow: Path | None) -> None:
        self._trials, self._slots, self._steps, self._mlflow = trials, slots, steps, mlflow

    def all(self, pythons: dict[str, str]) -> dict[str, Side]:
        """All of them by name, the ideal last."""
        return {
            STOCK: self.stock,
            FRESH: lambda folder: self.ours(folder, warm=False, fork=False),
            FORKED: lambda folder: self.ours(folder, warm=False, fork=True),
            WARM: lambda folder: self.ours(folder, warm=True),
            **peers.sides(pythons, self._trials, self._slots, ["--steps", str(self._steps)], self._address),
            IDEAL: self.ideal,
        }

    def stock(self, folder: Path) -> float:
        """A whole study, from the command's start to its exit, as on the other sides."""
        folder.mkdir(parents=True)
        address = self._address(folder)
        words = ["hydra/sweeper=stock", f"hydra.sweeper.storage=sqlite:///{folder}/study.db"]
        command = [sys.executable, "-m", "benchmarks.stock_asr", "-m", *words, *self._words(folder)]
        return seconds([command], folder.with_suffix(".log"), {stock_asr.ADDRESS: address or ""})

    def ours(self, folder: Path, warm: bool, fork: bool = False) -> float:
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "pipelines.sweep", *self._words(folder), "hydra.sweeper.live=false"]
        command += [
            f"hydra.sweeper.worker.local={str(warm).lower()}",
            f"hydra.sweeper.worker.fork={str(fork).lower()}",
            f"hydra.sweeper.tracking.uri={self._address(folder) or 'null'}",
        ]
        return seconds([command], folder.with_suffix(".log"))

    def ideal(self, folder: Path) -> float:
        command = [sys.executable, "-m", "benchmarks.slots", "--steps", str(self._steps)]
        loops = [
            [*command, "--loop", str(share), "--folder", str(folder / str(slot))]
            for slot, share in enumerate(peers.shares(self._trials, self._slots))
        ]
        return seconds(loops, folder.with_suffix(".log"))

    def _address(self, folder: Path) -> str | None:
        """The address of MLflow for the study in this folder."""
        return mlflow_database.copied(self._mlflow, folder)

    def _words(self, folder: Path) -> list[str]:
        study = [f"hydra.sweeper.n_trials={self._trials}", f"hydra.sweeper.n_jobs={self._slots}"]
        where = [f"hydra.sweep.dir={folder}", "hydra/sweeper/sampler=random"]
        return [*CONFIG, f"training.max_steps={self._steps}", *study, *where, SPACE]


def loop(folder: Path, trials: int, steps: int) -> None:
    """Train so often, in this process, with nothing around it."""
    chance = random.Random(str(folder))
    for number in range(trials):
        asr_trial.train(folder / str(number), steps, asr_trial.rate(chance), lambda step, values: None)


def measure(place: Path, given: argparse.Namespace, steps: int, mlflow: Path | None) -> None:
    """Run all sides in turns, and print medians, their spread, and the ratio to the ideal."""
    Sides(given.slots, given.slots, steps, None).ideal(place / f"cache-{steps}")  # fills the compilation cache
    sides = Sides(given.trials, given.slots, steps, mlflow).all(dict(given.python))
    chosen = {name: side for name, side in sides.items() if name in (given.sides or sides)}
    found = in_turns(chosen, place / str(steps), given.rounds)
    shape = f"{given.trials} trials of {steps} steps on {given.slots} slots, {given.rounds} times"
    print(f"\n{shape}, {'with' if mlflow else 'without'} MLflow\n")
    print(against(median(found[IDEAL]), found, given.trials, given.slots), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=[100], help="of a trial; several are measured in turn")
    parser.add_argument("--rounds", type=int, default=3, help="of each side")
    parser.add_argument("--mlflow", action=argparse.BooleanOptionalAction, default=True, help="for all but the ideal")
    parser.add_argument("--python", type=peers.python, action="append", default=[], help=peers.HELP)
    parser.add_argument("--sides", nargs="+", default=None, help=f"only these, named as in the table, and {IDEAL!r}")
    parser.add_argument("--folder", type=Path, default=None, help="decides which disk")
    parser.add_argument("--loop", type=int, default=0, help="train so often in this process, and nothing else")
    given = parser.parse_args()
    if given.loop:
        loop(given.folder, given.loop, given.steps[0])
        return
    if given.sides:
        given.sides.append(IDEAL)
        known = Sides(1, 1, 1, None).all(dict(given.python))
        if unknown := sorted(set(given.sides) - set(known)):
            parser.error(f"--sides: {unknown} are none of {sorted(known)}; peers need --python")
    with tempfile.TemporaryDirectory(prefix="slots-", dir=given.folder and given.folder.absolute()) as place:
        print(machine(), f"in {place}", sep=", ", flush=True)
        mlflow = mlflow_database.make(Path(place, "empty.db")) if given.mlflow else None
        for steps in given.steps:
            measure(Path(place), given, steps, mlflow)


if __name__ == "__main__":
    main()
