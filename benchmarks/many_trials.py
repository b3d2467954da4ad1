"""Thousands of trials of a second on 16 slots, or many that report often: `python -m benchmarks.many_trials --help`.

They sleep, so that all fit on any machine; what is measured is how much longer than trials / slots a study takes, from
the command's start to its exit: our sweep with workers that go on to the next trial, plain Optuna in as many processes
as slots, and other tuners where `--python` names an environment of theirs. Ours is sent to MLflow, by default.

1,000 trials once on each side take about three minutes (63 s each at best), `--trials 10000` half an hour. Many at a
time that report often: `--trials 64 --slots 64 --seconds 10 --reports 10`, or `--trials 256 --slots 256 --seconds 100
--reports 10`.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks import mlflow_database
from benchmarks.peers import sides as peers
from benchmarks.slot_use import WARM, Shape, study
from benchmarks.turns import against, in_turns, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial")
    parser.add_argument("--reports", type=float, default=0.0, help="of a trial, a second")
    parser.add_argument("--mlflow", action=argparse.BooleanOptionalAction, default=True, help="for ours")
    parser.add_argument("--sides", nargs="+", default=None, help="only these, named as in the table")
    parser.add_argument("--rounds", type=int, default=1, help="of each side")
    parser.add_argument("--python", type=peers.python, action="append", default=[], help=peers.HELP)
    given = parser.parse_args()
    shape = Shape(given.trials, given.slots, given.seconds, reports=given.reports)
    words = ["--sleep", str(shape.length), "--reports", str(shape.reports)]
    others = peers.sides(dict(given.python), shape.trials, shape.slots, words)
    if unknown := sorted(set(given.sides or ()) - {WARM, *others}):
        parser.error(f"--sides: {unknown} are none of {sorted({WARM, *others})}; peers need --python")
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="many-trials-") as place:
        mlflow = mlflow_database.make(Path(place, "empty.db")) if given.mlflow else None
        sides = {WARM: lambda folder: study(folder, shape, warm=True, mlflow=mlflow), **others}
        chosen = {name: side for name, side in sides.items() if name in (given.sides or sides)}
        found = in_turns(chosen, Path(place), given.rounds)
    kind = f"{shape.length:g} s, {shape.reports:g} reports a second," if shape.reports else f"{shape.length:g} s"
    print(f"\n{shape.trials} trials of {kind} on {shape.slots} slots, at best {shape.floor():.1f} s\n")
    print(against(shape.floor(), found, shape.trials, shape.slots))


if __name__ == "__main__":
    main()
