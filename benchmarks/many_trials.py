"""Thousands of trials of a second on 16 slots: `python -m benchmarks.many_trials --help`.

They sleep, so that sixteen fit on any machine; what is measured is how much longer than trials / slots a study takes,
from the command's start to its exit: our sweep with workers that go on to the next trial, plain Optuna in as many
processes as slots, and other tuners where `--python` names an environment of theirs.

1,000 trials once on each side take about three minutes (63 s each at best), `--trials 10000` half an hour.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.peers import sides as peers
from benchmarks.slot_use import WARM, Shape, study
from benchmarks.turns import against, in_turns, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial")
    parser.add_argument("--rounds", type=int, default=1, help="of each side")
    parser.add_argument("--python", type=peers.python, action="append", default=[], help=peers.HELP)
    given = parser.parse_args()
    shape = Shape(given.trials, given.slots, given.seconds)
    others = peers.sides(dict(given.python), shape.trials, shape.slots, ["--sleep", str(shape.length)])
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="many-trials-") as place:
        found = in_turns({WARM: lambda folder: study(folder, shape, warm=True), **others}, Path(place), given.rounds)
    print(f"\n{shape.trials} trials of {shape.length:g} s on {shape.slots} slots, at best {shape.floor():.1f} s\n")
    print(against(shape.floor(), found, shape.trials, shape.slots))


if __name__ == "__main__":
    main()
