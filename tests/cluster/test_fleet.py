"""The fleet of a real Slurm does what every fleet must."""

from pathlib import Path

import pytest

from jobs.cluster import Cluster
from tests.sweep.fleets.conformance import FollowedConformance, FollowedWorld, WaitingWorkers
from trialfleet.sweep.fleets import slurm
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.fleets.slurm import SlurmFleet

pytestmark = pytest.mark.cluster
PARAMETERS = {"signal_delay_s": 30, "time": 10, "job_name": "conformance"}


class RealSlurm(WaitingWorkers):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fleet = self.newcomer()

    def newcomer(self) -> Fleet:
        return SlurmFleet(PARAMETERS, None, 8, self.submissions, {"PYTHONPATH": str(self.folder)}, 0.0)


class TestSlurm(FollowedConformance):
    @pytest.fixture
    def world(self, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FollowedWorld:
        monkeypatch.setattr(slurm, "WORKER", WaitingWorkers.MODULE)
        return RealSlurm(tmp_path / "study")
