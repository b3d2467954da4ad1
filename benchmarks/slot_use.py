"""How much of the time of its slots a sweep spends in trials: `python -m benchmarks.slot_use --help`.

Trials of one length that sleep, as jobs of this machine, while one job in ten is killed in the middle of its trial,
which goes on from there when it is run again, as a training does that has just saved. With workers that go on to the
next trial, and with a forked process for each. *use* is the trials' seconds in parts of the slots' seconds, from the
first trial's start to the last one's end; *whole command* counts the slots from the command's start to its exit.

By default 40 trials of 3 s and of 30 s on 8 slots, twice on each side: about 13 minutes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import mlflow_database
from benchmarks.toy.task import Stamp, stamps
from benchmarks.turns import in_turns, machine, seconds, spread, table

WARM, FORKED = "ours, warm", "ours, forked"


@dataclass(frozen=True)
class Shape:
    """So many trials, each so many seconds long, on so many slots.

    Attributes:
        kill_every: of so many trials one is killed; 0: none.
        reports: so often a second a trial reports.
    """

    trials: int
    slots: int
    length: float
    kill_every: int = 0
    reports: float = 0.0

    def floor(self) -> float:
        """Seconds of a study if no slot were ever empty."""
        return self.trials * self.length / self.slots


def study(folder: Path, shape: Shape, warm: bool, mlflow: Path | None = None) -> float:
    """Seconds of a whole study of ours, from the command's start to its exit; its stamps are in the folder.

    Args:
        mlflow: a database with MLflow's tables and nothing in them, or None for a study that nothing of goes there.

    Raises:
        RuntimeError: it failed, or not all trials ended.
    """
    (folder / "stamps").mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.toy", "ours", "-m", f"hydra.sweep.dir={folder}/sweep"]
    command += [f"stamps={folder}/stamps", f"shortest={shape.length}", "ratio=1", f"kill_every={shape.kill_every}"]
    command += [f"reports={shape.reports}"]
    command += [f"hydra.sweeper.n_trials={shape.trials}", f"hydra.sweeper.n_jobs={shape.slots}"]
    command += [f"hydra.sweeper.worker.local={str(warm).lower()}", "hydra.sweeper.live=false"]
    command += [f"hydra.sweeper.tracking.uri={mlflow_database.copied(mlflow, folder) or 'null'}"]
    took = seconds([command], folder.with_suffix(".log"))
    ended = {stamp.number for stamp in stamps(folder / "stamps") if stamp.end is not None}
    if len(ended) != shape.trials:
        raise RuntimeError(f"{len(ended)} of {shape.trials} trials ended:\n{folder.with_suffix('.log').read_text()}")
    return took


def use(ran: Sequence[Stamp], shape: Shape) -> float:
    """The trials' seconds in parts of the slots', from the first start to the last end."""
    ends = [stamp.end for stamp in ran if stamp.end is not None]
    return shape.floor() / (max(ends) - min(stamp.start for stamp in ran))


def measure(place: Path, shape: Shape, rounds: int) -> None:
    """Run both sides in turns, and print the table."""
    uses: dict[str, list[float]] = {WARM: [], FORKED: []}

    def side(name: str, folder: Path) -> float:
        took = study(folder, shape, warm=name == WARM)
        uses[name].append(use(stamps(folder / "stamps"), shape))
        return took

    found = in_turns({name: lambda folder, name=name: side(name, folder) for name in uses}, place, rounds)
    rows = []
    for name, several in found.items():
        wall, part = median(several), uses[name]
        numbers = [f"{median(part):.3f}", f"{spread(part):.3f}", f"{shape.floor() / wall:.3f}", f"{wall:.1f}"]
        rows.append([f"{shape.length:g} s", name, *numbers, f"{spread(several):.1f}"])
    killed = f"one in {shape.kill_every} killed" if shape.kill_every else "none killed"
    print(f"\n{shape.trials} trials on {shape.slots} slots, {killed}, {rounds} times, at best {shape.floor():.1f} s\n")
    print(table(["a trial", "", "use", "spread", "use, whole command", "median s", "spread s"], rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 30.0], help="of a trial; several in turn")
    parser.add_argument("--kill-every", type=int, default=10, help="of so many jobs one is killed; 0: none")
    parser.add_argument("--rounds", type=int, default=2, help="of each side")
    given = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="slot-use-") as place:
        for length in given.seconds:
            shape = Shape(given.trials, given.slots, length, given.kill_every)
            measure(Path(place, f"{length:g}"), shape, given.rounds)


if __name__ == "__main__":
    main()
