"""The main job on a real Slurm: trials on two virtual nodes, and all that is told of them agrees."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.end_to_end.agreement import assert_agreement, children, load_study
from tests.end_to_end.conftest import Run
from tests.training.harness import SMALL_MODEL

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def on_two_nodes(
    n_trials: int,
    more: Sequence[str],
    here: Path,
    run: Run,
    database: str,
    cluster: Cluster,
) -> None:
    """Run the main job with so many trials, one on each node at a time, and judge it.

    Args:
        more: overrides.
    """
    before = known_jobs(cluster)
    run(
        "pipelines.sweep",
        "-m",
        "hydra/sweeper=optuna",
        "hydra/launcher=submitit_slurm",
        f"hydra.sweeper.n_trials={n_trials}",
        "hydra.sweeper.watch={files:0.1,jobs:0.5,max_jobs:1.0}",
        "hydra.launcher.mem_gb=9",  # of a node's 16
        "+experiment=quick_test",
        *more,
    )
    folder = here / "sweeps" / "asr-asr_tiny"
    assert_agreement(folder, database, n_trials)
    assert all(trial.state.name == "COMPLETE" for trial in load_study(folder).trials)

    jobs = {number: run.data.tags["trialfleet.job_id"] for number, run in children(folder, database).items()}
    assert len(set(jobs.values())) == n_trials
    assert set(jobs.values()) == known_jobs(cluster) - before
    claims = [json.loads(claim.read_text()) for claim in folder.glob("trials/*/runs/*/claim")]
    assert len(claims) == n_trials
    assert {claim["node"] for claim in claims} == set(cluster.nodes)


def known_jobs(cluster: Cluster) -> set[str]:
    """Of any state, those of tests before this one, too."""
    return set(cluster.run("squeue", "-r", "-h", "-t", "all", "-o", "%i").stdout.split())


def test_a_study_on_two_nodes(here: Path, run_quickly: Run, database: str, cluster: Cluster) -> None:
    """A trial for each; benchmarks/proofs has two, and of the model that is the default."""
    on_two_nodes(2, SMALL_MODEL, here, run_quickly, database, cluster)
