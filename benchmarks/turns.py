"""Several sides of a measurement in turns, and what is printed of it: medians, their spread, ratios, the machine."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parents[1]
Side = Callable[[Path], float]  # runs one side in a new folder; the seconds that it took


def machine() -> str:
    """What the numbers depend on besides the code; to be printed before anything is measured."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    python = platform.python_version()
    return f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, Python {python}, load before: {load}"


def seconds(commands: Sequence[Sequence[str]], log: Path, environment: Mapping[str, str] | None = None) -> float:
    """From the start of all commands to the end of the last; what they leave in their folder lies beside the log.

    Raises:
        RuntimeError: one failed; with what they said.
    """
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "src")])
    variables = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    began = time.monotonic()
    with open(log, "wb") as file:
        started = [
            subprocess.Popen(one, cwd=log.parent, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            for one in commands
        ]
        codes = [one.wait() for one in started]
    if any(codes):
        raise RuntimeError(f"{' '.join(commands[0])} ended with {codes}:\n{log.read_text(errors='replace')[-3000:]}")
    return time.monotonic() - began


def in_turns(sides: Mapping[str, Side], place: Path, rounds: int) -> dict[str, list[float]]:
    """Run all sides so many times, there and back again, each time in a folder of its own below `place`."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    place.mkdir(parents=True, exist_ok=True)
    for turn in range(rounds):
        for name in sides if turn % 2 == 0 else reversed(sides):
            folder = place / f"{turn}-{name.replace(',', '').replace(' ', '-')}"
            found[name].append(sides[name](folder))
            print(f"  {name}: {found[name][-1]:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def against(ideal: float, found: Mapping[str, Sequence[float]], trials: int, slots: int) -> str:
    """A table of the sides: medians and spreads in seconds, a slot's seconds for a trial, ratios to an ideal."""
    rows = []
    for name, several in found.items():
        middle = median(several)
        each = slots * middle / trials
        rows.append([name, f"{middle:.1f}", f"{spread(several):.1f}", f"{each:.2f}", f"{middle / ideal:.2f}"])
    return table(["", "median s", "spread s", "s a trial and slot", "/ ideal"], rows)


def spread(several: Sequence[float]) -> float:
    """From the least to the most."""
    return max(several) - min(several)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As README.md has it."""
    lines = [" ".join(["|", *(f"{cell} |" if cell else "|" for cell in line)]) for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
