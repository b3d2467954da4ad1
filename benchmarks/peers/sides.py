"""The peers as sides of a measurement: those whose interpreters a benchmark is told of, by `--python NAME=PATH`."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.turns import Side, seconds

RAY, SYNE_TUNE, OPTUNA = "ray", "syne_tune", "optuna"
PIP = {RAY: "ray[tune]", SYNE_TUNE: "syne-tune", OPTUNA: "optuna"}
HELP = (
    "an interpreter of an environment that has this project's dependencies and a peer's, of which ray, syne_tune and"
    " optuna are known (optuna is measured anyway, by this interpreter); may be given several times"
)


def python(text: str) -> tuple[str, str]:
    """NAME=PATH, taken apart.

    Raises:
        argparse.ArgumentTypeError: it is not that, or there is no such peer.
    """
    name, _, path = text.partition("=")
    if name not in PIP or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: say NAME=PATH, where NAME is one of {', '.join(PIP)}")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: no such file; make it with `pip install . '{PIP[name]}'`")
    return name, str(Path(path).absolute())


def sides(
    pythons: Mapping[str, str],
    trials: int,
    slots: int,
    words: Sequence[str],
    mlflow: Callable[[Path], str | None] = lambda folder: None,
) -> dict[str, Side]:
    """What is to be run, by its name in tables.

    Args:
        words: what a trial does, in the options of `benchmarks.peers.work`.
        mlflow: the address that trainings of the study in this folder log to; None for nowhere.
    """

    def shared(folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        return ["--folder", str(folder), *words, "--mlflow", mlflow(folder) or ""]

    def study(name: str, folder: Path, *more: str) -> float:
        command = [pythons[name], "-m", f"benchmarks.peers.by_{name}", *shared(folder), *more]
        return seconds([[*command, "--trials", str(trials), "--slots", str(slots)]], folder.with_suffix(".log"))

    def optuna(folder: Path) -> float:
        command = [pythons.get(OPTUNA, sys.executable), "-m", "benchmarks.peers.by_optuna", *shared(folder)]
        each = [[*command, "--trials", str(share)] for share in shares(trials, slots)]
        return seconds(each, folder.with_suffix(".log"))

    found: dict[str, Side] = {}
    if RAY in pythons:
        found["Ray Tune"] = lambda folder: study(RAY, folder)
        found["Ray Tune, actors reused"] = lambda folder: study(RAY, folder, "--reuse")
    if SYNE_TUNE in pythons:
        found["Syne Tune"] = lambda folder: study(SYNE_TUNE, folder)
    return {**found, "plain Optuna": optuna}


def shares(trials: int, slots: int) -> list[int]:
    """How many trials each of so many processes runs; none has nothing to do."""
    return [share for slot in range(slots) if (share := trials // slots + (slot < trials % slots))]
