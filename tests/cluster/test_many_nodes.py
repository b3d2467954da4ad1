"""Trials that span nodes: two processes of one training, started by srun, on two nodes of a real Slurm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jobs.cluster import Cluster
from jobs.cluster.processes import wait_until
from tests.end_to_end.agreement import assert_agreement, load_study
from tests.end_to_end.conftest import Run
from tests.training.harness import SMALL_MODEL
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.result import Result
from trialfleet.trial.submission import TrialRecord

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SPANNING = (
    "-m",
    "hydra/sweeper=optuna",
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.nodes=2",
    "mesh.data=2",
    "+experiment=quick_test",
    "hydra.sweeper.study_name=spanning",
    "hydra.sweeper.n_jobs=1",
    "hydra.sweeper.watch={files:0.1,jobs:0.5,max_jobs:1.0}",
    *SMALL_MODEL,
)
ENDLESS = "training.max_steps=100000"
CHANGED = "study.allow_changes=[training.max_steps,training.checkpoints,hydra.sweeper.pruner]"


def trial(folder: Path, number: int = 0) -> TrialDir:
    return TrialDir(folder / "sweeps" / "spanning" / "trials" / f"{number:05d}")


def result(of: TrialDir) -> Result:
    found = of.result()
    assert found is not None
    return found


def as_slurm_has_it(cluster: Cluster, of: TrialDir) -> str:
    """Number of nodes and state of the trial's job."""
    record = TrialRecord.read(of.trial_json)
    assert record is not None
    assert record.job is not None

    def state() -> str:
        return cluster.run("squeue", "-r", "-h", "-t", "all", "-o", "%D %T", f"--jobs={record.job.id}").stdout.strip()

    assert wait_until(lambda: "COMPLETING" not in state(), 60)
    return state()


def second_process(folder: Path) -> psutil.Process | None:
    """The job's process on its second node, while there is one."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "trialfleet.worker" in words and words[-1].startswith(str(folder)):
            try:
                if process.environ().get("SLURM_PROCID") == "1":
                    return process
            except psutil.Error:  # it has just ended
                continue
    return None


def test_a_death_and_a_verdict_reach_all_processes_of_a_trial(
    here: Path,
    run_quickly: Run,
    database: str,
    cluster: Cluster,
) -> None:
    saving = ("training.checkpoints.every_steps=20", "training.max_steps=200")
    command = [sys.executable, "-m", "pipelines.sweep", *SPANNING, *saving, "hydra.sweeper.n_trials=1"]
    with open(here / "driver.log", "wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        checkpoints = trial(here).run_dir("1.0") / "checkpoints"
        assert wait_until(lambda: any(checkpoints.glob("*/manifest.json")), 200), (here / "driver.log").read_text()
        victim = second_process(here)
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        assert driver.wait(200) == 0, (here / "driver.log").read_text()
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
    # It ended its job, and the next job went on.
    assert trial(here).run_labels() == ["1.0", "2.0"]
    assert result(trial(here)).run == "2.0"
    assert result(trial(here)).notes["resumed_from"] > 0

    pruner = ("hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.upper=-1")
    run_quickly("pipelines.sweep", *SPANNING, ENDLESS, "hydra.sweeper.n_trials=2", *pruner, CHANGED)
    assert_agreement(here / "sweeps" / "spanning", database, 2)
    assert [one.state.name for one in load_study(here / "sweeps" / "spanning").trials] == ["COMPLETE", "PRUNED"]
    assert trial(here, 1).run_labels() == ["1.0"]
    for number, label in enumerate(("2.0", "1.0")):
        one = trial(here, number)
        assert result(one).notes["fingerprint"]["processes"] == "2"
        # Only process 0 reports, and each has a log of its own.
        assert sorted(path.name for path in one.run_dir(label).glob("log*")) == ["log", "log.1"]
        # Had one of the two not left by itself, Slurm would have had to end it.
        assert as_slurm_has_it(cluster, one) == "2 COMPLETED"
        assert "Traceback" not in (one.run_dir(label) / "log.1").read_text()
