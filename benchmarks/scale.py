"""What a study of thousands of trials costs its driver: `python -m benchmarks.scale --help`.

The driver, its files, the lease, the Optuna journal and (if asked for) MLflow are the real ones; only the
jobs are simulated, on a virtual clock. CPU time is the driver thread's; what the simulation takes of it is
left out. Two costs are told apart: what a trial costs whenever it does something (it starts, reports, ends),
and what watching costs for as long as jobs run; the latter is also given as share of one core.
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from rich.console import Console

from benchmarks.meter import Meter, public_methods
from benchmarks.simulated_jobs import LAUNCHER, SPACE, MeasuredFleet, RunningFleet, objective
from trialfleet.sweep import sweeper_settings as settings_of
from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.mlflow_observer import MlflowObserver
from trialfleet.sweep.observers import Observer, Observers
from trialfleet.sweep.reconcile import Limits
from trialfleet.sweep.stopping import Jobs
from trialfleet.sweep.study import search_space as spaces
from trialfleet.sweep.study import storage as stores
from trialfleet.sweep.study.ahead import Rule
from trialfleet.sweep.study.budget import Account
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.samplers import SamplerFactory
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.sweep.ui.live_table import LiveTable
from trialfleet.tracking.destination import resolve
from trialfleet.tracking.exporter import Exporter
from trialfleet.tracking.study_export import ExportedStudy
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState

MILESTONES = (1000, 2000, 5000, 10_000)
IDLE_ROUNDS = 20
PATIENCE = 3600.0  # seconds for MLflow to have everything
UID = "5ca1ab1e"
OPTUNA, PRUNER, OURS, SIMULATION = "Optuna", "pruner", "ours", "simulation"
SAMPLERS = {
    "random": {"_target_": "optuna.samplers.RandomSampler", "seed": 1},
    "tpe": {"_target_": "optuna.samplers.TPESampler", "seed": 1},
}
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "threshold": partial(optuna.pruners.ThresholdPruner, upper=5.0),
}


@dataclass(frozen=True)
class Shape:
    """What is simulated.

    Attributes:
        trials: that end before the driver is stopped; `in_flight` more are under way then.
        seconds: mean length of a trial, virtual.
        mlflow: whether results are exported to MLflow on SQLite.
    """

    trials: int = 10_000
    in_flight: int = 256
    reports: int = 20
    seconds: float = 60.0
    sampler: str = "random"
    pruner: str = "threshold"  # the median pruner reads all trials at each report, for longer than all else takes
    mlflow: bool = False

    def milestones(self) -> list[int]:
        """Numbers of ended trials at which costs are taken."""
        return sorted({number for number in MILESTONES if number < self.trials} | {self.trials})


@dataclass(frozen=True)
class Row:
    """Costs from one milestone to the next, in milliseconds of CPU for each trial that ended in between.

    Attributes:
        events: our own part whenever a trial starts, reports or ends.
        watching: our own part of looking at trials that do nothing, over the time that a trial takes.
        share: what one driver takes of a core to watch `in_flight` trials that do nothing.
        peak: resident memory of the process in MiB, the most it ever was.
        yardstick: milliseconds of CPU that a fixed piece of work took meanwhile (`yardstick`): on a busy machine
            CPU seconds are shorter or longer than on an idle one.
    """

    trials: int
    optuna: float
    pruner: float
    events: float
    watching: float
    share: float
    peak: float
    yardstick: float

    @property
    def rest(self) -> float:
        """All but Optuna, the pruner and MLflow."""
        return self.events + self.watching


@dataclass(frozen=True)
class Resume:
    """A new driver's way to the end of its first look.

    Attributes:
        opening, recovering, looking: seconds for the storage, for what had ended, for what is under way.
        peak: resident memory in MiB.
    """

    opening: float
    recovering: float
    looking: float
    finished: int
    active_trials: int
    peak: float

    @property
    def seconds(self) -> float:
        return self.opening + self.recovering + self.looking


@dataclass(frozen=True)
class Report:
    """All that a run of this benchmark found; `mlflow` is the exporting thread's milliseconds of CPU a trial."""

    rows: list[Row]
    mlflow: float | None
    resume: Resume
    wrong: list[str] = field(default_factory=list)


