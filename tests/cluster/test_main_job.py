"""The main job on a real Slurm: four trials on two virtual nodes, and all that is told of them agrees."""

import json
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.end_to_end.agreement import assert_agreement, children, load_study
from tests.end_to_end.conftest import Run, database, here, run, tables  # noqa: F401  # fixtures

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_study_of_four_trials_on_two_nodes(here: Path, run: Run, database: str, cluster: Cluster) -> None:  # noqa: F811  # as above
    run(
        "pipelines.sweep",
        "-m",
        "hydra/sweeper=optuna",
        "hydra/launcher=submitit_slurm",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.watch={files:0.1,jobs:0.5,max_jobs:1.0}",
        "hydra.launcher.mem_gb=9",  # of a node's 16: one job for each node at a time
        "+experiment=quick_test",
    )
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, database, 4)
    assert all(trial.state.name == "COMPLETE" for trial in load_study(folder).trials)

    jobs = {number: run.data.tags["trialfleet.job_id"] for number, run in children(folder, database).items()}
    assert len(set(jobs.values())) == 4
    assert set(jobs.values()) == set(cluster.run("squeue", "-r", "-h", "-t", "all", "-o", "%i").stdout.split())
    claims = [json.loads(claim.read_text()) for claim in folder.glob("trials/*/runs/*/claim")]
    assert len(claims) == 4
    assert {claim["node"] for claim in claims} == set(cluster.nodes)
