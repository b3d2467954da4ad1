"""One driver at a time, on one machine or many, whatever dies, sleeps or wakes."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.processes import wait_until
from trialfleet.errors import UserError
from trialfleet.sweep.study.lease import Lease, LeaseLost, present
from trialfleet.trial import records
from trialfleet.trial.process import Process

STALE, BEAT = 0.4, 0.05


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "driver.lock"


@pytest.fixture
def lease(directory: Path) -> Iterator[Callable[..., Lease]]:
    """Makes leases that are given back at the end of the test."""
    made: list[Lease] = []

    def make(stale_after: float = STALE, beat_every: float = BEAT, **more: Any) -> Lease:
        made.append(Lease(directory, stale_after, beat_every, **more))
        return made[-1]

    yield make
    for one in made:
        one.release()


def held_elsewhere(directory: Path, job: str | None = None, epoch: int = 4) -> dict[str, Any]:
    """The record of a driver on another machine, which this one cannot look at."""
    process = {**Process.own().to_json(), "host": "elsewhere", "pid": 77}
    record = {"driver": "theirs", "process": process, "job": job, "nonce": "first"}
    records.write(directory / f"{epoch:08d}.json", record)
    return record


HOLDS = f"""
import sys, time
from pathlib import Path
from trialfleet.sweep.study.lease import Lease, LeaseLost

lease = Lease(Path(sys.argv[1]), 60.0, {BEAT})
lease.acquire()
print("held", flush=True)
for line in sys.stdin:
    try:
        lease.check()
        print("mine", flush=True)
    except LeaseLost:
        print("lost", flush=True)
