"""A driver on a Slurm of fakes, whose jobs live by a clock of the test's: what it does on a cluster, in milliseconds.

The driver, its files, the journal and `SlurmFleet` are the real ones. Slurm's commands are the fakes of `fake_slurm`;
what they say comes from `Cluster`, which reads the scripts that were submitted and lets their jobs live, one step each
time the driver sleeps: in line, running, over. How a job ends is the test's to say.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
from omegaconf import OmegaConf

from tests.sweep.fake_slurm import HEADER, FakeSlurm
from trialfleet.sweep import sweeper_settings as settings_of
from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.clock import Clock
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.fleets.slurm import LAUNCHER
from trialfleet.sweep.observers import Observers
from trialfleet.sweep.reconcile import Limits
from trialfleet.sweep.study import search_space as spaces
from trialfleet.sweep.study import storage as stores
from trialfleet.sweep.study.ahead import Rule
from trialfleet.sweep.study.budget import Account
from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.samplers import SamplerFactory
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.trial import out_of_memory
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import Assignment, Submission

UID = "0123456789abcdef"
LINE, RUNNING = "PENDING", "RUNNING"
UNCLAIMED = "FAILED"  # what a job that never began says in the end
SBATCH = """\
#!/bin/sh
echo "sbatch $*" >> "{folder}/calls"
if [ -s "{folder}/refused" ] && grep -q -f "{folder}/refused" "$2"; then
    echo "sbatch: error: Memory specification can not be satisfied" >&2
    exit 1
fi
job=$(($(cat "{folder}/last") + 1))
echo $job | tee "{folder}/last"
echo "$job $2" >> "{folder}/accepted"
"""


@dataclass
class Job:
    """One job of the cluster.

    Attributes:
        memory: what its script asks for, in Slurm's words; empty if it asks for none.
        excluded: nodes that it must not go to.
    """

    id: str
    assignment: Assignment
    submission: Submission
    script: Path
    memory: str
    excluded: set[str]
    state: str = LINE
    node: str = ""

    @property
    def trial(self) -> TrialDir:
        return TrialDir(Path(self.assignment.directory))

    def claim(self) -> None:
        identity = self.submission.identity(self.assignment)
        with patch.dict(os.environ, {"SLURMD_NODENAME": self.node}):
            self.trial.claim(self.assignment.attempt, f"{LAUNCHER}:{self.id}", 0, identity)

    def complete(self) -> str:
        label = f"{self.assignment.attempt}.0"
        result = Result(TrialState.COMPLETE, [float(self.assignment.number)], None, {"total": 1.0}, label, {})
        self.trial.commit(result, self.submission.identity(self.assignment))
        return "COMPLETED"


def ends_well(job: Job) -> str:
    """A job's life: claim, result."""
    job.claim()
    return job.complete()


@dataclass
class Cluster:
    """Nodes, and the jobs on them.

    Args:
        nodes: their names; the first that a job may go to gets it.
        life: of a job, from its start on a node to the state in which it ends.
    """

    slurm: FakeSlurm
    nodes: Sequence[str] = ("n1",)
    life: Callable[[Job], str] = ends_well
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        folder = self.slurm.folder
        for name, text in [("last", "100"), ("accepted", ""), ("refused", "")]:
            (folder / name).write_text(text)
        (folder / "sbatch").write_text(SBATCH.format(folder=folder))
        self.slurm.nodes(*(f"{node} idle main*" for node in self.nodes))

    def refuse(self, words: str) -> None:
        """sbatch refuses each script that has these words."""
        (self.slurm.folder / "refused").write_text(f"{words}\n")

    def live(self, seconds: float) -> None:
        """Time passes: who has run is over, who was in line runs, and who was submitted is in line."""
        self.slurm.now += seconds
        cancelled = self.cancelled()
        for job in self.jobs:
            if job.id in cancelled and job.state in (LINE, RUNNING):
                job.state = "CANCELLED"
            elif job.state == RUNNING:
                job.state = self.life(job)
            elif job.state == LINE:
                job.node = next((node for node in self.nodes if node not in job.excluded | self._updated(job)), "")
                job.state = RUNNING if job.node else LINE
        self._take_in()
        self.slurm.say("squeue", HEADER, *(self._row(job) for job in self.jobs))

    def cancelled(self) -> list[str]:
        """The jobs that scancel was called for, once for each call."""
        return [word for call in self.slurm.calls("scancel") for word in call.split() if word[0].isdigit()]

    def _take_in(self) -> None:
        accepted = self.slurm.folder / "accepted"
        for line in accepted.read_text().splitlines():
            job, _, path = line.partition(" ")
            script = Path(path)
            submission, text = Submission.read(script.with_suffix(".json")), script.read_text()
            count = len(submission.trials)
            for index, assignment in enumerate(submission.trials):
                name = job if count == 1 else f"{job}_{index}"
                excluded = set(_asked(text, "exclude").split(","))
                self.jobs.append(Job(name, assignment, submission, script, _asked(text, "mem"), excluded))
        accepted.write_text("")

    def _updated(self, job: Job) -> set[str]:
        """The nodes that a job in line was kept off since its submission."""
        updates = [call for call in self.slurm.calls("scontrol") if " update " in call]
        own = [call for call in updates if job.id in re.split("[=, ]", call)]
        return {node for call in own for node in call.partition("ExcNodeList=")[2].split(",")}

    def _row(self, job: Job) -> str:
        return self.slurm.row(f"{job.id} {job.state}@{job.node}", str(job.script))


