"""An application of somebody's own on Slurm, by one override: pruned, cancelled, resumed, reviewed in MLflow."""

import subprocess
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.tasks.commands import Commands
from tests.tasks.own_app import OwnApp, check

pytestmark = pytest.mark.cluster


def test_a_job_that_is_lost_and_a_driver_that_is_killed(
    cluster: Cluster,
    tmp_path: Path,
    commands: Commands,
    tables: Path,
) -> None:
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
    named = {"commands": commands, "tables": tables, "environment": cluster.env}
    app = OwnApp(tmp_path / "app", *launcher, "epochs=300", **named)
    driver = app.start()
    app.wait_for_reports(0)
    driver.kill()
    driver.communicate()
    job = app.trial(0).claims()[0].job
    subprocess.run(["scancel", job.removeprefix("slurm:")], check=True, env=cluster.env)
    app.edit()
    assert "the code has changed" in app.run()
    check(app)
    result = app.trial(0).result()
    assert result is not None
    assert result.objectives is not None
    assert result.objectives[0] < 1


SEVERAL = """\
import os
import time

import hydra

import trialfleet


@hydra.main(config_path="conf", config_name="config")
def train(cfg):
    step = 0
    while not trialfleet.should_stop():
        step += 1
        trialfleet.report(step, {"objective": 1 / cfg.lr if os.environ["SLURM_PROCID"] == "0" else 0.0})
        time.sleep(0.02)
        if cfg.lr > 1 and step == 30:
            return 0.0
    if cfg.lr < 1:
        with open(os.environ["HEARD"], "a") as file:
            file.write(f"{os.environ['SLURM_PROCID']}\\n")


if __name__ == "__main__":
    train()
"""


def test_of_several_processes_the_first_reports_and_all_hear_a_verdict(
    cluster: Cluster,
    tmp_path: Path,
    commands: Commands,
    tables: Path,
) -> None:
    """Without torch.distributed or jax.distributed, by which they would agree on the step."""
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.tasks_per_node=2", "hydra.launcher.cpus_per_task=1")
    environment = {**cluster.env, "HEARD": str(tmp_path / "heard")}
    named = {"commands": commands, "tables": tables, "environment": environment}
    app = OwnApp(tmp_path / "app", *launcher, "hydra.sweeper.n_trials=2", **named)
    (app.folder / "train.py").write_text(SEVERAL)
    said = app.run()
    assert "(1 complete, 1 pruned)" in said
    assert sorted((tmp_path / "heard").read_text().split()) == ["0", "1"]
    assert {line.values["objective"] for run in app.lines(1) for line in run} == {1000.0}