"""


@pytest.fixture
def other_driver(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another driver, alive on this machine, that holds the lease."""
    command = [sys.executable, "-c", HOLDS, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        yield driver
        driver.kill()


def says(driver: "subprocess.Popen[str]") -> str:
    """What the other driver finds when it looks at its lease."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    driver.stdin.write("check\n")
    driver.stdin.flush()
    return driver.stdout.readline().strip()


def test_a_lease_is_held_from_acquire_to_release(lease: Callable[..., Lease]) -> None:
    first = lease()
    first.acquire()
    first.check()
    assert first.epoch == 1
    first.release()
    second = lease(stale_after=3600.0)
    second.acquire()  # at once
    assert second.epoch == 2


def test_a_second_driver_is_refused_and_told_who_holds_it(
    lease: Callable[..., Lease], other_driver: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(UserError, match=f"process {other_driver.pid} on ") as refusal:
        lease(stale_after=60.0).acquire()
    assert refusal.value.fix
    assert says(other_driver) == "mine"


def test_a_driver_killed_on_this_machine_is_replaced_at_once(
    lease: Callable[..., Lease], other_driver: "subprocess.Popen[str]"
) -> None:
    other_driver.kill()
    other_driver.wait()
    mine = lease(stale_after=3600.0)
    mine.acquire()
    assert mine.epoch == 2


def test_a_pid_that_was_given_out_again_holds_nothing(lease: Callable[..., Lease], directory: Path) -> None:
    record = held_elsewhere(directory)
    process = {**Process.own().to_json(), "start_time": 1}
    records.write(directory / "00000004.json", {**record, "process": process})
    lease(stale_after=3600.0).acquire()


def test_a_driver_of_an_earlier_boot_is_gone(lease: Callable[..., Lease], directory: Path) -> None:
    record = held_elsewhere(directory)
    process = {**Process.own().to_json(), "boot_id": "an earlier boot"}
    records.write(directory / "00000004.json", {**record, "process": process})
    lease(stale_after=3600.0).acquire()


def test_a_driver_whose_slurm_job_ended_is_replaced_at_once(lease: Callable[..., Lease], directory: Path) -> None:
    held_elsewhere(directory, job="12")
    asked: list[str] = []

    def ended(job: str) -> bool:
        asked.append(job)
        return True

    mine = lease(stale_after=3600.0, job_ended=ended)
    mine.acquire()
    assert asked == ["12"]
    assert mine.epoch == 5


@pytest.mark.parametrize("answer", [False, None])
@pytest.mark.parametrize("job", ["12", None])
def test_a_silent_driver_elsewhere_is_replaced_when_its_nonce_stood_still(
    lease: Callable[..., Lease], directory: Path, job: str | None, answer: bool | None
) -> None:
    """Slurm may not know, or take the job for running: its nonce tells, by this machine's clock alone."""
    held_elsewhere(directory, job)
    told: list[str] = []
    mine = lease(job_ended=lambda job: answer)
    before = time.monotonic()
    mine.acquire(told.append)
    assert time.monotonic() - before >= STALE
    assert mine.epoch == 5
    assert len(told) == 1
    assert "process 77 on elsewhere" in told[0]


def test_a_driver_elsewhere_that_shows_life_is_left_alone(lease: Callable[..., Lease], directory: Path) -> None:
    record = held_elsewhere(directory, job="12")

    def beats(message: str) -> None:
        records.write(directory / "00000004.json", {**record, "nonce": "second"})

    with pytest.raises(UserError, match="process 77 on elsewhere, Slurm job 12"):
        lease(stale_after=3600.0).acquire(beats)
    assert [path.name for path in directory.iterdir()] == ["00000004.json"]


def test_clocks_are_never_compared(lease: Callable[..., Lease], directory: Path) -> None:
    """A record from the far past or future is as good as any: only whether it changes counts."""
    held_elsewhere(directory)
    for seconds in (0, 2**33):
        os.utime(directory / "00000004.json", (seconds, seconds))
        record = records.read(directory / "00000004.json")
        assert not any(isinstance(value, float) for value in record.values())
    lease().acquire()


def test_a_driver_that_lets_go_while_we_wait_is_followed_at_once(lease: Callable[..., Lease], directory: Path) -> None:
    held_elsewhere(directory)
    mine = lease(stale_after=3600.0)
    mine.acquire(lambda message: records.write(directory / "00000004.json", {"released": True}))
    assert mine.epoch == 5


def test_of_drivers_that_race_for_a_stale_lease_one_wins(directory: Path) -> None:
    held_elsewhere(directory)
    racers = [Lease(directory, STALE, BEAT) for _ in range(4)]
    start = threading.Barrier(4)
    refused: list[UserError] = []

    def race(racer: Lease) -> None:
        start.wait()
        try:
            racer.acquire()
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=race, args=(racer,)) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    winner = next(racer for racer in racers if racer._epoch is not None)
    winner.check()
    for racer in racers:
        racer.release()


def test_a_driver_woken_from_suspension_has_lost_the_lease(
    lease: Callable[..., Lease], other_driver: "subprocess.Popen[str]", directory: Path
) -> None:
    """It lives, but its nonce stood still: another took over. When it wakes, it can tell and writes nothing."""
    assert says(other_driver) == "mine"
    other_driver.send_signal(signal.SIGSTOP)
    mine = lease()
    mine.acquire()
    other_driver.send_signal(signal.SIGCONT)
    assert says(other_driver) == "lost"
    time.sleep(4 * BEAT)
    mine.check()  # what the other's heartbeat did meanwhile changes nothing
    assert mine.epoch == 2


def test_a_woken_driver_does_not_take_a_fresh_study_for_its_own(lease: Callable[..., Lease], directory: Path) -> None:
    """The folder was put aside and made anew while it slept: the epochs count from one again."""
    old = lease()
    old.acquire()
    old.check()
    shutil.move(directory, directory.with_name("before"))
    new = lease()
    new.acquire()
    assert new.epoch == old.epoch
    with pytest.raises(LeaseLost):
        old.check()
    time.sleep(4 * BEAT)
    new.check()
    old.release()
    new.check()


