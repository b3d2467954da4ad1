"""An application of somebody's own on Slurm, by one override: pruned, cancelled, resumed, reviewed in MLflow."""

import subprocess
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.tasks.own_app import OwnApp, check

pytestmark = pytest.mark.cluster


def test_a_job_that_is_lost_and_a_driver_that_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
    app = OwnApp(tmp_path / "app", *launcher, "epochs=300", environment=cluster.env)
    driver = app.start()
    app.wait_for_reports(0)
    driver.kill()
    driver.communicate()
    job = app.trial(0).claims()[0].job
    subprocess.run(["scancel", job.removeprefix("slurm:")], check=True, env=cluster.env)
    script = (app.folder / "train.py").read_text()
    (app.folder / "train.py").write_text(script.replace("return loss", "return 7.0  # tomorrow's edit"))
    assert "the code has changed" in app.run()
    check(app)
    result = app.trial(0).result()
    assert result is not None
    assert result.objectives != [7.0]