class MeasuredStore(StudyStorage):
    """The store, with the time that Optuna takes counted apart from ours."""

    def __init__(self, meter: Meter, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._meter = meter
        meter.measure_methods(OPTUNA, self.study, ["tell"])

    def trial(self, trial_id: int) -> optuna.trial.Trial:
        with self._meter.part(OPTUNA):
            trial = super().trial(trial_id)
        self._meter.measure_methods(OPTUNA, trial, ["_suggest"])
        return trial


class Milestones:
    """An observer that takes the costs whenever so many more trials have ended, and stops the driver at the last.

    At each milestone the jobs stand still for a few rounds of the driver, to see what watching costs by itself.
    """

    def __init__(self, shape: Shape, meter: Meter, fleet: MeasuredFleet) -> None:
        self.rows: list[Row] = []
        self._left = shape.milestones()
        self._meter = meter
        self._fleet = fleet
        self._ended = 0
        self._rounds = 0
        self._idle_rounds = -1
        self._yardsticks: list[float] = []
        self._before = self._idle_began = self._now()

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self._ended += 1

    def tick(self, driver: Driver) -> None:
        self._rounds += 1
        if self._rounds % 20 == 1:
            with self._meter.part(SIMULATION):
                self._yardsticks.append(yardstick())
        if self._idle_rounds >= 0:
            self._idle(driver)
        elif self._left and self._ended >= self._left[0]:
            self._fleet.frozen, self._idle_rounds = True, 0

    def _idle(self, driver: Driver) -> None:
        """The first idle round still takes in what happened before it; the others are measured."""
        if self._idle_rounds == 0:
            self._idle_began = self._now()
        self._idle_rounds += 1
        if self._idle_rounds <= IDLE_ROUNDS:
            return
        self._take(driver.settings.watch.files)
        self._fleet.frozen, self._idle_rounds = False, -1
        self._left.pop(0)
        if not self._left:
            driver.request_stop("", Jobs.LEAVE)
        self._before = self._now()
        self._yardsticks = []

    def _now(self) -> tuple[int, int, defaultdict[str, float]]:
        return self._ended, self._rounds, self._meter.seconds()

    def _take(self, pause: float) -> None:
        ended, rounds, end = self._idle_began
        trials, since = ended - self._before[0], self._before
        a_round = (self._meter.seconds()[OURS] - end[OURS]) / IDLE_ROUNDS
        each = {part: 1000 * (end[part] - since[2][part]) / trials for part in (OPTUNA, PRUNER, OURS)}
        watching = 1000 * a_round * (rounds - since[1]) / trials
        self.rows.append(
            Row(
                ended,
                each[OPTUNA],
                each[PRUNER],
                each[OURS] - watching,
                watching,
                a_round / (a_round + pause),
                peak_memory(),
                statistics.median(self._yardsticks),
            )
        )

    def recovered(self, number: int, directory: TrialDir) -> None: ...
    def started(self, trial: ActiveTrial) -> None: ...
    def running(self, trial: ActiveTrial, label: str) -> None: ...
    def retried(self, trial: ActiveTrial, reason: str) -> None: ...
    def best(self, front: Sequence[Finished]) -> None: ...
    def notice(self, message: str) -> None: ...


class FirstLook(Milestones):
    """Stops the driver after its first look."""

    def tick(self, driver: Driver) -> None:
        driver.request_stop("", Jobs.LEAVE)


def assemble(folder: Path, shape: Shape, meter: Meter, fleet: MeasuredFleet, stack: ExitStack) -> Driver:
    """A driver on the study in `folder`, as a sweep's session builds it, with measuring proxies around Optuna."""
    lease = Lease(folder / "driver.lock", 60.0, 2.0)
    lease.acquire()
    stack.callback(lease.release)
    check = meter.measured(OURS, lease.check)
    journal = folder / "optuna_journal.log"
    with meter.part(OPTUNA):
        storage = stores.open_storage(None, journal, check)
    meter.measure_methods(OPTUNA, storage, public_methods(optuna.storages.BaseStorage))
    store = MeasuredStore(meter, storage, "scale", ["minimize"], check, lease.token)
    store.belong(UID, folder)
    pruner = PRUNERS[shape.pruner]()
    meter.measure_methods(PRUNER, pruner, ["prune"])
    meter.measure_methods(SIMULATION, fleet, ["submit", "refresh", "sleep"])
    space = spaces.parse(SPACE)
    node = {"n_trials": shape.trials + shape.in_flight, "n_jobs": shape.in_flight, "live": False}
    settings = settings_of.settings(node)
    observers: list[Observer] = []
    nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: SIM115  # the stack closes it
    observers.append(LiveTable(Console(file=nowhere, highlight=False), False, "scale", ["loss"], lambda: None))
    if shape.mlflow:
        target = resolve(f"sqlite:///{folder}/mlflow.db", "scale", folder)
        study = ExportedStudy("scale", UID, {"loss": "minimize"})
        exporter = stack.enter_context(Exporter(folder, target, study, 0.5))
        observers.append(MlflowObserver(exporter, ["loss"], "python -m benchmarks.scale"))
    config = OmegaConf.create({})
    samplers = SamplerFactory(SAMPLERS[shape.sampler], space, 1)
    return Driver(
        study=StudyFolder(folder, folder / ".submitit", [UID], "loss"),
        store=store,
        proposer=Proposer(store, UID, space, samplers, [], folder, None, config, Rule(1, 1)),
        pruner=pruner,
        settings=settings,
        limits=Limits(settings.max_retries, settings.max_unclaimed, None),
        n_trials=settings.n_trials,
        fleets={LAUNCHER: fleet},
        fleet=fleet,
        payload=folder / "payload.pkl",
        observers=Observers(observers),
        progress=StudyProgress(["minimize"]),
        account=Account.open(folder / "budget.json", 1, lambda message: None, lambda: 0.0),
        clock=fleet.clock(),
    )


def run_study(folder: Path, shape: Shape, show: bool = False) -> tuple[list[Row], float | None]:
    """Run the study until `shape.trials` of its trials have ended.

    Returns:
        the costs at each milestone, and those of MLflow once it has everything: milliseconds of CPU a trial.
    """
    (folder / ".submitit").mkdir()
    meter = Meter(OURS, absorbing=[PRUNER, SIMULATION])
    fleet = MeasuredFleet(shape.reports, shape.seconds, time.time())
    mlflow = None
    with ExitStack() as stack:
        driver = assemble(folder, shape, meter, fleet, stack)
        driver.recover()
        milestones = (Shown if show else Milestones)(shape, meter, fleet)
        driver.observers.members.append(milestones)
        driver.run()
        for observer in driver.observers.members:
            if isinstance(observer, MlflowObserver):
                if not observer.finish("STOPPED", PATIENCE):
                    raise RuntimeError(f"not everything reached MLflow: {observer.problem()}")
                mlflow = 1000 * export_seconds() / driver.progress.finished
    return milestones.rows, mlflow


class Shown(Milestones):
    """Prints each row as it comes."""

    def _take(self, pause: float) -> None:
        super()._take(pause)
        print(line(self.rows[-1]), flush=True)


def resume(folder: Path, shape: Shape) -> Resume:
    """Take the study up as a new driver would, in this process."""
    fleet = RunningFleet(shape.reports, shape.seconds, time.time())
    meter = Meter(OURS)
    gc.collect()
    with ExitStack() as stack:
        began = time.monotonic()
        driver = assemble(folder, shape, meter, fleet, stack)
        opened = time.monotonic()
        driver.recover()
        recovered = time.monotonic()
        driver.observers.members.append(FirstLook(shape, meter, fleet))
        driver.run()
        looked = time.monotonic()
        finished, active_trials = driver.progress.finished, len(driver.active_trials)
    return Resume(opened - began, recovered - opened, looked - recovered, finished, active_trials, peak_memory())


def what_is_wrong(folder: Path, shape: Shape) -> list[str]:
    """What the study, opened by plain Optuna, says differently from the trial folders, in words."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna_journal.log"))
    study = optuna.load_study(study_name="scale", storage=optuna.storages.JournalStorage(backend))
    trials = study.get_trials(deepcopy=False)
    ended = sum(trial.state.is_finished() for trial in trials)
    wrong = [] if ended >= shape.trials else [f"{ended} trials ended, not {shape.trials}"]
    if len(trials) > shape.trials + shape.in_flight:
        wrong.append(f"{len(trials)} trials are too many")
    for trial in trials:
        directory = TrialDir(folder / "trials" / f"{trial.number:05d}")
        result = directory.result()
        if not trial.state.is_finished():
            if trial.state.name != "RUNNING" or not directory.trial_json.exists():
                wrong.append(f"trial {trial.number} is {trial.state.name}")
            continue
        complete = result is not None and result.state is TrialState.COMPLETE
        reports = shape.reports if complete else 1
        value = objective(trial.params) if complete else trial.value
        if result is None or (trial.state.name, trial.value) != (result.state.value, value):
            wrong.append(f"trial {trial.number} is {trial.state.name} with {trial.value}: {result}")
        elif not reports <= len(trial.intermediate_values) <= shape.reports:
            wrong.append(f"trial {trial.number} has {len(trial.intermediate_values)} reports")
    return wrong


def measure(folder: Path, shape: Shape, show: bool = False) -> Report:
    """The whole benchmark. A resume is another process's, so that nothing is warm and its memory is its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows, mlflow = run_study(folder, shape, show)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        taken_up = pool.submit(resume, folder, shape).result()
    return Report(rows, mlflow, taken_up, what_is_wrong(folder, shape))


def peak_memory() -> float:
    """MiB that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def yardstick() -> float:
    """CPU milliseconds of a fixed piece of work of the driver's kind: system calls, JSON, small objects."""
    began = time.thread_time()
    for step in range(100):
        os.listdir("/")  # noqa: PTH208  # a system call is what it is for
        json.loads(json.dumps({"step": step, "values": {"loss": 0.5, "accuracy": 0.25}}))
    return 1000 * (time.thread_time() - began)


def export_seconds() -> float:
    """CPU seconds of the thread that exports to MLflow; 0 if there is none."""
    for thread in threading.enumerate():
        if thread.name == "mlflow-exporter" and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return 0.0


HEAD = (
    f"{'trials':>7} {'Optuna':>8} {'pruner':>8} {'the rest':>9} = {'events':>7} + {'watching':>8}"
    f"{'core':>8} {'peak MiB':>9} {'yardstick':>10}"
)


def line(row: Row) -> str:
    parts = f"{row.trials:>7} {row.optuna:>8.2f} {row.pruner:>8.2f} {row.rest:>9.2f}"
    return (
        f"{parts} = {row.events:>7.2f} + {row.watching:>8.2f}{row.share:>8.1%} {row.peak:>9.0f} {row.yardstick:>10.2f}"
    )


def main() -> None:
    default = Shape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=default.trials)
    parser.add_argument("--in-flight", type=int, default=default.in_flight)
    parser.add_argument("--reports", type=int, default=default.reports)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="mean length of a trial, virtual")
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), default=default.sampler)
    parser.add_argument("--pruner", choices=sorted(PRUNERS), default=default.pruner)
    parser.add_argument("--mlflow", action="store_true", help="export to MLflow on SQLite, too")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the study's files go, for the time being")
    options = vars(parser.parse_args())
    parent = options.pop("folder").absolute()
    shape = Shape(**options)
    folder = Path(tempfile.mkdtemp(prefix=".scale-", dir=parent))
    began = time.monotonic()
    try:
        print(f"CPU milliseconds a trial since the row above ({shape.in_flight} in flight, {shape.reports} reports)")
        print(HEAD, flush=True)
        report = measure(folder, shape, show=True)
        if report.mlflow is not None:
            print(f"\nMLflow, in a thread of its own: {report.mlflow:.1f}")
        taken = report.resume
        print(
            f"\nresume: {taken.seconds:.1f} s: {taken.opening:.1f} open the storage, {taken.recovering:.1f} count "
            f"{taken.finished} ended trials, {taken.looking:.1f} look at {taken.active_trials} others; "
            f"{taken.peak:.0f} MiB"
        )
        print(f"the study: {'right' if not report.wrong else 'WRONG: ' + '; '.join(report.wrong[:5])}")
        print(f"took {time.monotonic() - began:.0f} s")
    finally:
        shutil.rmtree(folder)
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
