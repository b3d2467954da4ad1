"""What the fleet makes of Slurm's words: its commands are faked on PATH, its clock is the test's."""

from collections.abc import Callable

import pytest

from tests.sweep.fake_slurm import FakeSlurm
from trialfleet.errors import UserError
from trialfleet.sweep import slurm_fleet
from trialfleet.sweep.fleet import Busy, MaybeSubmitted
from trialfleet.sweep.reconcile import Job
from trialfleet.sweep.slurm_fleet import LAUNCHER, SlurmFleet
from trialfleet.tracking.submission import JobRef


def job(name: str) -> JobRef:
    return JobRef(LAUNCHER, name)


Phase = Callable[[str], Job]

# ---------------------------------------------------------------- follow


def test_one_call_tells_of_all_jobs(slurm: FakeSlurm) -> None:
    slurm.queue(*(f"{number} RUNNING" for number in range(200)))
    fleet = slurm.fleet()
    assert fleet.phase(job("7")) is Job.UNKNOWN  # nobody asked yet
    assert fleet.refresh()
    assert {fleet.phase(job(str(number))) for number in range(200)} == {Job.RUNNING}
    assert len(slurm.calls("squeue")) == 1
    assert not slurm.calls("sacct")


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("PENDING", Job.PENDING),
        ("CONFIGURING", Job.PENDING),
        ("REQUEUE_HOLD", Job.PENDING),
        ("RUNNING", Job.RUNNING),
        ("SUSPENDED", Job.RUNNING),
        ("COMPLETING", Job.RUNNING),
        ("A_STATE_OF_TOMORROW", Job.RUNNING),
        ("COMPLETED", Job.OVER),
        ("TIMEOUT", Job.OVER),
        ("OUT_OF_MEMORY", Job.OVER),
        ("NODE_FAIL", Job.ENDING),
        ("PREEMPTED", Job.ENDING),
        ("CANCELLED", Job.ENDING),
    ],
)
def test_what_a_state_means(slurm: FakeSlurm, state: str, phase: Job) -> None:
    slurm.queue(f"7 {state}")
    fleet = slurm.fleet()
    assert fleet.refresh()
    assert fleet.phase(job("7")) is phase


def test_a_job_is_gone_when_two_calls_did_not_show_it(slurm: FakeSlurm) -> None:
    slurm.queue("7 RUNNING")
    fleet = slurm.fleet()
    fleet.refresh()
    fleet.phase(job("7"))
    slurm.queue()
    phases = []
    for _ in range(2):
        fleet.refresh()
        phases.append(fleet.phase(job("7")))
    assert phases == [Job.ENDING, Job.OVER]


def test_a_call_that_fails_is_no_absence(slurm: FakeSlurm) -> None:
    slurm.queue("7 RUNNING")
    fleet = slurm.fleet()
    fleet.refresh()
    fleet.phase(job("7"))
    slurm.say("squeue", code=1, complaint="slurm_load_jobs error: Unable to contact slurm controller")
    assert [fleet.refresh() for _ in range(3)] == [False] * 3
    assert fleet.phase(job("7")) is Job.RUNNING


def test_files_on_a_network_file_system_get_time_to_appear(slurm: FakeSlurm) -> None:
    slurm.queue("7 COMPLETED")
    fleet = slurm.fleet(settle=60.0)
    fleet.refresh()
    phases = []
    for _ in range(3):
        phases.append(fleet.phase(job("7")))
        slurm.now += 31.0
        fleet.refresh()
    assert phases == [Job.ENDING, Job.ENDING, Job.OVER]


