"""One study under a series of faults, from its first command to the verdict."""

import random
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults import checker, fault, files, machine, processes, slurm, storage, tracking
from benchmarks.faults.case import Case, Problem
from benchmarks.faults.fault import Fault
from benchmarks.faults.host import Host
from benchmarks.faults.parabola import MISDEEDS, misdeed
from benchmarks.faults.study import STEPS, Stuck, Study
from jobs.cluster import Cluster

TASKS, MIXED = "tasks", "mixed"
CLASSES = (
    processes.CLASS, files.CLASS, storage.CLASS, machine.DISK, machine.CLOCK, tracking.CLASS, slurm.CLASS,
    slurm.ANSWERS, TASKS, MIXED,
)  # fmt: skip
MOMENT = 4.0  # seconds for which a fault waits until a trial runs
TRIES = 10  # faults that are tried until one can be done
BETWEEN_TRIES = 0.3  # seconds


@dataclass(frozen=True)
class Series:
    """What is to be done to one study.

    Attributes:
        kind: the class of its faults.
        backend: where its Optuna study is: "journal", "sqlite", "postgres".
        place: where its jobs run: "local", "slurm".
        faults: how many it meets.
        tmpfs: whether it is in a small file system of its own.
    """

    number: int
    kind: str
    backend: str
    place: str
    faults: int
    tmpfs: bool = False

    @property
    def name(self) -> str:
        return f"s{self.number:03d}-{self.kind}"

    @property
    def has(self) -> frozenset[str]:
        return frozenset({self.backend, self.place, *(["tmpfs"] if self.tmpfs else [])})


@dataclass
class Outcome:
    """What a series did, and what came of it."""

    series: Series
    struck: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    said: str = ""

    @property
    def errors(self) -> list[str]:
        """With what words drivers left by themselves."""
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return [line for line in lines if "is in the storage" not in line and "has a driver already" not in line]


@dataclass(frozen=True)
class World:
    """What all series share."""

    root: Path
    host: Host
    seed: int
    cluster: Cluster | None
    postgres: Any


def play(series: Series, world: World) -> Outcome:
    """Begin the study, strike it, let it finish and judge it."""
    chance = random.Random(f"{world.seed} {series.number}")
    place = world.root / "places" / series.name
    place.mkdir(parents=True)
    if series.tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], check=True)
    study, outcome, began = _study(series, world, chance), Outcome(series), time.monotonic()
    try:
        study.provide_tables()
        study.start()
        if series.kind == TASKS:
            _leave_it_to_the_trials(study)
        else:
            _strike(study, series, outcome)
        study.finish()
        outcome.problems += _judged(study, world, began)
    except Stuck as error:
        outcome.problems.append(Problem("lost", f"the study does not finish: {error}"))
    except Exception:  # noqa: BLE001  # what one series meets must not hide what the others found
        outcome.problems.append(Problem("wrong", f"the benchmark itself failed: {traceback.format_exc()}"))
    finally:
        study.mend(everything=True)
        study.clean_up()
        if series.kind == TASKS:
            outcome.struck.update(_misdeeds(study))
        if series.tmpfs:
            subprocess.run(["umount", "-l", str(place)], check=False)
    outcome.problems += [Problem(kind, text) for kind, text in study.notes]
    outcome.said, outcome.seconds = study.said(), time.monotonic() - began
    return outcome


def _study(series: Series, world: World, chance: random.Random) -> Study:
    place = world.root / "places" / series.name
    urls = {"journal": None, "sqlite": f"sqlite:///{place}/optuna.db"}
    on_slurm = series.place == "slurm"
    overrides = ("hydra/launcher=submitit_slurm", "hydra.launcher.use_srun=false") if on_slurm else ()
    study = Study(
        world.root,
        series.name,
        world.host,
        chance,
        world.postgres.url if series.backend == "postgres" else urls[series.backend],
        world.cluster if on_slurm else None,
        world.postgres if series.backend == "postgres" else None,
        overrides,
    )
    if series.kind == TASKS:
        study.misdeeds, study.n_trials = list(MISDEEDS), series.faults
    return study


def _strike(study: Study, series: Series, outcome: Outcome) -> None:
    kinds = [one for one in CLASSES if one not in (TASKS, MIXED)] if series.kind == MIXED else [series.kind]
    possible = [one for kind in kinds for one in fault.of_class(kind, series.has)]
    for _ in range(series.faults):
        for _ in range(TRIES):
            chosen = study.chance.choice(possible)
            if _at_its_moment(study, chosen):
                outcome.struck[chosen.name] += 1
                break
            study.pause(BETWEEN_TRIES)
        study.pause(study.chance.choice([0.0, study.chance.uniform(0.0, 0.6)]))


def _at_its_moment(study: Study, chosen: Fault) -> bool:
    study.ready()
    moment = study.chance.random()
    if moment < 0.8:  # else at the very start, or wherever it is
        study.wait_for(lambda: study.running() or not study.lives(), MOMENT)
    study.pause(study.chance.uniform(0.0, 0.5))
    if chosen.between:
        study.stop()
        if study.chance.random() < 0.3:
            study.pause(study.chance.uniform(0.0, 1.5))  # jobs end meanwhile
    with open(study.log, "a") as log:
        log.write(f"\n! {time.monotonic():.1f} {chosen.name}\n")
    return chosen.strike(study)


def _leave_it_to_the_trials(study: Study) -> None:
    """Each trial brings a fault of its own; the driver dies once, too."""
    study.pause(study.chance.uniform(1.0, 5.0))
    study.stop()


def _misdeeds(study: Study) -> Counter[str]:
    points = set()
    for line in study.side.read_text().splitlines() if study.side.exists() else []:
        points.add(float(line.partition('"x": ')[2].partition(",")[0]))
    return Counter(misdeed(x, study.misdeeds) for x in points)


def _judged(study: Study, world: World, began: float) -> Sequence[Problem]:
    case = Case(
        place=study.place,
        folder=study.folder,
        name=study.name,
        storage=study.storage,
        tracking=study.tracking,
        side=study.side,
        said=study.said(),
        n_trials=study.n_trials,
        steps=STEPS,
        misdeeds=study.misdeeds,
        # Where both the storage and trial.json lost a trial's parameters, nobody has them: it is said to be so.
        forgives=frozenset({"Damaged"} if study.may_rebuild and study.records_damaged else ()),
        environment=None if study.cluster is None else {"SLURM_CONF": str(study.cluster.conf)},
        seconds=time.monotonic() - began,
        began_anew=study.began_anew,
    )
    return checker.judge(case)
