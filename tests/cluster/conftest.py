"""A real Slurm for the tests in this directory: two nodes, in a place and on ports of its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cluster import Cluster, Settings, Unavailable, free_port_block
from tests.end_to_end.conftest import database, here, run, run_quickly  # noqa: F401  # fixtures
from tests.tasks.commands import Commands
from tests.tasks.studies import NewStudy, in_folders_of


@contextlib.contextmanager
def cluster_for_tests(settings: Settings) -> Iterator[Cluster]:
    """A cluster that is up, and taken down at the end.

    Where Slurm cannot be had the tests are skipped with the reason; on CI, which must have it, they fail.
    """
    # Not pytest's tmp_path_factory: only root may look into that, and its paths are long for sockets.
    with tempfile.TemporaryDirectory(prefix="trialfleet-") as parent:
        cluster = Cluster(Path(parent, "cluster"))
        try:
            cluster.up(settings)
        except Unavailable as reason:
            if "CI" in os.environ:
                pytest.fail(f"no Slurm on CI: {reason}")
            pytest.skip(str(reason))
        try:
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of this test process. Each worker of pytest-xdist has one of its own."""
    with cluster_for_tests(Settings(nodes=2, port=free_port_block())) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def slurm_environment(cluster: Cluster) -> Iterator[None]:
    """Slurm's commands speak to the cluster during a test, which finds it whole and without jobs."""
    # Not the fixture `monkeypatch`: what a test patches with it must be undone before the end of this one.
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - cluster.env.keys():
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(cluster.conf))
        yield
    cluster.up()  # the test may have stopped parts of it
    cluster.cancel_all()


@pytest.fixture
def new_study(slurm_environment: None, commands: Commands, tmp_path: Path) -> Iterator[NewStudy]:
    """Makes a study whose trials are jobs of the cluster, in a folder of the test's own."""
    # Without srun a job's start is quicker by half a second.
    without = ("hydra/launcher=submitit_slurm", "hydra.launcher.use_srun=false")
    yield from in_folders_of(tmp_path, *without, commands=commands)