def test_a_requeue_is_no_end(slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    phases = []
    for state in ("RUNNING", "NODE_FAIL", "PENDING", "RUNNING", "NODE_FAIL"):
        slurm.queue(f"7 {state}")
        fleet.refresh()
        phases.append(fleet.phase(job("7")))
        slurm.now += 6.0
    assert phases == [Job.RUNNING, Job.ENDING, Job.PENDING, Job.RUNNING, Job.ENDING]
    slurm.now += 6.0  # for eleven seconds now
    fleet.refresh()
    assert fleet.phase(job("7")) is Job.OVER


def test_a_job_that_slurm_holds_after_a_failed_start_is_let_go(slurm: FakeSlurm) -> None:
    slurm.queue("7 PENDING launch failed requeued held", "8 PENDING Priority")
    slurm.fleet().refresh()
    assert slurm.calls("scontrol") == ["scontrol release 7"]


# ---------------------------------------------------------------- accounting


def forgotten(slurm: FakeSlurm) -> SlurmFleet:
    """A fleet that followed job 7, which squeue no longer knows."""
    slurm.queue("7 RUNNING", "8 RUNNING")
    fleet = slurm.fleet()
    fleet.refresh()
    assert fleet.phase(job("7")) is fleet.phase(job("8")) is Job.RUNNING
    slurm.queue("8 RUNNING")
    return fleet


def looks(fleet: SlurmFleet, count: int) -> list[Job]:
    phases = []
    for _ in range(count):
        fleet.refresh()
        phases.append(fleet.phase(job("7")))
    return phases


def test_accounting_is_asked_once_about_what_squeue_forgot(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", "7|CANCELLED by 0")
    assert looks(fleet, 4) == [Job.ENDING, Job.OVER, Job.OVER, Job.OVER]
    assert [call.split(" ")[1:3] for call in slurm.calls("sacct")] == [["-j", "7"]]


def test_a_job_that_lives_in_accounting_is_waited_for_but_not_for_ever(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", "7|RUNNING")
    assert looks(fleet, 3) == [Job.ENDING, Job.UNKNOWN, Job.UNKNOWN]
    slurm.now += slurm_fleet.RUNAWAY_SECONDS + 1
    assert looks(fleet, 1) == [Job.OVER]


def test_a_cluster_without_accounting_is_not_asked_again(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", code=1, complaint="Slurm accounting storage is disabled")
    assert looks(fleet, 2) == [Job.ENDING, Job.OVER]
    fleet.phase(job("8"))
    slurm.queue()
    looks(fleet, 3)
    assert len(slurm.calls("sacct")) == 1


# ---------------------------------------------------------------- find, cancel


def test_a_job_is_found_by_its_script(slurm: FakeSlurm) -> None:
    ours = [f"7_0|PENDING|None|{slurm.submissions}/abc.sh", f"7_1|RUNNING|None|{slurm.submissions}/abc.sh"]
    others = ["9_1|RUNNING|None|/elsewhere/abc.sh", f"8|RUNNING|None|{slurm.submissions}/def.sh"]
    slurm.say("squeue", *others, *ours)
    fleet = slurm.fleet()
    assert fleet.find("abc", 1) is None
    fleet.refresh()
    assert fleet.find("abc", 1) == job("7_1")
    assert fleet.find("def", 0) == job("8")
    assert fleet.find("ghi", 0) is None


def test_only_what_others_cancelled_while_we_looked_was_cancelled_from_outside(slurm: FakeSlurm) -> None:
    slurm.queue("6 CANCELLED", "7 RUNNING", "8 RUNNING")
    fleet = slurm.fleet()
    fleet.refresh()
    fleet.cancel([job("8")])
    slurm.queue("6 CANCELLED", "7 CANCELLED", "8 CANCELLED")
    fleet.refresh()
    assert [fleet.cancelled(job(name)) for name in ("6", "7", "8")] == [False, True, False]
    assert slurm.calls("scancel") == ["scancel --quiet 8"]


# ---------------------------------------------------------------- submit


def submit(slurm: FakeSlurm, fleet: SlurmFleet, count: int = 1) -> list[JobRef]:
    return fleet.submit(slurm.submissions / "abc.json", "abc", count)


def test_several_are_one_array_and_one_is_none(slurm: FakeSlurm) -> None:
    slurm.say("sbatch", "41;cluster")
    fleet = slurm.fleet()
    assert submit(slurm, fleet, 3) == [job("41_0"), job("41_1"), job("41_2")]
    assert "#SBATCH --array=0-2" in (slurm.submissions / "abc.sh").read_text()
    assert submit(slurm, fleet) == [job("41")]
    assert "--array" not in (slurm.submissions / "abc.sh").read_text()


def test_a_bad_node_is_left_out(slurm: FakeSlurm) -> None:
    slurm.say("sbatch", "41")
    fleet = slurm.fleet()
    fleet.exclude("n3")
    submit(slurm, fleet)
    assert "#SBATCH --exclude=n3" in (slurm.submissions / "abc.sh").read_text()


@pytest.mark.parametrize(
    ("complaint", "error"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", Busy),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", Busy),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", MaybeSubmitted),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", MaybeSubmitted),
        ("sbatch: error: invalid partition specified: gpuu", UserError),
    ],
)
def test_what_a_refusal_means(slurm: FakeSlurm, complaint: str, error: type[Exception]) -> None:
    slurm.say("sbatch", code=1, complaint=complaint)
    with pytest.raises(error, match=complaint.partition("failed: ")[2] or complaint):
        submit(slurm, slurm.fleet())
