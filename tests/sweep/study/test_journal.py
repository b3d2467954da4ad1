"""The journal in the study's folder: whole after any death, and closed to a driver that was overtaken."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

from tests.sweep import suspended
from trialfleet.errors import UserError
from trialfleet.sweep.study import journal as journals
from trialfleet.sweep.study.journal import JournalLock, open_journal, whole_length
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.sweep.study.storage import StudyStorage


def held() -> None:
    """The lease check of a driver that holds it."""


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "LEFT_BEHIND", 0.2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "study" / "optuna_journal.log"


def opened(path: Path, check: Callable[[], None] = held) -> StudyStorage:
    return StudyStorage(open_journal(path, check), suspended.STUDY, ["minimize"], check)


def plain(path: Path) -> optuna.Study:
    return optuna.load_study(study_name=suspended.STUDY, storage=JournalStorage(JournalFileBackend(str(path))))


# -------------------------------------------------------------------- a driver that was overtaken


def test_a_driver_suspended_between_check_and_append_writes_nothing_when_it_wakes(path: Path) -> None:
    """It has looked at its lease, inside the lock, and is stopped before it writes."""
    with suspended.driver(path, "append") as stale:
        assert stale.says() == "opened"
        stale.report(1)
        stale.wait_until_suspended()
        store = opened(path)  # once the lock counts as left behind
        ours = store.create("uid")
        before = path.read_bytes()
        stale.wake()
        assert stale.says() == "lost"
        assert path.read_bytes() == before
        store.report(ours, 1, 0.25)
        assert [trial.intermediate_values for trial in plain(path).trials] == [{}, {1: 0.25}]
        stale.report(2)
        assert stale.says() == "lost"


@pytest.mark.parametrize("where", ["copy", "replace"])
def test_a_driver_suspended_while_it_opens_the_journal_does_not_put_its_copy_in_place(path: Path, where: str) -> None:
    """Its copy knows nothing of what the new driver wrote since."""
    opened(path).create("uid")
    with suspended.driver(path, where) as stale:
        stale.wait_until_suspended()
        store = opened(path)
        store.create("uid")
        (path.parent / "taken").touch()
        before = path.read_bytes()
        stale.wake()
        assert stale.says() == "lost"
        assert path.read_bytes() == before
        store.create("uid")
        assert len(plain(path).trials) == 3
        assert sorted(file.name for file in path.parent.iterdir()) == [path.name, "taken"]


def test_a_stale_driver_neither_adds_nor_cuts(path: Path) -> None:
    """Whatever it does; also if nobody has told it."""
    old = opened(path)
    trial = old.create("uid")
    new = opened(path)
    new.create("uid")
    with open(path, "ab") as file:
        file.write(b'{"op_code"')  # the new driver is at it
    before = path.read_bytes()
    for write in (lambda: old.create("uid"), lambda: old.report(trial, 1, 0.5), old.mend):
        with pytest.raises(LeaseLost, match=r"optuna_journal\.log is not the file any more"):
            write()
    assert path.read_bytes() == before


def test_a_deleted_journal_is_not_written(path: Path) -> None:
    store = opened(path)
    path.unlink()
    with pytest.raises(LeaseLost):
        store.create("uid")
    assert not path.exists()


def test_opening_is_tried_again_if_a_stale_driver_took_the_copy_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(path).create("uid")
    replace, taken = os.replace, []

    def without(source: Any, target: Any) -> None:
        if not taken:
            taken.append(source)
            Path(source).unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", without)
    assert len(opened(path).trials()) == 1
    assert taken


# -------------------------------------------------------------------- the lock


def test_a_lock_left_behind_is_taken_over(path: Path) -> None:
    """By a killed driver of ours, or by plain Optuna, whose lock is a symbolic link."""
    store = opened(path)
    JournalFileOpenLock(str(path)).acquire()
    store.create("uid")
    JournalFileSymlinkLock(str(path)).acquire()
    store.create("uid")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_lock_that_changes_hands_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir(parents=True)
    lock = path.with_name(f"{path.name}.lock")
    left: list[float] = []

    def hands_over(seconds: float) -> None:
        """As if others took and gave back the lock each time we look."""
        real_sleep(min(seconds, 0.05))
        if len(left) < 8:
            lock.unlink()
            lock.touch()
            left.append(seconds)

    real_sleep = time.sleep
    lock.touch()
    monkeypatch.setattr(time, "sleep", hands_over)
    with JournalLock(path, held).held():
        assert len(left) == 8


def test_giving_back_a_lock_that_was_taken_over_leaves_the_new_one_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    stale, new = JournalLock(path, held), JournalLock(path, held)
    stale.acquire()
    path.with_name(f"{path.name}.lock").unlink()  # it counted as left behind
    new.acquire()
    stale.release()
    assert path.with_name(f"{path.name}.lock").exists()
    new.release()
    new.release()
    assert not list(path.parent.iterdir())


def test_giving_back_a_lock_that_is_gone_raises_nothing(path: Path) -> None:
    """What was written in it is written."""
    path.parent.mkdir(parents=True)
    lock = JournalLock(path, held)
    with lock.held():
        path.with_name(f"{path.name}.lock").unlink()


def test_the_lease_is_looked_at_inside_of_the_lock(path: Path) -> None:
    """Looked at before, it may be lost by the time the lock is had."""
    locks: list[bool] = []
    store = opened(path, lambda: locks.append(path.with_name(f"{path.name}.lock").exists()))
    locks.clear()
    store.storage.set_study_user_attr(store.study._study_id, "note", 1)
    assert locks == [True]


# -------------------------------------------------------------------- plain Optuna beside us


def test_plain_optuna_reads_and_writes_while_a_driver_has_the_journal_and_after(path: Path) -> None:
    store = opened(path)
    reader = plain(path)
    for number in range(2):
        writer = plain(path)
        writer.enqueue_trial({"x": 0.5})
        writer.set_user_attr("note", number)
        assert store.frozen(store.create("uid")).number == number  # the enqueued one
        assert len(store.trials()) == len(reader.get_trials()) == number + 1
        store = opened(path)  # the next driver: the file is another, its lines are the same
    writer.set_user_attr("note", "still")  # by who opened it before
    assert store.study.user_attrs == reader.user_attrs == {"note": "still"}
    assert len(reader.get_trials()) == 2


def test_the_journal_keeps_its_permissions(path: Path) -> None:
    opened(path)
    path.chmod(0o660)
    opened(path)
    assert path.stat().st_mode & 0o777 == 0o660


def test_each_append_is_synced_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.create("uid")
    assert len(synced) == 1


# -------------------------------------------------------------------- groups


class Disk:
    """Takes the place of os.fsync: what of a file would be there after a power cut.

    Args:
        path: the file.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.kept = path.read_bytes()
        self.syncs = 0
        self.fails = False  # the next sync fails, and the system forgets what was not on the disk
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.syncs += 1
        there = self.path.read_bytes()
        if not self.fails:
            self.kept = there
            return
        self.fails = False
        with open(self.path, "rb+") as file:
            file.seek(len(self.kept))
            file.write(b"\0" * (len(there) - len(self.kept)))
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Disk]:
    return lambda: Disk(path, monkeypatch)


