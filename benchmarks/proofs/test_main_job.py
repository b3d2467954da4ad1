"""The main job on a real Slurm: four trials on two virtual nodes."""

from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.cluster.conftest import cluster, slurm_environment  # noqa: F401  # fixtures
from tests.cluster.test_main_job import on_two_nodes
from tests.end_to_end.conftest import Run


@pytest.mark.cluster
def test_a_study_of_four_trials_on_two_nodes(here: Path, run: Run, database: str, cluster: Cluster) -> None:  # noqa: F811  # as above
    on_two_nodes(4, (), here, run, database, cluster)