def _asked(script: str, key: str) -> str:
    found = re.search(rf"^#SBATCH --{key}=(.*)$", script, re.MULTILINE)
    return found[1] if found else ""


@dataclass
class Heard:
    """An observer that remembers."""

    notices: list[str] = field(default_factory=list)
    retries: list[tuple[int, str]] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    turns: int = 0

    def recovered(self, number: int, directory: TrialDir) -> None: ...
    def started(self, trial: ActiveTrial) -> None: ...
    def running(self, trial: ActiveTrial, label: str) -> None: ...
    def best(self, front: Sequence[Finished]) -> None: ...

    def retried(self, trial: ActiveTrial, reason: str) -> None:
        self.retries.append((trial.number, reason))

    def ended(self, trial: ActiveTrial, result: Result) -> None:
        self.results[trial.number] = result

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def tick(self, driver: Driver) -> None:
        self.turns += 1
        assert self.turns < 1000, f"the driver does not come to an end: {self.notices}, {self.retries}"


def build(
    cluster: Cluster,
    launcher: Mapping[str, Any] | None = None,
    sampler: str = "RandomSampler",
    **sweeper: Any,
) -> tuple[Driver, Heard]:
    """A driver on a new study, and who hears what it says.

    Args:
        launcher: parameters of the launcher besides the usual.
        sampler: of Optuna's.
        sweeper: keys of `hydra.sweeper` that are not as in conf/.
    """
    slurm = cluster.slurm
    folder = slurm.submissions.parent
    watch = {"files": 1.0, "jobs": 1.0, "max_jobs": 1.0, "max_files": 0.0, "verdict": 0.0}
    settled = {"settle_local": 0.0, "settle_network": 0.0}
    settings = settings_of.settings({"n_trials": 4, "n_jobs": 4, "watch": {**watch, **settled}, **sweeper})
    storage = stores.open_storage(None, folder / "optuna_journal.log", lambda: None)
    store = StudyStorage(storage, "study", ["minimize"], lambda: None)
    store.belong(UID, folder)
    space = spaces.parse(["x=interval(0.0,1.0)"])
    samplers = SamplerFactory({"_target_": f"optuna.samplers.{sampler}"}, space, 1)
    fleet, heard = slurm.fleet(**(launcher or {})), Heard()
    driver = Driver(
        study=StudyFolder(folder, slurm.submissions, [UID], None),
        store=store,
        proposer=Proposer(store, UID, space, samplers, [], folder, None, OmegaConf.create({}), Rule(1, 1)),
        pruner=None,
        settings=settings,
        limits=Limits(settings.max_retries, settings.max_unclaimed, None),
        n_trials=settings.n_trials,
        fleets={LAUNCHER: fleet},
        fleet=fleet,
        payload=folder / "payload.pkl",
        observers=Observers([heard]),
        progress=StudyProgress(["minimize"]),
        account=Account.open(folder / "budget.json", 1, heard.notice, lambda: 0.0),
        takes_constraints=samplers.takes_constraints,
        clock=Clock(now=lambda: slurm.now, sleep=cluster.live),
    )
    return driver, heard


def runs_out_of_memory(job: Job) -> str:
    """The life of a job that Slurm kills for its use of memory."""
    job.claim()
    return "OUT_OF_MEMORY"


def out_of_memory_by_its_own_word(job: Job) -> str:
    """The same, told by the run itself: Python could not get the memory."""
    job.claim()
    (job.trial.run_dir(f"{job.assignment.attempt}.0") / out_of_memory.RECORD).write_text('{"message": "no more"}')
    return "COMPLETED"


def stored(driver: Driver) -> list[optuna.trial.FrozenTrial]:
    return driver.store.trials()