def test_a_group_is_written_at_once_and_synced_once(path: Path, disk: Callable[[], Disk]) -> None:
    store = opened(path)
    synced = disk()
    with store.grouped():
        first = store.create("uid")
        store.report(first, 1, 0.5)
        store.create("uid")
        assert len(plain(path).trials) == 2
        assert synced.syncs == 0
    assert synced.kept == path.read_bytes()
    assert synced.syncs == 1
    store.create("uid")
    assert synced.syncs == 2


def test_a_group_is_synced_in_the_middle_if_something_relies_on_it(path: Path, disk: Callable[[], Disk]) -> None:
    store = opened(path)
    synced = disk()
    with store.grouped():
        store.create("uid")
        store.sync()
        assert synced.kept == path.read_bytes()
        store.sync()
    assert synced.syncs == 1


def test_a_group_that_an_error_ends_is_synced_too(path: Path, disk: Callable[[], Disk]) -> None:
    store = opened(path)
    synced = disk()

    def turn() -> None:
        with store.grouped():
            store.create("uid")
            raise KeyError("the turn's own")

    with pytest.raises(KeyError):
        turn()
    assert synced.kept == path.read_bytes()
    synced.fails = True
    with pytest.raises(KeyError):  # and not what the sync raises
        turn()
    store.sync()
    assert synced.kept == path.read_bytes()
    assert len(opened(path).trials()) == 2


