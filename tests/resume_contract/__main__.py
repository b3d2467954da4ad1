"""Prints, for each sweeper and launcher, which point holds at which moment; reasons go to stderr."""

import sys
import tempfile
from pathlib import Path

from .commands import NeverCame
from .moments import MOMENTS
from .points import POINTS, Verdict, judge
from .sweepers import SWEEPERS, Sweeper


def cells(sweeper: Sweeper, launcher_name: str) -> dict[str, dict[str, Verdict]]:
    """Moment → point → verdict; no verdicts for a moment that the sweeper did not come to."""
    launcher = sweeper.launchers[launcher_name]
    found: dict[str, dict[str, Verdict]] = {}
    for name, moment in MOMENTS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = judge(moment.of(sweeper, launcher, Path(folder)))
            except NeverCame as error:
                found[name] = {}
                print(f"{sweeper.name}, {launcher_name}, {name}: {error}\n", file=sys.stderr)
        for point, why in found[name].items():
            if why:
                print(f"{sweeper.name}, {launcher_name}, {name}: {point}: {why}\n", file=sys.stderr)
    return found


def table(found: dict[str, dict[str, Verdict]]) -> str:
    rows = [["", *found], ["---", *("---" for _ in found)]]
    for point in POINTS:
        rows.append([point, *(_word(verdicts, point) for verdicts in found.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _word(verdicts: dict[str, Verdict], point: str) -> str:
    if point not in verdicts:
        return "?"
    verdict = verdicts[point]
    return "\N{EN DASH}" if verdict is None else "**no**" if verdict else "yes"


def main(names: list[str]) -> None:
    for name in names or SWEEPERS:
        for launcher in SWEEPERS[name].launchers:
            print(f"### {name}, {launcher}\n\n{table(cells(SWEEPERS[name], launcher))}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