def test_a_lost_lease_is_lost_whatever_became_of_the_folder(lease: Callable[..., Lease], directory: Path) -> None:
    mine = lease()
    mine.acquire()
    mine.check()
    shutil.move(directory, directory.with_name("gone"))
    with pytest.raises(LeaseLost):
        mine.check()


@pytest.mark.parametrize("cleared_away", [False, True])
@pytest.mark.parametrize("epoch", [2, 3])
def test_a_successor_is_seen_at_once_by_a_driver_that_checks_often(
    lease: Callable[..., Lease], directory: Path, epoch: int, cleared_away: bool
) -> None:
    """Or its successor, and whether they got to clear our file away or not."""
    mine = lease(beat_every=60.0)
    mine.acquire()
    mine.check()
    mine.check()
    held_elsewhere(directory, epoch=epoch)
    if cleared_away:
        (directory / "00000001.json").unlink()
    elif epoch == 3:
        held_elsewhere(directory, epoch=2)  # whose driver died before it cleared anything away
    with pytest.raises(LeaseLost):
        mine.check()


def test_giving_back_a_lost_lease_leaves_the_new_holder_alone(lease: Callable[..., Lease], directory: Path) -> None:
    old = lease()
    old.acquire()
    held_elsewhere(directory, epoch=2)
    old.release()
    assert records.read(directory / "00000002.json")["nonce"] == "first"


def test_old_epochs_are_cleared_away(lease: Callable[..., Lease], directory: Path) -> None:
    for _ in range(3):
        mine = lease()
        mine.acquire()
        mine.release()
    assert [path.name for path in directory.iterdir()] == ["00000003.json"]


def test_a_holder_gives_signs_of_life(lease: Callable[..., Lease], directory: Path) -> None:
    lease().acquire()
    nonces = set()
    while len(nonces) < 3:
        nonces.add(records.read(directory / "00000001.json")["nonce"])


def test_foreign_names_in_the_folder_are_ignored(lease: Callable[..., Lease], directory: Path) -> None:
    """An editor's copies, a note, a file of an NFS server's."""
    directory.mkdir()
    for name in ("notes.json", "00000001.json~", "00000009 (copy).json", ".nfs00000007.json", "1.json", "x"):
        (directory / name).write_text("{")
    (directory / "folder.json").mkdir()
    mine = lease(stale_after=3600.0)
    mine.acquire()
    mine.check()
    assert mine.epoch == 1
    (directory / "zzz.json").write_text("{")
    mine.check()
    mine.release()
    lease(stale_after=3600.0).acquire()
    assert (directory / "00000009 (copy).json").exists()


def test_a_second_driver_is_told_who_the_first_is_and_since_when(lease: Callable[..., Lease], directory: Path) -> None:
    lease(stale_after=3600.0).acquire()
    said = rf"process {os.getpid()} on {re.escape(os.uname().nodename)}, since 2[0-9-]+ [0-9:]+ \S+$"
    with pytest.raises(UserError) as refusal:
        lease(stale_after=3600.0).acquire()
    assert re.search(said, refusal.value.message)
    held_elsewhere(directory)  # as an earlier version has it
    there = present(directory)
    assert there is not None
    assert there.who == "process 77 on elsewhere"