@pytest.mark.parametrize("again", ["sync", "create"])
def test_what_a_failed_sync_forgot_is_written_again(path: Path, disk: Callable[[], Disk], again: str) -> None:
    """Whichever the next sync is. What plain Optuna appended meanwhile stays."""
    store = opened(path)
    synced = disk()
    with store.grouped():
        trial = store.create("uid")
        store.report(trial, 1, 0.5)
        written = path.read_bytes()
        synced.fails = True
        with pytest.raises(OSError, match="Input/output"):
            store.sync()
        assert path.read_bytes() != written
        with open(path, "ab") as file:
            file.write(written.splitlines(keepends=True)[-1].replace(b'"step":1', b'"step":2'))
        if again == "sync":
            store.sync()
            assert synced.kept == path.read_bytes()
    if again == "create":
        store.create("uid")
    assert synced.kept == path.read_bytes()
    assert synced.kept.startswith(written)
    assert plain(path).trials[0].intermediate_values == {1: 0.5, 2: 0.5}


def test_what_a_server_forgot_with_a_handle_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESTALE, and the file is as short as it was when it was last synced."""
    store = opened(path)
    short, fstat, left = len(path.read_bytes()), os.fstat, [1]

    def forgets(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if left and (found.st_dev, found.st_ino) == (path.stat().st_dev, path.stat().st_ino):
            left.pop()
            os.truncate(path, short)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found

    with store.grouped():
        store.create("uid")
        monkeypatch.setattr(os, "fstat", forgets)
        store.create("uid")
    assert not left
    assert len(opened(path).trials()) == 2


# -------------------------------------------------------------------- writes that fail


WRITES_AND_DIES = """
import os, sys
from pathlib import Path
from trialfleet.sweep.study.storage import StudyStorage, open_storage

journal, left = Path(sys.argv[1]), int(sys.argv[2])
store = StudyStorage(open_storage(None, journal, lambda: None), "study", ["minimize"], lambda: None)
store.create("uid")
write = os.write

def torn(descriptor, data):
    '''The driver is killed in the middle of a record.'''
    write(descriptor, data[:left])
    os.kill(os.getpid(), 9)

os.write = torn
store.create("uid")
"""


def test_a_driver_killed_in_the_middle_of_a_record_loses_that_record_only(path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITES_AND_DIES, str(path), "20"], check=False, timeout=60)
    assert not path.read_bytes().endswith(b"\n")
    store = opened(path)
    assert [trial.number for trial in store.trials()] == [0]
    assert store.frozen(store.create("uid")).number == 1
    assert len(opened(path).trials()) == 2


def test_without_the_cut_a_torn_record_breaks_the_study(path: Path) -> None:
    """Why the cut is there: the next write succeeds, and only then the study can no longer be opened."""
    opened(path).create("uid")
    with open(path, "ab") as file:
        file.write(b'{"op_code": 4, "worker_id"')
    plain(path).set_user_attr("note", "the first write still succeeds")
    with pytest.raises(json.JSONDecodeError):
        plain(path).set_user_attr("note", "the second does not")


@given(st.binary(max_size=30), st.integers(0, 200_000), st.booleans())
def test_what_follows_the_last_newline_does_not_count(tmp_path: Path, head: bytes, tail: int, ends: bool) -> None:
    path = tmp_path / "journal.log"
    kept = head + b"\n" if ends or not head else head.rpartition(b"\n")[0] + b"\n" * (b"\n" in head)
    torn = b"x" * tail if ends or not head else head.rpartition(b"\n")[2] + b"x" * tail
    path.write_bytes(kept + torn)
    with open(path, "rb") as file:
        assert whole_length(file.fileno()) == len(kept)


def test_a_write_that_fails_half_way_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the same call later writes the record once."""
    store = opened(path)
    before, write = path.read_bytes(), os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:20])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            store.create("uid")
    assert path.read_bytes() == before
    store.create("uid")
    assert len(opened(path).trials()) == 1


