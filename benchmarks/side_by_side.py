"""The stock hydra-optuna-sweeper against ours, on the same trials: `python -m benchmarks.side_by_side --help`.

Both run local jobs of submitit's launcher on the same number of slots. First a study undisturbed, in turns
(stock, ours, ours, stock) on the same set of trial lengths; then a study whose driver is killed half-way and whose
command is typed once more. A trial sleeps; what it takes of the machine is its process's start.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.toy.task import Stamp, objective, stamps

PROJECT = Path(__file__).resolve().parents[1]
STOCK, OURS = "stock", "ours"
PATIENCE = 300.0  # seconds


@dataclass(frozen=True)
class Shape:
    """So many trials on so many slots, the shortest of so many seconds, the longest `ratio` times as long."""

    trials: int = 16
    slots: int = 4
    shortest: float = 0.6
    ratio: float = 5.0

    def ideal(self) -> float:
        """Seconds that the trials of the grid take at least: no time between them, no slot ever empty."""
        return float(sum(self.shortest * self.ratio**x for x in self.grid()) / self.slots)

    def grid(self) -> list[float]:
        return [round(index / max(1, self.trials - 1), 4) for index in range(self.trials)]


@dataclass(frozen=True)
class Undisturbed:
    """A whole study.

    Attributes:
        wall: seconds of the command, from its start to its exit.
        idle: seconds of slots without a trial, between the first trial's start and the last one's end.
    """

    wall: float
    idle: float
    trials: int


@dataclass(frozen=True)
class Killed:
    """A study whose driver was killed and whose command was given again.

    Attributes:
        wall: seconds of both commands together.
        executed: tasks that were started.
        twice: of them, those whose parameters had been run before.
        lost: tasks that ended well, and whose value the study does not have.
        running: trials that the study still calls running when all is over.
        complete: trials that the study has a value of.
        code: exit code of the second command.
    """

    wall: float
    executed: int
    twice: int
    lost: int
    running: int
    complete: int
    code: int


class Command:
    """One sweeper's command line, in a folder of its own."""

    def __init__(self, which: str, folder: Path, shape: Shape, *overrides: str) -> None:
        self.which = which
        self.folder = folder
        self.stamps = folder / "stamps"
        self.stamps.mkdir(parents=True)
        storage = [f"hydra.sweeper.storage=sqlite:///{folder}/study.db"] if which == STOCK else []
        own = [
            f"stamps={self.stamps}",
            f"shortest={shape.shortest}",
            f"ratio={shape.ratio}",
            f"hydra.sweeper.n_trials={shape.trials}",
            f"hydra.sweeper.n_jobs={shape.slots}",
        ]
        self._argv = [sys.executable, "-m", "benchmarks.toy", which, *storage, *own, *overrides]

    def start(self) -> "subprocess.Popen[bytes]":
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                self._argv,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self) -> int:
        process = self.start()
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RuntimeError(f"{self.which} hangs:\n{self.said()}") from None

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def trials(self) -> Sequence[optuna.trial.FrozenTrial]:
        """What the study says in the end."""
        storage: str | optuna.storages.BaseStorage = f"sqlite:///{self.folder}/study.db"
        if self.which == OURS:
            journal = self.folder / "sweeps" / "toy" / "optuna_journal.log"
            storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.load_study(study_name="toy", storage=storage).get_trials(deepcopy=False)


def undisturbed(which: str, folder: Path, shape: Shape) -> Undisturbed:
    """A study of the grid, so that both run trials of the same lengths."""
    values = ",".join(str(value) for value in shape.grid())
    command = Command(which, folder, shape, "hydra/sweeper/sampler=grid", f"hydra.sweeper.params.x='choice({values})'")
    began = time.monotonic()
    code = command.run()
    wall = time.monotonic() - began
    if code != 0:
        raise RuntimeError(f"{which} ended with exit code {code}:\n{command.said()}")
    ran = stamps(command.stamps)
    return Undisturbed(wall, idle_seconds(ran, shape.slots), len(ran))


