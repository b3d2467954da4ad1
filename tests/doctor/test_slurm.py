"""Slurm, by what its commands say."""

from pathlib import Path

import pytest

from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.doctor.findings import Check, Finding, examine
from trialfleet.doctor.slurm import Slurm
from trialfleet.sweep.fleets import slurm_answers, slurm_memory

from .conftest import AskedFor, Machine, partitions

ON_SLURM = "hydra/launcher=submitit_slurm"


def looked(asked: AskedFor, *overrides: str) -> dict[str, Finding]:
    slurm = Slurm(asked(*overrides))
    looks = (slurm.commands, slurm.controller, slurm.partitions, slurm.limits, slurm.launcher)
    return {one.name: one for one in examine(Check("slurm", look, 60) for look in looks)}


def test_a_cluster_that_is_well(asked: AskedFor, slurm: FakeSlurm) -> None:
    slurm.say("sbatch", complaint="sbatch: Job 5 to start at 2026-01-01 on nodes n1 in partition main")
    found = looked(asked, ON_SLURM)
    assert {name: one.status for name, one in found.items()} == {
        "slurm": "ok", "slurm.controller": "ok", "slurm.partitions": "ok", "slurm.limits": "ok", "slurm.launcher": "ok",
    }  # fmt: skip
    assert found["slurm.partitions"].found == (
        "main* up, limit infinite: 2 idle (gpu:2); cpu up, limit 1:00:00: 8 mixed"
    )
    assert "there is no accounting" in found["slurm.limits"].found
    assert "Job 5 to start" in found["slurm.launcher"].found
    assert all("--test-only" in call for call in slurm.calls("sbatch"))


def test_no_slurm_is_a_note_unless_it_was_asked_for(asked: AskedFor, bare: Machine) -> None:
    assert {name: one.status for name, one in looked(asked).items()} == {"slurm": "note"}
    (found,) = looked(asked, ON_SLURM).values()
    assert found.status == "FAIL"
    assert "sbatch, squeue, scancel, srun cannot be found on PATH" in found.found


def test_some_commands_are_missing(asked: AskedFor, bare: Machine) -> None:
    for name in ("sbatch", "squeue", "scancel", "srun"):
        bare.program(name, "echo slurm 23.11")
    found = looked(asked, ON_SLURM)
    assert found["slurm"].status == "note"
    assert "slurm 23.11, without sinfo, scontrol, sacct" in found["slurm"].found
    (bare.folder / "sbatch").unlink()
    assert looked(asked, ON_SLURM)["slurm"].status == "FAIL"


@pytest.mark.parametrize(("overrides", "status"), [((), "note"), ((ON_SLURM,), "FAIL")])
def test_a_controller_that_is_away(asked: AskedFor, slurm: FakeSlurm, overrides: tuple[str, ...], status: str) -> None:
    slurm.say("scontrol", "Slurmctld(primary) at head is DOWN", code=1)
    found = looked(asked, *overrides)
    assert list(found) == ["slurm", "slurm.controller"]
    assert found["slurm.controller"].status == status
    assert "is DOWN" in found["slurm.controller"].found


def test_partitions_that_take_nothing(asked: AskedFor, slurm: FakeSlurm) -> None:
    partitions(slurm, "main* up infinite drained 2 (null)", "old down infinite idle 4 (null)")
    found = looked(asked, ON_SLURM)
    assert found["slurm.partitions"].status == "FAIL"
    assert "no node takes jobs" in found["slurm.partitions"].found
    assert "no node of partition main" in found["slurm.launcher"].found


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hydra.launcher.partition=gpu"], "there is no partition gpu"),
        (["hydra.launcher.partition=cpu", "hydra.launcher.gres='gpu:1'"], "asks for 1 GPUs of a node, and nodes of"),
        (["hydra.launcher.gpus_per_node=4"], "nodes of partition main (the default) have 2"),
        (["hydra.launcher.gpus_per_task=2", "hydra.launcher.tasks_per_node=2"], "asks for 4 GPUs"),
    ],
)
def test_a_launcher_that_asks_for_what_is_not_there(
    asked: AskedFor, slurm: FakeSlurm, overrides: list[str], said: str
) -> None:
    found = looked(asked, ON_SLURM, *overrides)["slurm.launcher"]
    assert found.status == "FAIL"
    assert said in found.found
    assert found.fix


def test_what_slurm_itself_refuses(asked: AskedFor, slurm: FakeSlurm) -> None:
    slurm.say("sbatch", code=1, complaint="allocation failure: Invalid account")
    found = looked(asked, ON_SLURM)["slurm.launcher"]
    assert found.status == "FAIL"
    assert "Invalid account" in found.found
    partitions(slurm, "cpu up infinite idle 2 (null)")
    assert "no partition is the default" in looked(asked, ON_SLURM)["slurm.launcher"].found


def test_limits_of_accounting(asked: AskedFor, slurm: FakeSlurm, machine: Machine) -> None:
    slurm.say("scontrol", "Slurmctld(primary) at head is UP", "AccountingStorageType = accounting_storage/slurmdbd")
    machine.program("sacctmgr", "echo 'lab|main|normal|4|10|||'")
    found = looked(asked)["slurm.limits"]
    assert found.status == "ok"
    assert "Account=lab Partition=main QOS=normal MaxJobs=4 MaxSubmit=10" in found.found
    machine.program("sacctmgr", "exit 0")
    assert "no association" in looked(asked)["slurm.limits"].found
    machine.program("sacctmgr", "echo 'Connection refused' >&2", "exit 1")
    found = looked(asked)["slurm.limits"]
    assert (found.status, "Connection refused" in found.found) == ("note", True)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1)", 4), ("shard:8,gpu:1", 1), ("gpu:a:1,gpu:b:2", 3), ("mps:9", 0)],
)
def test_gpus_of_a_node(gres: str, gpus: int) -> None:
    (group,) = slurm_answers.partitions(f"a banner\ntrialfleet|main*|up|1:00|idle|2|{gres}|\n")
    assert (group.partition, group.default, group.gpus) == ("main", True, gpus)


def test_gpus_that_a_script_asks_for() -> None:
    assert slurm_memory.gpus({}) == 0
    assert slurm_memory.gpus({"gres": "gpu:a100:2"}) == 2
    assert slurm_memory.gpus({"gpus_per_task": 2, "ntasks_per_node": 3}) == 6
    assert slurm_memory.gpus({"additional_parameters": {"gpus-per-node": "h100:4"}}) == 4


def test_nothing_is_left(asked: AskedFor, slurm: FakeSlurm, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*")) | {slurm.folder / "calls"}
    looked(asked, ON_SLURM)
    assert set(tmp_path.rglob("*")) == before