def test_half_a_record_that_could_not_be_cut_off_is_mended(path: Path) -> None:
    store = opened(path)
    store.create("uid")
    with open(path, "ab") as file:
        file.write(b'{"op_code"')
    store.mend()
    store.create("uid")
    assert len(opened(path).trials()) == 2


def stale_handle(call: Callable[..., Any], times: int = 1, after: bool = False) -> Callable[..., Any]:
    """The call, which says ESTALE the first times; `after` it did what it should."""
    left = [times]

    def calls(*arguments: Any) -> Any:
        if left[0] == 0:
            return call(*arguments)
        left[0] -= 1
        if after:
            call(*arguments)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    return calls


@pytest.mark.parametrize(("name", "after"), [("write", False), ("write", True), ("fsync", True), ("fstat", False)])
def test_a_stale_handle_is_opened_anew_and_the_record_is_written_once(
    path: Path, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)
    size = path.read_bytes().count(b"\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, name, stale_handle(getattr(os, name), after=after))
        store.create("uid")
    assert path.read_bytes().count(b"\n") == size + 1
    store.create("uid")
    assert len(opened(path).trials()) == 2


def test_a_stale_handle_of_a_file_that_another_replaced_is_a_lost_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other came between the look at the path and the write."""
    store = opened(path)

    def replaced(descriptor: int, data: bytes) -> int:
        monkeypatch.undo()
        path.with_name(f"{path.name}.lock").unlink()
        opened(path).create("theirs")
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "write", replaced)
    with pytest.raises(LeaseLost):
        store.create("uid")
    assert [trial.user_attrs for trial in opened(path).trials()] == [{"trialfleet:study": "theirs"}]


# -------------------------------------------------------------------- a damaged file


def damaged(lines: list[bytes], how: str) -> bytes:
    middle = {
        "garbage": b"\x93\xff garbage\n",
        "zeros": b"\0" * 40 + lines[2],
        "an empty line": b"\n" + lines[2],
        "no object": b"[1, 2]\n",
        "no such operation": b'{"op_code": 77, "worker_id": "w"}\n',
        "an operation that is no number": b'{"op_code": [], "worker_id": "w"}\n',
        "a half": lines[2][: len(lines[2]) // 2] + b"\n",
        "a record without its fields": b'{"op_code": 4, "worker_id": "w"}\n',
    }
    return b"".join([*lines[:2], middle[how], *lines[3:]])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        "garbage",
        "zeros",
        "an empty line",
        "no object",
        "no such operation",
        "an operation that is no number",
        "a half",
        "a record without its fields",
    ],
)
def test_a_damaged_journal_is_refused_by_file_and_line_and_left_as_it_is(path: Path, how: str, last: bool) -> None:
    """The last line, too: Optuna takes no notice of it until something is appended, and then reads no further."""
    store = opened(path)
    store.create("uid")
    for _ in range(2):
        store.create("uid")
    lines = path.read_bytes().splitlines(keepends=True)
    before = damaged(lines[:3] if last else lines, how)
    path.write_bytes(before)
    with pytest.raises(UserError, match=r"optuna_journal\.log is damaged in line 3: ") as refusal:
        opened(path)
    assert "study.rebuild=true" in refusal.value.fix
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"\0" * 5000, b"some text", b'[{"op_code":0}]'])
def test_a_file_without_any_record_is_no_journal(path: Path, content: bytes) -> None:
    """Taken for a record that was not finished, it would be an empty study."""
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match="line 1"):
        opened(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("length", [0, 1, 5, 30])
def test_a_first_record_that_was_not_finished_is_dropped(path: Path, length: int) -> None:
    opened(path)
    path.write_bytes(path.read_bytes()[:length])
    assert opened(path).trials() == []


def test_a_line_without_end_is_not_read_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(path)
    with open(path, "ab") as file:
        file.write(b"\0" * 5000)
    monkeypatch.setattr(journals, "_LONGEST_LINE", 4000)
    with pytest.raises(UserError, match="line 2: it has no end"):
        opened(path)


def test_the_journal_is_found_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened(Path("journal.log"))
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    store.create("uid")
    assert len(opened(tmp_path / "journal.log").trials()) == 1