def idle_seconds(ran: Sequence[Stamp], slots: int) -> float:
    """Sum over the slots of the time without a trial, from the first start to the last end."""
    ends = [stamp.end for stamp in ran if stamp.end is not None]
    busy = sum(stamp.end - stamp.start for stamp in ran if stamp.end is not None)
    return slots * (max(ends) - min(stamp.start for stamp in ran)) - busy


def killed(which: str, folder: Path, shape: Shape) -> Killed:
    """Kill the driver when a little more than half of the trials have ended, then give the same command again."""
    command = Command(which, folder, shape)
    began = time.monotonic()
    driver = command.start()
    while sum(stamp.end is not None for stamp in stamps(command.stamps)) <= shape.trials // 2:
        if driver.poll() is not None or time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"{which} ended early or hangs:\n{command.said()}")
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    code = command.run()
    wall = time.monotonic() - began
    return _what_became(command, wall, code, shape)


def _what_became(command: Command, wall: float, code: int, shape: Shape) -> Killed:
    deadline = time.monotonic() + 10 * shape.shortest * shape.ratio
    while any(stamp.end is None for stamp in stamps(command.stamps)) and time.monotonic() < deadline:
        time.sleep(0.2)  # jobs that nobody follows run on
    ran = stamps(command.stamps)
    trials = command.trials()
    known = Counter(trial.params["x"] for trial in trials if trial.value == objective(trial.params["x"]))
    ended = Counter(stamp.x for stamp in ran if stamp.end is not None)
    return Killed(
        wall,
        executed=len(ran),
        twice=len(ran) - len({stamp.x for stamp in ran}),
        lost=sum((ended - known).values()),
        running=sum(trial.state.name == "RUNNING" for trial in trials),
        complete=sum(trial.state.name == "COMPLETE" for trial in trials),
        code=code,
    )


def main() -> None:
    default = Shape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=default.trials)
    parser.add_argument("--slots", type=int, default=default.slots)
    parser.add_argument("--shortest", type=float, default=default.shortest, help="seconds of the shortest trial")
    parser.add_argument("--ratio", type=float, default=default.ratio, help="of the longest trial to the shortest")
    shape = Shape(**vars(parser.parse_args()))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{shape.trials} trials on {shape.slots} slots, {shape.shortest} to {shape.shortest * shape.ratio} s each")
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as place:
        _compare_undisturbed(Path(place), shape)
        _compare_killed(Path(place), shape)


def _compare_undisturbed(place: Path, shape: Shape) -> None:
    print(f"\nundisturbed (at best {shape.ideal():.1f} s)")
    print(f"{'':8}{'wall s':>8} {'idle slot s':>12} {'trials':>7}", flush=True)
    found: dict[str, list[Undisturbed]] = {STOCK: [], OURS: []}
    for number, which in enumerate([STOCK, OURS, OURS, STOCK]):
        one = undisturbed(which, place / f"{number}", shape)
        found[which].append(one)
        print(f"{which:8}{one.wall:>8.1f} {one.idle:>12.1f} {one.trials:>7}", flush=True)
    wall = {which: mean(one.wall for one in several) for which, several in found.items()}
    idle = {which: mean(one.idle for one in several) for which, several in found.items()}
    print(f"stock / ours: wall {wall[STOCK] / wall[OURS]:.2f}, idle {idle[STOCK] / max(idle[OURS], 1e-9):.2f}")
    same = [f"{which} {several[0].wall / several[1].wall:.2f}" for which, several in found.items()]
    print(f"the same against itself, wall: {', '.join(same)}")


def _compare_killed(place: Path, shape: Shape) -> None:
    shape = replace(shape, trials=max(2 * shape.slots, shape.trials // 2))
    head = f"{shape.trials} trials, the driver killed half-way, the same command given again"
    columns = ("wall s", "executed", "twice", "lost", "left RUNNING", "complete", "exit code")
    print(f"\n{head}\n{'':8}" + " ".join(f"{name:>12}" for name in columns), flush=True)
    for which in (STOCK, OURS):
        one = killed(which, place / f"killed-{which}", shape)
        numbers = (one.executed, one.twice, one.lost, one.running, one.complete, one.code)
        print(f"{which:8}{one.wall:>12.1f} " + " ".join(f"{number:>12}" for number in numbers), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
