"""The doctor on a real Slurm: a node answers, and nothing is left of the job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_a_cluster_that_is_ready_and_one_that_is_not(cluster: Cluster, tmp_path: Path) -> None:
    def doctor(*words: str) -> tuple[int, dict[str, dict[str, str]]]:
        command = [sys.executable, "-m", "pipelines.doctor", "--json", "hydra/launcher=submitit_slurm", *words]
        done = subprocess.run(command, cwd=tmp_path, env=cluster.env, capture_output=True, text=True)
        assert done.stderr == ""
        return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}

    code, found = doctor("hydra.launcher.partition=main", "hydra.launcher.gres='gpu:1'")
    assert {one["name"]: one["found"] for one in found.values() if one["status"] == "FAIL"} == {}
    assert code == 0
    assert "main* up, limit infinite: 2 idle (gpu:" in found["slurm.partitions"]["found"]
    assert found["job"]["found"].split(" ran on ")[1].startswith(tuple(cluster.nodes))
    assert "a file there and one back took" in found["job.folder"]["found"]
    assert found["job.python"]["status"] == "ok"

    code, found = doctor("hydra.launcher.partition=none", "hydra.launcher.python=/no/such/python")
    assert code == 1
    assert "there is no partition none" in found["slurm.launcher"]["found"]
    assert found["job"]["status"] == "FAIL"

    _, found = doctor("hydra.launcher.gpus_per_node=100", "hydra.launcher.python=/no/such/python")
    assert found["slurm.launcher"]["status"] == "FAIL"
    assert found["job"]["status"] == "ok"
    assert "/no/such/python" in found["job.python"]["found"]

    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    code, found = doctor("hydra.launcher.partition=main", "--wait=2")
    cluster.run("scontrol", "update", "partitionname=main", "state=up")
    assert (code, found["job"]["status"]) == (1, "FAIL")
    assert "PENDING (PartitionDown)" in found["job"]["found"]

    assert list(tmp_path.iterdir()) == []
    assert cluster.run("squeue", "-h", "--me", "-t", "pending,running").stdout == ""
