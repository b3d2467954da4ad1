"""Studies under faults of every class: `python -m benchmarks.faults --seed 1`.

Each study meets a series of faults, then its command is typed until it is finished, and a checker of its own judges
what came of it. A seed fixes the order of the faults, their targets and the pauses between them; what exactly a fault
meets depends on how quick the machine is. Fails if anything is lost, doubled, left running or wrong.
"""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from benchmarks.faults import fault, plan
from benchmarks.faults.case import KINDS
from benchmarks.faults.host import Host
from benchmarks.faults.parabola import MISDEEDS
from benchmarks.faults.series import CLASSES, Outcome, Series, World, play
from benchmarks.faults.slurm import NODES, make_shims
from benchmarks.faults.survivors import end_all
from jobs.cluster import Cluster, Settings, free_port_block
from trialfleet.tracking import database_schema

LOCAL_PLAYERS = 3  # studies on this machine that are played at a time; one on Slurm besides


@contextlib.contextmanager
def world(root: Path, seed: int, wanted: Sequence[Series]) -> Iterator[World]:
    """What the series need: a cluster, a PostgreSQL, empty tables of MLflow."""
    database_schema.ensure(root / "mlflow.db")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_cluster(root)) if any(one.place == "slurm" for one in wanted) else None
        postgres = stack.enter_context(_postgres()) if any(one.backend == "postgres" for one in wanted) else None
        yield World(root, stack.enter_context(Host()), seed, cluster, postgres)


@contextlib.contextmanager
def _cluster(root: Path) -> Iterator[Cluster]:
    cluster = Cluster(root / "cluster")
    try:
        cluster.up(Settings(nodes=NODES, port=free_port_block()))
        make_shims(root / "shims", Path(shutil.which("squeue") or "/usr/bin/squeue").parent)
        yield cluster
    finally:
        cluster.down()


@contextlib.contextmanager
def _postgres() -> Iterator[Any]:
    from tests.sweep.postgres import running_or_skip

    with running_or_skip() as server:
        yield server


def run(root: Path, seed: int, wanted: Sequence[Series]) -> list[Outcome]:
    """Play all series, some at a time: those on Slurm, and those on PostgreSQL, one after another."""
    outcomes: list[Outcome] = []
    alone = threading.Lock()  # a PostgreSQL that one study restarts is another's, too
    with world(root, seed, wanted) as shared:

        def player(queue: "Queue[Series]") -> None:
            while True:
                try:
                    series = queue.get_nowait()
                except Empty:
                    return
                with alone if series.backend == "postgres" else contextlib.nullcontext():
                    outcome = play(series, shared)
                outcomes.append(outcome)
                _show(outcome)

        queues: dict[str, Queue[Series]] = {"slurm": Queue(), "local": Queue()}
        for one in wanted:
            queues[one.place].put(one)
        players = [("slurm", 1), ("local", LOCAL_PLAYERS)]
        threads = [
            threading.Thread(target=player, args=(queues[of],), daemon=True)  # a Ctrl-C does not wait for them
            for of, number in players
            for _ in range(number)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return outcomes


def _show(outcome: Outcome) -> None:
    series, struck = outcome.series, outcome.struck
    what = ", ".join(name if number == 1 else f"{number} {name}" for name, number in struck.items())
    print(f"{series.name} {series.place} {series.backend}, {outcome.seconds:.0f} s: {what}", flush=True)
    for error in outcome.errors:
        print(f"    said: {error[:300]}", flush=True)
    for problem in outcome.problems:
        print(f"    {problem.kind.upper()}: {problem.text}", flush=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """What came of each class, in Markdown."""
    lines = ["| class | studies | faults | recovered | " + " | ".join(KINDS) + " |", "|---" * (4 + len(KINDS)) + "|"]
    for kind in [*CLASSES, "all"]:
        mine = [one for one in outcomes if kind in (one.series.kind, "all")]
        if mine:
            faults = sum(one.struck.total() for one in mine)
            recovered = sum(one.struck.total() for one in mine if not one.problems)
            bad = Counter(problem.kind for one in mine for problem in one.problems)
            cells = [kind, len(mine), faults, recovered, *(bad[name] for name in KINDS)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--only", choices=CLASSES, action="append", metavar="CLASS", help="; ".join(CLASSES))
    parser.add_argument("--on", choices=("local", "slurm"), help="where jobs run; both unless given")
    parser.add_argument("--series", type=int, action="append", help="play this one of the series alone, by its number")
    parser.add_argument("--list", action="store_true", help="show all faults and leave")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it there to look at")
    chosen = parser.parse_args()
    if chosen.list:
        print("\n".join(f"{one.kind}: {one.name}" for one in fault.ALL))
        print("\n".join(f"tasks: {name}" for name in MISDEEDS))
        return 0
    wanted = plan.planned(chosen.faults, chosen.seed, chosen.only or CLASSES, chosen.on, plan.able())
    wanted = [one for one in wanted if chosen.series is None or one.number in chosen.series]
    if not wanted:
        parser.error("nothing is left to do: Slurm's faults need root and Slurm's packages (make cluster-up)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, too
    began = time.monotonic()
    # The sockets of Slurm want a short path, and other users (PostgreSQL's, Slurm's) one that they may pass through.
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    root.mkdir(exist_ok=True)
    try:
        outcomes = run(root.resolve(), chosen.seed, wanted)
    finally:
        end_all(root.resolve())
        if chosen.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    print(f"\nseed {chosen.seed}, {time.monotonic() - began:.0f} s\n\n{table(outcomes)}")
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
