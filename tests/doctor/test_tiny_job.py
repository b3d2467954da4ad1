"""The tiny job, on a cluster whose sbatch runs scripts on this machine."""

import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.doctor import tiny_job
from trialfleet.doctor.findings import Check, Finding, examine
from trialfleet.doctor.slurm import Slurm
from trialfleet.doctor.tiny_job import TinyJob

from .conftest import AskedFor, Machine

Looked = Callable[..., dict[str, Finding]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_job, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(tiny_job, "GONE_SECONDS", 0.1)


@pytest.fixture
def looked(asked: AskedFor, slurm: FakeSlurm, tmp_path: Path) -> Iterator[Looked]:
    """What the job of a sweep with these overrides finds."""

    def look(*overrides: str, wait: float = 60.0) -> dict[str, Finding]:
        wanted = asked(*overrides, job=True)
        job = TinyJob(wanted, Slurm(wanted), wait)
        return {one.name: one for one in examine([Check("job", job.look, job.seconds, job.end)])}

    yield look
    assert list((tmp_path / "sweeps").iterdir()) == []


def sbatch(machine: Machine, slurm: FakeSlurm, *before: str) -> None:
    """sbatch that runs the script, in the background, after some other lines; squeue shows the job running."""
    run = 'for script; do :; done; (sh "$script" > /dev/null 2>&1 &)'
    machine.program("sbatch", *before, run, "echo 7")
    slurm.queue("7 RUNNING")


def test_a_node_that_is_well(machine: Machine, slurm: FakeSlurm, looked: Looked) -> None:
    sbatch(machine, slurm)
    found = looked()
    assert {name: one.status for name, one in found.items()} == {"job": "ok", "job.folder": "ok", "job.python": "ok"}
    assert "a file there and one back took" in found["job.folder"].found
    assert f"with trialfleet {version('trialfleet')}" in found["job.python"].found
    (cancelled,) = slurm.calls("scancel")
    assert "--name=trialfleet-doctor-" in cancelled


def test_a_clock_that_is_wrong(machine: Machine, slurm: FakeSlurm, looked: Looked) -> None:
    machine.program("date", "echo 1000.5")
    sbatch(machine, slurm)
    found = looked()["job.folder"]
    assert found.status == "note"
    assert "the node's clock differs by -" in found.found
    machine.program("date", "echo noon")
    assert "cannot be read" in looked()["job.folder"].found


def test_a_node_without_our_package(machine: Machine, slurm: FakeSlurm, looked: Looked) -> None:
    sbatch(machine, slurm)
    python = machine.program("their-python", "echo 'ModuleNotFoundError: No module named trialfleet' >&2", "exit 1")
    found = looked("hydra/launcher=submitit_slurm", f"hydra.launcher.python={python}")["job.python"]
    assert found.status == "FAIL"
    assert "No module named trialfleet" in found.found
    found = looked("hydra/launcher=submitit_slurm", "hydra.launcher.python=/no/such/python")["job.python"]
    assert (found.status, "not found" in found.found) == ("FAIL", True)


def test_another_version_of_our_package(machine: Machine, slurm: FakeSlurm, looked: Looked) -> None:
    sbatch(machine, slurm)
    python = machine.program("their-python", "printf '/their/python\\t3.11\\t0.0.9\\n'")
    found = looked("hydra/launcher=submitit_slurm", f"hydra.launcher.python={python}")["job.python"]
    assert (found.status, "trialfleet 0.0.9" in found.found) == ("note", True)


def test_a_folder_that_is_not_shared(machine: Machine, slurm: FakeSlurm, looked: Looked) -> None:
    machine.program("sbatch", "echo 7")
    slurm.queue("7 COMPLETED@n1")
    (found,) = looked().values()
    assert found.status == "FAIL"
    assert "job 7 is gone, and nothing of it is seen" in found.found
    assert "hydra.sweep.dir" in found.fix


def test_setup_that_fails_is_quoted(machine: Machine, slurm: FakeSlurm, looked: Looked) -> None:
    """As Slurm has it: what the script says goes into its log."""
    log = 'for script; do :; done; echo "module: command not found" > "$(dirname "$script")/7_0_log.err"'
    machine.program("sbatch", log, "echo 7")
    slurm.queue()
    (found,) = looked("hydra/launcher=submitit_slurm").values()
    assert (found.status, "module: command not found" in found.found) == ("FAIL", True)


@pytest.mark.parametrize(("reason", "status"), [("Priority", "note"), ("PartitionDown", "FAIL")])
def test_a_job_that_waits(machine: Machine, slurm: FakeSlurm, looked: Looked, reason: str, status: str) -> None:
    machine.program("sbatch", "echo 7")
    slurm.queue(f"7 PENDING {reason}")
    (found,) = looked(wait=0.3).values()
    assert found.status == status
    assert f"PENDING ({reason})" in found.found
    assert len(slurm.calls("scancel")) == 1


def test_what_sbatch_refuses(slurm: FakeSlurm, looked: Looked) -> None:
    slurm.say("sbatch", code=1, complaint="Invalid account or account/partition combination specified")
    (found,) = looked().values()
    assert found.status == "FAIL"
    assert "Invalid account" in found.found


def test_the_script_asks_for_little(asked: AskedFor, machine: Machine, slurm: FakeSlurm, tmp_path: Path) -> None:
    overrides = ["partition=main", "account=lab", "gpus_per_node=2", "mem_gb=64", "nodes=4", "timeout_min=600"]
    wanted = asked("hydra/launcher=submitit_slurm", *(f"hydra.launcher.{one}" for one in overrides))
    machine.program("sbatch", f'for script; do :; done; cp "$script" "{tmp_path}/script"', "exit 1")
    job = TinyJob(wanted, Slurm(wanted))
    list(job.look())
    list(job.end())
    lines = (tmp_path / "script").read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"partition=main", "account=lab", "nodes=1", "cpus-per-task=1", "time=5"} <= options
    assert not [one for one in options if one.startswith(("gpus", "mem", "gres"))]
    assert subprocess.run(["sh", "-n", tmp_path / "script"]).returncode == 0


def test_an_end_before_the_job_was_submitted_submits_none(asked: AskedFor, slurm: FakeSlurm, tmp_path: Path) -> None:
    wanted = asked(job=True)
    job = TinyJob(wanted, Slurm(wanted))
    list(job.end())
    list(job.look())
    assert slurm.calls("sbatch") == []
    assert list((tmp_path / "sweeps").iterdir()) == []
