"""What the fleet makes of Slurm's words: its commands are faked on PATH, its clock is the test's."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.sweep.fake_slurm import HEADER, FakeSlurm
from trialfleet.errors import UserError
from trialfleet.sweep.fleets import slurm as slurm_fleet
from trialfleet.sweep.fleets.base import Busy, MaybeSubmitted, TooMuchMemory
from trialfleet.sweep.fleets.slurm import LAUNCHER, SlurmFleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.submission import JobRef


def job(name: str) -> JobRef:
    return JobRef(LAUNCHER, name)


Phase = Callable[[str], JobState]

# ---------------------------------------------------------------- follow


def test_one_call_tells_of_all_jobs(slurm: FakeSlurm) -> None:
    slurm.queue(*(f"{number} RUNNING" for number in range(200)))
    fleet = slurm.fleet()
    assert fleet.phase(job("7")) is JobState.UNKNOWN  # nobody asked yet
    assert fleet.refresh()
    assert {fleet.phase(job(str(number))) for number in range(200)} == {JobState.RUNNING}
    assert len(slurm.calls("squeue")) == 1
    assert not slurm.calls("sacct")


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("PENDING", JobState.PENDING),
        ("CONFIGURING", JobState.PENDING),
        ("REQUEUE_HOLD", JobState.PENDING),
        ("RUNNING", JobState.RUNNING),
        ("SUSPENDED", JobState.RUNNING),
        ("COMPLETING", JobState.RUNNING),
        ("A_STATE_OF_TOMORROW", JobState.RUNNING),
        ("COMPLETED", JobState.OVER),
        ("TIMEOUT", JobState.OVER),
        ("OUT_OF_MEMORY", JobState.OVER),
        ("NODE_FAIL", JobState.ENDING),
        ("PREEMPTED", JobState.ENDING),
        ("CANCELLED", JobState.ENDING),
    ],
)
def test_what_a_state_means(slurm: FakeSlurm, state: str, phase: JobState) -> None:
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
    assert phases == [JobState.ENDING, JobState.OVER]


def test_a_call_that_fails_is_no_absence(slurm: FakeSlurm) -> None:
    slurm.queue("7 RUNNING")
    fleet = slurm.fleet()
    fleet.refresh()
    fleet.phase(job("7"))
    slurm.say("squeue", code=1, complaint="slurm_load_jobs error: Unable to contact slurm controller")
    assert [fleet.refresh() for _ in range(3)] == [False] * 3
    assert fleet.phase(job("7")) is JobState.RUNNING


def test_files_on_a_network_file_system_get_time_to_appear(slurm: FakeSlurm) -> None:
    slurm.queue("7 COMPLETED")
    fleet = slurm.fleet(settle=60.0)
    fleet.refresh()
    phases = []
    for _ in range(3):
        phases.append(fleet.phase(job("7")))
        slurm.now += 31.0
        fleet.refresh()
    assert phases == [JobState.ENDING, JobState.ENDING, JobState.OVER]


def test_a_requeue_is_no_end(slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    phases = []
    for state in ("RUNNING", "NODE_FAIL", "PENDING", "RUNNING", "NODE_FAIL"):
        slurm.queue(f"7 {state}")
        fleet.refresh()
        phases.append(fleet.phase(job("7")))
        slurm.now += 6.0
    assert phases == [JobState.RUNNING, JobState.ENDING, JobState.PENDING, JobState.RUNNING, JobState.ENDING]
    slurm.now += 6.0  # for eleven seconds now
    fleet.refresh()
    assert fleet.phase(job("7")) is JobState.OVER


def test_a_job_that_slurm_holds_after_a_failed_start_is_let_go(slurm: FakeSlurm) -> None:
    slurm.queue("7 PENDING launch failed requeued held", "8 PENDING Priority")
    slurm.fleet().refresh()
    assert slurm.calls("scontrol") == ["scontrol release 7"]


# ---------------------------------------------------------------- what else is printed

BANNER = "** Maintenance on Friday | all | queues | will | drain **"


def test_lines_that_are_not_ours_are_shown_once_and_passed_over(slurm: FakeSlurm) -> None:
    slurm.say("squeue", BANNER, "", HEADER, "a|b", slurm.row("7 RUNNING"), BANNER)
    fleet = slurm.fleet()
    assert [fleet.refresh() for _ in range(3)] == [True] * 3
    assert fleet.phase(job("7")) is JobState.RUNNING
    assert [BANNER in notice for notice in slurm.notices] == [True, False]


def test_a_banner_that_is_always_new_is_not_shown_for_ever(slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    for second in range(2 * slurm_fleet.STRANGE_LINES):
        slurm.say("squeue", f"it is 10:00:{second}", HEADER)
        assert fleet.refresh()
    assert len(slurm.notices) == slurm_fleet.STRANGE_LINES


def test_bytes_that_are_no_text_are_no_reason_to_fall(slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    slurm.print("squeue", b"\xff\xfe\x1b[2J\x00\x85|\n" + f"{HEADER}\n{slurm.row('7 RUNNING')}\n".encode())
    assert fleet.refresh()
    assert fleet.phase(job("7")) is JobState.RUNNING
    assert slurm.notices[0].isprintable()
    slurm.print("squeue", b"\xff" * 100)
    assert not fleet.refresh()
    assert fleet.phase(job("7")) is JobState.RUNNING


def test_what_stands_before_the_mark_is_somebody_elses(slurm: FakeSlurm) -> None:
    slurm.say("squeue", HEADER, f"Welcome! {slurm.row('7 RUNNING')}")
    fleet = slurm.fleet()
    assert fleet.refresh()
    assert fleet.phase(job("7")) is JobState.RUNNING


@pytest.mark.parametrize(
    "cut",
    [
        "{header}\n{eight}\ntrialfleet|7|RUNN",  # in the middle of a line
        "{header}\n{eight}\ntrialfleet|7|RUNNING|n1|None|/home/som\n",  # a line end put behind it
        "{header}\n{eight}",  # between two lines
        "{eight}\n",  # at the top
        "",  # all of it
    ],
)
def test_absence_from_a_cut_answer_is_no_absence(slurm: FakeSlurm, cut: str) -> None:
    slurm.queue("7 RUNNING", "8 PENDING")
    fleet = slurm.fleet()
    fleet.refresh()
    assert (fleet.phase(job("7")), fleet.phase(job("8"))) == (JobState.RUNNING, JobState.PENDING)
    eight = slurm.row("8 COMPLETED")
    slurm.print("squeue", cut.format(header=HEADER, eight=eight).encode())
    assert [fleet.refresh() for _ in range(3)] == [False] * 3
    assert fleet.phase(job("7")) is JobState.RUNNING
    assert fleet.lives(job("7"))
    assert fleet.phase(job("8")) is (JobState.OVER if eight in cut.format(header="", eight=eight) else JobState.PENDING)
    assert fleet.find("abc", 0) is not None
    assert not slurm.calls("sacct")


def test_a_command_that_cannot_be_started_has_not_answered(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(slurm.submissions))
    fleet = slurm.fleet()
    assert not fleet.refresh()
    assert not fleet.has_other_nodes(["n1"])
    fleet.cancel([job("7")])
    with pytest.raises(MaybeSubmitted):
        submit(slurm, fleet)


# ---------------------------------------------------------------- where, and how it ended


@pytest.mark.parametrize(
    ("listed", "node"),
    [("n1", "n1"), ("n[03-05,9]", "n03"), ("a1,b[2-3]", "a1"), ("r[1-2]n[3,5],m1", "r1n3"), ("(null)", "")],
)
def test_a_jobs_node_is_the_first_of_its_list(slurm: FakeSlurm, listed: str, node: str) -> None:
    slurm.queue(f"7 RUNNING@{listed}")
    fleet = slurm.fleet()
    fleet.refresh()
    assert fleet.node(job("7")) == node
    assert fleet.node(job("8")) == ""


def test_a_jobs_node_and_end_are_known_when_slurm_has_forgotten_it(slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    for rows in (["7 RUNNING@n1", "8 RUNNING@n2"], ["7 OUT_OF_MEMORY@n1", "8 TIMEOUT@n2"], []):
        slurm.queue(*rows)
        assert fleet.refresh()
    assert (fleet.node(job("7")), fleet.out_of_memory(job("7")), fleet.timed_out(job("7"))) == ("n1", True, False)
    assert (fleet.node(job("8")), fleet.out_of_memory(job("8")), fleet.timed_out(job("8"))) == ("n2", False, True)


def test_a_job_that_was_started_again_has_not_ended(slurm: FakeSlurm) -> None:
    fleet = slurm.fleet()
    for state in ("OUT_OF_MEMORY", "RUNNING"):
        slurm.queue(f"7 {state}")
        fleet.refresh()
    assert not fleet.out_of_memory(job("7"))


@pytest.mark.parametrize(
    ("state", "lives"),
    [("PENDING", True), ("RUNNING", True), ("COMPLETING", False), ("COMPLETED", False), ("CANCELLED", False)],
)
def test_what_lives(slurm: FakeSlurm, state: str, lives: bool) -> None:
    slurm.queue(f"7 {state}")
    fleet = slurm.fleet()
    fleet.refresh()
    assert fleet.lives(job("7")) is lives
    assert not fleet.lives(job("8"))


def test_what_lived_lives_until_two_answers_do_not_show_it_and_is_not_followed(slurm: FakeSlurm) -> None:
    slurm.queue("7 RUNNING")
    fleet = slurm.fleet()
    lives = [fleet.lives(job("7"))]
    for _ in range(3):
        fleet.refresh()
        lives.append(fleet.lives(job("7")))
        slurm.queue()
    assert lives == [True, True, True, False]
    assert not slurm.calls("sacct")  # which is asked about what is followed


# ---------------------------------------------------------------- accounting


def forgotten(slurm: FakeSlurm) -> SlurmFleet:
    """A fleet that followed job 7, which squeue no longer knows."""
    slurm.queue("7 RUNNING", "8 RUNNING")
    fleet = slurm.fleet()
    fleet.refresh()
    assert fleet.phase(job("7")) is fleet.phase(job("8")) is JobState.RUNNING
    slurm.queue("8 RUNNING")
    return fleet


def looks(fleet: SlurmFleet, count: int) -> list[JobState]:
    phases = []
    for _ in range(count):
        fleet.refresh()
        phases.append(fleet.phase(job("7")))
    return phases


def test_accounting_is_asked_once_about_what_squeue_forgot(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", "7|CANCELLED by 0")
    assert looks(fleet, 4) == [JobState.ENDING, JobState.OVER, JobState.OVER, JobState.OVER]
    assert [call.split(" ")[1:3] for call in slurm.calls("sacct")] == [["-j", "7"]]


def test_a_job_that_lives_in_accounting_is_waited_for_but_not_for_ever(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", "7|RUNNING")
    assert looks(fleet, 3) == [JobState.ENDING, JobState.UNKNOWN, JobState.UNKNOWN]
    slurm.now += slurm_fleet.RUNAWAY_SECONDS + 1
    assert looks(fleet, 1) == [JobState.OVER]


def test_accounting_that_does_not_answer_is_asked_again_after_a_while(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", code=1, complaint="Slurm accounting storage is disabled")
    assert looks(fleet, 2) == [JobState.ENDING, JobState.OVER]
    fleet.phase(job("8"))
    slurm.queue()
    looks(fleet, 3)
    assert len(slurm.calls("sacct")) == 1
    slurm.now += slurm_fleet.ACCOUNTING_PAUSE + 1
    slurm.say("sacct", "8|TIMEOUT")
    looks(fleet, 1)
    assert len(slurm.calls("sacct")) == 2
    assert fleet.timed_out(job("8"))


def test_accounting_is_read_by_pattern_and_tells_of_an_end_that_squeue_never_showed(slurm: FakeSlurm) -> None:
    fleet = forgotten(slurm)
    slurm.say("sacct", BANNER, "no bar", "|", "7|OUT_OF_MEMORY", "7.batch|FAILED", "")
    assert looks(fleet, 2) == [JobState.ENDING, JobState.OVER]
    assert fleet.out_of_memory(job("7"))
    assert any(BANNER in notice for notice in slurm.notices)


# ---------------------------------------------------------------- find, cancel


def test_a_job_is_found_by_its_script(slurm: FakeSlurm) -> None:
    ours = [slurm.row("7_0 PENDING"), slurm.row("7_1 RUNNING")]
    others = [slurm.row("9_1 RUNNING", "/elsewhere/abc.sh"), slurm.row("8 RUNNING", f"{slurm.submissions}/def.sh")]
    slurm.say("squeue", HEADER, *others, *ours)
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


def test_jobs_in_line_are_kept_off_a_node_that_is_excluded_later(slurm: FakeSlurm) -> None:
    slurm.say("sbatch", "41")
    fleet = slurm.fleet(exclude="n9")
    submit(slurm, fleet, 3)
    slurm.queue("41_0 RUNNING", "41_1 PENDING", "41_2 PENDING", "6 CONFIGURING", "5 PENDING")
    fleet.refresh()
    fleet.exclude("n3")
    assert slurm.calls("scontrol") == ["scontrol update JobId=41_1,41_2,5 ExcNodeList=n9,n3"]
    slurm.queue("41_0 PENDING BeginTime", "41_1 PENDING", "41_2 RUNNING", "6 RUNNING", "5 PENDING")  # 41_0 was requeued
    for _ in range(2):
        fleet.refresh()
    assert slurm.calls("scontrol")[1:] == ["scontrol update JobId=41_0 ExcNodeList=n9,n3"]


def test_a_job_submitted_with_the_exclusion_needs_no_update(slurm: FakeSlurm) -> None:
    slurm.say("sbatch", "41")
    fleet = slurm.fleet()
    fleet.exclude("n3")
    submit(slurm, fleet)
    slurm.queue("41 PENDING")
    fleet.refresh()
    assert not slurm.calls("scontrol")


def test_whoever_may_not_keep_jobs_off_a_node_is_told(slurm: FakeSlurm) -> None:
    slurm.queue("7 PENDING")
    slurm.say("scontrol", code=1, complaint="6: JobState is no longer pending execution\n7: Access/permission denied\n")
    fleet = slurm.fleet()
    fleet.refresh()
    fleet.exclude("n3")
    fleet.refresh()
    assert len(slurm.notices) == len(slurm.calls("scontrol")) == 1
    assert "n3" in slurm.notices[0]
    assert "Access/permission denied" in slurm.notices[0]


# ---------------------------------------------------------------- other nodes


@pytest.mark.parametrize(
    ("parameters", "others"),
    [({}, True), ({"partition": "main"}, True), ({"exclude": "n[2-3]"}, False), ({"constraint": "a100"}, False)],
)
def test_whether_jobs_could_go_elsewhere(slurm: FakeSlurm, parameters: dict[str, Any], others: bool) -> None:
    slurm.nodes("n1 idle main*", "n2 mixed main*")
    fleet = slurm.fleet(**parameters)
    assert fleet.has_other_nodes(["n1"]) is others
    assert slurm.calls("sinfo")[0].count("-p main") == ("partition" in parameters)


@pytest.mark.parametrize("state", ["down", "down*", "drained", "draining", "idle*", "fail", "unknown", "maint"])
def test_a_node_out_of_service_is_none(slurm: FakeSlurm, state: str) -> None:
    slurm.nodes("n1 idle main*", f"n2 {state} main*", "n3 idle low")
    assert not slurm.fleet().has_other_nodes(["n1"])


@pytest.mark.parametrize(("constraint", "fits"), [("a100&nvlink", True), ("h100|a100", True), ("a100&h100", False)])
def test_a_node_without_the_features_is_none(slurm: FakeSlurm, constraint: str, fits: bool) -> None:
    slurm.nodes("n2 idle main*", features="a100,nvlink")
    assert slurm.fleet(constraint=constraint).has_other_nodes(["n1"]) is fits


def test_excluded_nodes_are_none_and_sinfo_is_asked_once_a_minute(slurm: FakeSlurm) -> None:
    slurm.nodes("n1 idle main*", "n2 idle main*", "n3 idle main*")
    fleet = slurm.fleet()
    assert fleet.has_other_nodes(["n1", "n2"])
    fleet.exclude("n3")
    assert not fleet.has_other_nodes(["n1", "n2"])
    assert len(slurm.calls("sinfo")) == 1
    slurm.now += 61.0
    slurm.print("sinfo", b"\xff banner\ntrialfleet|n4|idle|main*|(null)|\ntrialfleet|n5|id")
    assert fleet.has_other_nodes(["n1", "n2"])
    assert not fleet.has_other_nodes(["n4"])


# ---------------------------------------------------------------- what sbatch says


@pytest.mark.parametrize(
    "lines", [["41"], ["41;cluster"], [BANNER, "41", "Have a nice day"], ["Submitted batch job 41"]]
)
def test_the_job_id_is_found_on_any_line(slurm: FakeSlurm, lines: list[str]) -> None:
    slurm.say("sbatch", *lines)
    assert submit(slurm, slurm.fleet()) == [job("41")]


@pytest.mark.parametrize(("lines", "code"), [([], 0), ([BANNER], 0), (["41"], 1)])
def test_words_that_do_not_fit_leave_it_open_whether_there_is_a_job(
    slurm: FakeSlurm, lines: list[str], code: int
) -> None:
    slurm.say("sbatch", *lines, code=code)
    with pytest.raises(MaybeSubmitted):
        submit(slurm, slurm.fleet())


def test_a_number_that_may_be_cut_is_no_job_id(slurm: FakeSlurm) -> None:
    slurm.print("sbatch", f"{BANNER}\n4".encode())
    with pytest.raises(MaybeSubmitted):
        submit(slurm, slurm.fleet())


FAILED = "sbatch: error: Batch job submission failed: "
REFUSALS = [
    ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "limit"),
    (f"{FAILED}JobState violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "limit"),
    (f"{FAILED}Resource temporarily unavailable", "limit"),
    (f"{FAILED}Socket timed out on send/recv operation", "maybe"),
    (f"{FAILED}Unable to contact slurm controller (connect failure)", "maybe"),
    ("sbatch: error: invalid partition specified: gpuu", "wrong"),
    ("sbatch: unrecognized option '--foo'", "wrong"),
    (f"{FAILED}Invalid account or account/partition combination specified", "wrong"),
    (f"{FAILED}Invalid qos specification", "wrong"),
    (f"{FAILED}Requested node configuration is not available", "wrong"),
    (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", "wrong"),
    (f"{FAILED}Access/permission denied", "wrong"),
    ("sbatch: error: Memory specification can not be satisfied", "wrong"),
    (f"{FAILED}Invalid job credential", "passes"),
    (f"{FAILED}Requested partition configuration not available now", "passes"),
    (f"{FAILED}Unspecified error", "passes"),
    (f"{FAILED}I/O error writing script/environment to file", "passes"),
    ("", "passes"),
]


def refused(slurm: FakeSlurm, fleet: SlurmFleet, complaint: str, memory: float = 1.0) -> Exception:
    slurm.say("sbatch", code=1, complaint=complaint)
    with pytest.raises((Busy, MaybeSubmitted, TooMuchMemory, UserError)) as caught:
        fleet.submit(slurm.submissions / "abc.json", "abc", 1, memory)
    assert complaint in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("complaint", "means"), REFUSALS)
def test_what_a_refusal_means(slurm: FakeSlurm, complaint: str, means: str) -> None:
    error = refused(slurm, slurm.fleet(), complaint)
    assert type(error) is {"maybe": MaybeSubmitted, "wrong": UserError}.get(means, Busy)
    assert not isinstance(error, Busy) or error.limit is (means == "limit")


@pytest.mark.parametrize("complaint", [complaint for complaint, means in REFUSALS if means == "wrong"])
def test_what_was_accepted_once_is_not_wrong(slurm: FakeSlurm, complaint: str) -> None:
    slurm.say("sbatch", "41")
    fleet = slurm.fleet()
    submit(slurm, fleet)
    error = refused(slurm, fleet, complaint)
    assert isinstance(error, Busy)
    assert not error.limit


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("parameters", "line", "gigabytes"),
    [
        ({"mem": "3GB"}, "--mem=4608M", 4.5),
        ({"mem": "64GB"}, "--mem=96G", 96.0),
        ({"mem_per_cpu": "3G", "cpus_per_task": 4, "ntasks_per_node": 2}, "--mem-per-cpu=4608M", 36.0),
        ({"mem_per_cpu": 1001}, "--mem-per-cpu=1502M", 1502 / 1024),  # Slurm's unit is a megabyte
        ({"mem_per_gpu": "8GB", "gpus_per_node": 4}, "--mem-per-gpu=12G", 48.0),
        ({"mem_per_gpu": "8G", "gpus_per_task": 2, "ntasks_per_node": 2}, "--mem-per-gpu=12G", 48.0),
        ({"mem_per_gpu": "8G", "gres": "gpu:a100:2,shard:4"}, "--mem-per-gpu=12G", 24.0),
        ({"mem_per_cpu": "1G", "cpus_per_gpu": 8, "gpus_per_task": 2}, "--mem-per-cpu=1536M", 24.0),
        ({"mem": "1GB", "additional_parameters": {"mem": "2G"}}, "--mem=3G", 3.0),
        ({"additional_parameters": {"mem-per-cpu": "2G"}, "cpus_per_task": 2}, "--mem-per-cpu=3G", 6.0),
    ],
)
def test_memory_grows_by_whichever_key_asks_for_it(
    slurm: FakeSlurm, parameters: dict[str, Any], line: str, gigabytes: float
) -> None:
    slurm.say("sbatch", "41")
    fleet = slurm.fleet(**parameters)
    fleet.submit(slurm.submissions / "abc.json", "abc", 1, 1.5)
    script = (slurm.submissions / "abc.sh").read_text()
    assert [word for word in script.split() if word.startswith("--mem")] == [line]
    assert fleet.memory_gb(1.5) == gigabytes
    assert fleet.memory_gb() == pytest.approx(gigabytes / 1.5, rel=1e-3)


@pytest.mark.parametrize("parameters", [{}, {"mem": "0GB"}, {"mem_per_cpu": "lots"}])
def test_where_no_memory_is_asked_for_nothing_grows(slurm: FakeSlurm, parameters: dict[str, Any]) -> None:
    scripts = []
    slurm.say("sbatch", "41")
    for factor in (1.0, 1.5):
        fleet = slurm.fleet(**parameters)
        fleet.submit(slurm.submissions / "abc.json", "abc", 1, factor)
        scripts.append((slurm.submissions / "abc.sh").read_text())
        assert fleet.memory_gb(factor) is None
    assert scripts[0] == scripts[1]


def test_more_memory_than_there_is_names_its_own_key(slurm: FakeSlurm) -> None:
    slurm.say("sbatch", "41")
    fleet = slurm.fleet(mem="64GB")
    submit(slurm, fleet)
    error = refused(slurm, fleet, f"{FAILED}Requested node configuration is not available", memory=2.25)
    assert isinstance(error, TooMuchMemory)
    assert "144 GB" in str(error)
    assert "hydra.sweeper.max_memory_gb" in str(error)


def test_a_launcher_that_was_never_right_is_not_a_matter_of_memory(slurm: FakeSlurm) -> None:
    """The first that a driver submits may be a retry with more memory."""
    error = refused(slurm, slurm.fleet(mem="64GB"), f"{FAILED}invalid partition specified: nope", memory=1.5)
    assert isinstance(error, UserError)
    assert "correct hydra.launcher" in error.fix


def test_a_job_that_an_earlier_driver_kept_off_every_node_is_let_in(slurm: FakeSlurm) -> None:
    slurm.queue("7 PENDING ReqNodeNotAvail,_UnavailableNodes:n1", "8 PENDING Priority")
    fleet = slurm.fleet()
    assert fleet.refresh()
    assert fleet.refresh()
    assert slurm.calls("scontrol") == ["scontrol update JobId=7 ExcNodeList="]