DAMAGED = ["", "\0\0\0\0", '{"driver": "th', "[]", "{}", '{"process": {}}', '{"driver": 1, "process": {"pid": "x"}}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_a_holder_who_cannot_be_named(
    lease: Callable[..., Lease], directory: Path, content: str
) -> None:
    """It may live, so it is waited for; as long as the file stays as it is nobody writes it."""
    directory.mkdir()
    (directory / "00000004.json").write_text(content)
    told: list[str] = []
    before = time.monotonic()
    mine = lease()
    mine.acquire(told.append)
    assert time.monotonic() - before >= STALE
    assert mine.epoch == 5
    assert len(told) == 1
    assert f"lease file {directory / '00000004.json'} is damaged" in told[0]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_that_is_written_anew_is_a_driver_that_lives(
    lease: Callable[..., Lease], directory: Path, content: str
) -> None:
    directory.mkdir()
    (directory / "00000004.json").write_text(content)
    with pytest.raises(UserError, match="this study has a driver already: process 77 on elsewhere"):
        lease(stale_after=3600.0).acquire(lambda message: held_elsewhere(directory) and None)
    (directory / "00000004.json").write_text(content)
    with pytest.raises(UserError, match=r"has a driver already: .*00000004\.json is damaged"):
        lease(stale_after=3600.0).acquire(lambda message: (directory / "00000004.json").write_text("{") and None)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_driver_whose_own_file_is_damaged_goes_on_and_writes_it_anew(
    lease: Callable[..., Lease], directory: Path, content: str
) -> None:
    mine = lease()
    mine.acquire()
    mine.check()
    (directory / "00000001.json").write_text(content)
    mine.check()
    assert mine.held()
    mended = wait_until(lambda: mine.token[2:] in (directory / "00000001.json").read_text(), 60.0)
    assert mended
    mine.check()
    with pytest.raises(UserError, match=f"process {os.getpid()} on "):
        lease(stale_after=60.0).acquire()


def test_a_damaged_file_of_a_fresh_study_is_not_ours(lease: Callable[..., Lease], directory: Path) -> None:
    old = lease(beat_every=60.0)
    old.acquire()
    shutil.move(directory, directory.with_name("before"))
    directory.mkdir()
    (directory / "00000001.json").write_text("{")
    with pytest.raises(LeaseLost):
        old.check()
    assert not old.held()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("call", ["stat", "listdir", "open"])
def test_a_hiccup_of_the_file_system_is_no_lost_lease(
    lease: Callable[..., Lease], directory: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised as it is, whichever look at the folder meets it; afterwards the lease is held as before."""
    mine = lease(beat_every=60.0)
    mine.acquire()
    real = getattr(os, call)

    def fails(path: Any, *arguments: Any, **named: Any) -> Any:
        if str(path).startswith(str(directory)):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            mine.check()
    assert raised.value.errno == number
    mine.check()


def test_a_successor_that_cannot_be_looked_for_is_not_taken_for_absent(
    lease: Callable[..., Lease], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = lease(beat_every=60.0)
    mine.acquire()
    mine.check()
    real = os.stat

    def fails(path: Any, *arguments: Any, **named: Any) -> Any:
        if str(path).endswith("00000002.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", fails)
    with pytest.raises(OSError, match="Input/output"):
        mine.check()


def test_a_lease_that_cannot_be_given_back_raises_nothing(
    lease: Callable[..., Lease], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a session on a full disk: the next driver sees that this process is gone."""
    mine = lease(beat_every=60.0)
    mine.acquire()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records, "write", full)
    mine.release()
    assert not mine.held()


def test_a_token_is_one_drivers(lease: Callable[..., Lease], directory: Path) -> None:
    """Also among drivers of the same epoch, of a study and its fresh one."""
    old, new = lease(), lease()
    old.acquire()
    shutil.move(directory, directory.with_name("before"))
    new.acquire()
    assert (old.epoch, new.epoch) == (1, 1)
    assert old.token.startswith("1:")
    assert old.token != new.token


@pytest.mark.parametrize(("array", "job"), [(None, "12"), ("10", None)])
def test_a_driver_that_is_a_job_of_slurm_says_so(
    lease: Callable[..., Lease], directory: Path, monkeypatch: pytest.MonkeyPatch, array: str | None, job: str | None
) -> None:
    """An element of an array is asked for by another name than SLURM_JOB_ID: left out."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    if array is not None:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    lease().acquire()
    assert records.read(directory / "00000001.json")["job"] == job
