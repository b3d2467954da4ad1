"""A study under faults, as its user sees it: a command that is typed again and again in one folder."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults import trouble
from benchmarks.faults.files_of_study import StudyFiles
from benchmarks.faults.host import Driver, Host
from benchmarks.faults.survivors import processes_of
from jobs.cluster import Cluster

STEPS = 8
LOOK = 0.03  # seconds between two looks
PATIENCE = 60.0  # seconds in which a command that has nothing in its way must end, on a busy machine
COMMANDS = 12  # that a person would type until the study is finished


class Stuck(Exception):
    """The study does not get to its end."""


@dataclass
class Study(StudyFiles):
    """One study and what belongs to it.

    Attributes:
        root: folder of all studies of this run; what the study must not know of lies in it, too.
        storage: Optuna URL, or None for the journal in the study's folder.
        cluster: where its jobs run; None for this machine.
        server: the PostgreSQL that the storage is on.
        overrides: what is typed each time.
        misdeeds: what trials do besides their work.
        n_trials: the study's total; faults that come when it is finished raise it.
        mending: what is to be mended, and when.
        once: what is added to the next command.
        may_rebuild: whether a fault took something that only study.rebuild=true brings back.
        records_damaged: whether a fault took parameters from a trial's folder.
        exchanged: whether a fault gave trials each other's parameters.
        others: drivers besides the newest: those that were suspended.
        notes: what is wrong, as a fault itself saw it: kind and text.
        began_anew: whether a fault put the study aside for a fresh one.
    """

    root: Path
    name: str
    host: Host
    chance: random.Random
    storage: str | None = None
    cluster: Cluster | None = None
    server: Any = None
    overrides: Sequence[str] = ()
    misdeeds: Sequence[str] = ()
    n_trials: int = 3
    driver: Driver | None = None
    mending: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    once: list[str] = field(default_factory=list)
    may_rebuild: bool = False
    records_damaged: bool = False
    exchanged: bool = False
    others: list[Driver] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    began_anew: bool = False

    def __post_init__(self) -> None:
        for folder in (self.place, self.control, self.side.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        (self.control / "setup.sh").write_text(SETUP)

    # ---------------------------------------------------------------- places

    @property
    def place(self) -> Path:
        """Where the command is typed."""
        return self.root / "places" / self.name

    @property
    def folder(self) -> Path:
        return self.place / "sweeps" / self.name

    @property
    def control(self) -> Path:
        """What its processes meet: see `trouble`."""
        return self.root / "control" / self.name

    @property
    def side(self) -> Path:
        return self.root / "side" / f"{self.name}.jsonl"

    @property
    def log(self) -> Path:
        """What its drivers said."""
        return self.root / "logs" / f"{self.name}.log"

    @property
    def tracking(self) -> Path:
        return self.place / "mlflow.db"

    @property
    def journal(self) -> Path:
        return self.folder / "optuna_journal.log"

    # ---------------------------------------------------------------- the command

    def arguments(self, *more: str, storage: str | None = "") -> list[str]:
        """What is typed; another `storage` (None: none) is a mistake that some faults make."""
        url = self.storage if storage == "" else storage
        return [
            f"hydra.sweeper.study_name={self.name}",
            f"hydra.sweeper.n_trials={self.n_trials}",
            f"++hydra.launcher.setup=['. {self.control}/setup.sh']",
            f"steps={STEPS}",
            f"side={self.side}",
            f"misdeeds=[{','.join(self.misdeeds)}]",
            f"tracking.uri=sqlite:///{self.tracking}",
            *([f"hydra.sweeper.storage={url}"] if url else []),
            *self.overrides,
            *more,
        ]

    def launch(self, *more: str, storage: str | None = "", first: str = "") -> Driver:
        """Start a command whose driver is not the study's usual one."""
        environment = {trouble.VARIABLE: str(self.control), "FAULTS_PLACE": str(self.place)}
        if self.cluster is not None:
            shims = str(self.root / "shims")
            environment |= {"SLURM_CONF": str(self.cluster.conf), "PATH": f"{shims}:{os.environ['PATH']}"}
        met = "from pathlib import Path; from benchmarks.faults.trouble import install\n"
        met += f"install(Path({str(self.control)!r}), Path({str(self.place)!r}))\n"
        arguments = self.arguments(*more, storage=storage)
        with open(self.log, "a") as log:
            log.write(f"$ {time.monotonic():.1f} {' '.join(arguments)}\n")
        return self.host.start(self.place, self.log, arguments, environment, met + first)

    def start(self) -> None:
        """Type the study's command."""
        self.driver = self.launch(*self.once)
        self.once = []

    def lives(self) -> bool:
        """Whether there is a driver, perhaps a suspended one."""
        self.others = [other for other in self.others if other.poll() is None]
        return bool(self.others) or (self.driver is not None and self.driver.poll() is None)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def last_said(self) -> str:
        """What the newest driver said."""
        return self.said().rpartition("\n$ ")[2]

    def stop(self) -> None:
        """The driver leaves, in one of the ways in which drivers do; its jobs go on."""
        for driver in [*self.others, *([self.driver] if self.driver else [])]:
            driver.send(self.chance.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]))
            driver.send(signal.SIGCONT)
            if driver.wait(PATIENCE) is None:
                self.notes.append(("left running", "a driver that was asked to end"))
                driver.send(signal.SIGKILL)
                driver.wait(PATIENCE)

    def ready(self) -> None:
        """There is a driver with work to do, or there will be in a moment."""
        if self.lives():
            return
        if self.driver is not None and self.driver.returncode == 0 and not self.unfinished():
            self.n_trials += 2
        self.heed()
        self.start()

    def heed(self) -> None:
        """Do what the last refusal says is to be done, if a fault made that necessary."""
        refused = self.driver is not None and self.driver.returncode == 2
        if self.may_rebuild and refused and "study.rebuild=true" in self.last_said():
            self.once = ["study.rebuild=true"]

    # ---------------------------------------------------------------- time

    def wait_for(self, what: Callable[[], Any], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK)
        return True

    def later(self, low: float, high: float, mend: Callable[[], None]) -> None:
        """Mend it after a while."""
        self.mending.append((time.monotonic() + self.chance.uniform(low, high), mend))

    def mend(self, everything: bool = False) -> None:
        now = time.monotonic()
        due = [mend for at, mend in self.mending if everything or at <= now]
        self.mending = [] if everything else [(at, mend) for at, mend in self.mending if at > now]
        for mend in due:
            mend()

    def pause(self, seconds: float) -> None:
        """Wait, and mend what is due meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.mend()
            time.sleep(LOOK)
        self.mend()

    def finish(self) -> None:
        """No more faults: the command is typed until it says that the study is finished.

        Raises:
            Stuck: it does not.
        """
        self.mend(everything=True)
        patience = PATIENCE * (2 if self.cluster else 1)
        undisturbed = False
        for _ in range(COMMANDS):
            if not self.lives():
                self.heed()
                if undisturbed and self.driver is not None and self.driver.returncode != 0 and not self.once:
                    said = self.last_said().strip()[-700:]
                    self.notes.append(("wrong", f"a command with nothing in its way left with an error: …{said}"))
                self.start()
                undisturbed = True
            if not self.wait_for(lambda: not self.lives(), patience):
                raise Stuck(f"a driver runs on for {patience:.0f} s: {self.last_said()[-1500:]}")
            assert self.driver is not None
            if self.driver.returncode == 0 and f"study '{self.name}' is finished" in self.last_said():
                return
        raise Stuck(f"not finished after {COMMANDS} more commands: {self.last_said()[-1500:]}")

    def clean_up(self) -> None:
        """End all processes of the study."""
        for pid in processes_of(self.place):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for driver in [*self.others, *([self.driver] if self.driver else [])]:
            driver.wait(PATIENCE)

    def provide_tables(self) -> None:
        """MLflow's empty tables, which take seconds to make, in a new file."""
        fresh = self.tracking.with_name("mlflow.db.new")
        shutil.copyfile(self.root / "mlflow.db", fresh)
        fresh.replace(self.tracking)


# Each job runs this before its trial: it ends at once where the control folder says so.
SETUP = """\
here=$(dirname "${BASH_SOURCE[0]}")
if [ -e "$here/exits" ]; then
  bad=$(cat "$here/exits")
  if [ "$bad" = all ] || [ "$bad" = "$SLURMD_NODENAME" ]; then exit 3; fi
fi
export FAULTS_CONTROL="$here"
"""
