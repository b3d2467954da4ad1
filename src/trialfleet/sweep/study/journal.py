"""The study's own journal: a file of Optuna's that only the driver which opened it last can add to.

A check before a write is not enough: a driver that is suspended between the two writes when it wakes. So each
driver puts the journal anew in place when it opens it, a copy under the old name, and appends to that one file
through a descriptor that it keeps. One that wakes after another opened the study writes into a file that has no
name any more. Plain Optuna and optuna-dashboard find the study by its path, as ever, and may add to it.
"""

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trialfleet.compat.optuna import JOURNAL_OPERATIONS
from trialfleet.errors import UserError
from trialfleet.sweep.study.lease import LeaseLost
from trialfleet.trial.records import sync_path

T = TypeVar("T")

LEFT_BEHIND = 3.0  # seconds after which a lock that nobody gave back is taken for that of a killed driver

_LONGEST_LINE = 64 << 20  # bytes; nothing that Optuna writes is longer
_PIECE = 1 << 20  # bytes that are copied at a time
_FIRST_BYTES = b'{"op_code":'  # of each record


def open_journal(path: Path, lease_check: Callable[[], None]) -> JournalStorage:
    """The journal at `path` as this driver's own; made if there is none.

    A record that a killed driver did not finish is dropped: without this the next append succeeds and every later
    opening of the study fails.

    Args:
        lease_check: raises if this driver may not write any more.

    Raises:
        UserError: the file is damaged; it is left as it is.
        LeaseLost: another driver took the study over.
        OSError: the file system refuses; a full disk, say.
    """
    path = path.absolute()  # with a relative path Optuna's lock hangs after a change of directory
    backend = OwnJournal(path, lease_check)
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
        reason = f"it does not follow from the lines before it ({error!r})"
        raise _damaged(path, backend.lines_read - 1, reason) from error


class OwnJournal(JournalFileBackend):
    """Optuna's backend on a file that this driver put in place, and to which it alone has the descriptor.

    Attributes:
        lines_read: how many of the file's lines the last reading got to.
    """

    def __init__(self, path: Path, lease_check: Callable[[], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._own_lock = JournalLock(path, lease_check)
        self.lines_read = 0
        self._grouped = False
        self._unsynced: list[tuple[int, bytes]] = []  # what was appended since the last sync, and where
        self._in_doubt = False  # whether a sync failed
        with self._own_lock.held():
            self._descriptor = _renewed(path, lease_check)
        self._identity = _identity(os.fstat(self._descriptor))
        super().__init__(str(path), lock_obj=self._own_lock)  # type: ignore[arg-type]  # it has the two methods

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._descriptor)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        self.lines_read = log_number_from
        try:
            for log in super().read_logs(log_number_from):
                self.lines_read += 1
                yield log
        except FileNotFoundError:
            raise self._not_ours() from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the records, all or none, and sync them; in a group they are synced together.

        Raises:
            LeaseLost: the path names another driver's file by now, or none.
        """
        data = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self._own_lock.held():
            self._make_sure_it_is_ours()
            size = self._through_descriptor(lambda: os.fstat(self._descriptor).st_size)
            before = len(self._unsynced)
            try:
                self._through_descriptor(lambda: self._put(data, size))
                self._unsynced.append((size, data))
                if not self._grouped:
                    self.sync()
            except OSError:
                del self._unsynced[before:]
                with contextlib.suppress(OSError):  # what cannot be cut off now is cut off by `mend`
                    os.ftruncate(self._descriptor, size)
                raise

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        """For the length of a block records are written at once, and synced when it ends or when `sync` is called.

        A power cut takes the last ones in a row, never one before another; whoever reads the file sees them all.
        After an exception in the block what cannot be synced is left to the next sync.
        """
        self._grouped = True
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError, LeaseLost):
                self.sync()
            raise
        finally:
            self._grouped = False
        self.sync()

    def sync(self) -> None:
        """Return when all that was appended would survive a power cut.

        Raises:
            OSError: it would not; the next call tries again.
            LeaseLost: what has to be written again is another driver's by now.
        """
        if self._unsynced:
            self._through_descriptor(self._sync_once)

    def _sync_once(self) -> None:
        if self._in_doubt:
            self._write_again()
        self._in_doubt = True
        os.fsync(self._descriptor)
        self._in_doubt = False
        self._unsynced.clear()

    def _write_again(self) -> None:
        """Write what is not synced once more where it is.

        After a sync that failed the system may take the pages for clean, and the next sync would do nothing.
        """
        self._make_sure_it_is_ours()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)  # ours would append
        try:
            if _identity(os.fstat(descriptor)) != self._identity:
                raise self._not_ours()
            for offset, data in self._unsynced:
                while data:
                    written = os.pwrite(descriptor, data, offset)
                    offset, data = offset + written, data[written:]
        finally:
            os.close(descriptor)

    def mend(self) -> None:
        """Drop the half of a record that a failed write left at the end, and sync the rest."""
        with self._own_lock.held():
            self._make_sure_it_is_ours()
            self._through_descriptor(lambda: os.ftruncate(self._descriptor, whole_length(self._descriptor)))
            self.sync()

    def _put(self, data: bytes, size: int) -> None:
        if os.fstat(self._descriptor).st_size > size:  # of the try that ended in ESTALE
            os.ftruncate(self._descriptor, size)
        while data:  # a signal or a nearly full disk may cut a write short
            data = data[os.write(self._descriptor, data) :]

    def _through_descriptor(self, call: Callable[[], T]) -> T:
        """What `call` returns; once more through a new descriptor if a server of files forgot the old one."""
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        descriptor = os.open(self._path, _OWN_FLAGS)
        if _identity(os.fstat(descriptor)) != self._identity:
            os.close(descriptor)
            raise self._not_ours()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = descriptor
        if self._unsynced:  # what the server had not written yet it may have forgotten, too
            self._write_again()
        return call()

    def _make_sure_it_is_ours(self) -> None:
        try:
            found = _identity(os.stat(self._path))  # noqa: PTH116  # asked before each write
        except FileNotFoundError:
            raise self._not_ours() from None
        if found != self._identity:
            raise self._not_ours()

    def _not_ours(self) -> LeaseLost:
        return LeaseLost(
            f"{self._path} is not the file any more that this driver opened: another driver took the study over, or "
            "somebody replaced or deleted it",
            "watch the other driver, or run the same command again; this one has stopped and writes nothing more",
        )


_OWN_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


# -------------------------------------------------------------------- putting it anew in place


def _renewed(path: Path, lease_check: Callable[[], None]) -> int:
    """Put a copy of the journal's whole records under its name, in the journal's lock; a descriptor of the copy.

    Whoever opens the journal takes away the copies that others have not put in place yet. Ours is there before the
    lease is looked at, so it is found by whichever driver takes the study over after that look: then it has no name
    to be put in place by, however late we wake.
    """
    while True:
        for unfinished in path.parent.glob(f".{path.name}.*.new"):
            unfinished.unlink(missing_ok=True)
        copy = path.with_name(f".{path.name}.{uuid4().hex}.new")
        descriptor = os.open(copy, _OWN_FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            lease_check()
            _copy_whole_records(path, descriptor)
            os.fsync(descriptor)
            os.replace(copy, path)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, FileNotFoundError) and not copy.exists():  # taken away: the lease says by whom
                lease_check()
                continue
            copy.unlink(missing_ok=True)
            raise
        sync_path(path.parent)
        return descriptor


def _copy_whole_records(path: Path, descriptor: int) -> None:
    """Copy what can be read of a journal; a journal that is not there has nothing.

    Raises:
        UserError: the journal is damaged.
    """
    if not path.exists():
        return
    with open(path, "rb") as file, os.fdopen(os.dup(descriptor), "wb") as copy:
        length = _checked_length(path, file)
        file.seek(0)
        for piece in _pieces(file, length):
            copy.write(piece)
        copy.flush()
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(file.fileno()).st_mode))


def _checked_length(path: Path, file: BinaryIO) -> int:
    """How many of the journal's bytes are whole records.

    Optuna takes no notice of damage in the last line until something is appended, and then reads no further.

    Raises:
        UserError: a line is no record of Optuna's.
    """
    length, line = 0, b""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b"")):
        if not line.endswith(b"\n"):
            if len(line) == _LONGEST_LINE:
                raise _damaged(path, number, "it has no end")
            break
        _check_record(path, number, line)
        length += len(line)
    # A first record that was not finished is dropped like any other; a file of nothing else than zeros is no journal.
    begun = min(len(line), len(_FIRST_BYTES))
    if length == 0 and line[:begun] != _FIRST_BYTES[:begun]:
        raise _damaged(path, 0, "it holds nothing that Optuna wrote")
    return length


def _check_record(path: Path, number: int, line: bytes) -> None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        shown = repr(line[:40])[2:-1] if line.strip() else "an empty line"
        raise _damaged(path, number, f"it is no JSON: {shown}") from None
    operation = record.get("op_code") if isinstance(record, dict) and "worker_id" in record else None
    if not isinstance(operation, int) or operation not in JOURNAL_OPERATIONS:
        raise _damaged(path, number, f"it is no record of Optuna's: {line[:40].decode(errors='replace').strip()}")


def _damaged(path: Path, lines_before: int, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged in line {lines_before + 1}: {reason}",
        "run the same command with hydra.sweeper.study.rebuild=true, which makes the study anew from the folder's "
        "trials, or put a copy of the file back",
    )


def whole_length(descriptor: int) -> int:
    """The number of a file's bytes up to its last newline, that included."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0 and (piece := file.read(min(length, _PIECE))):
        length -= len(piece)
        yield piece


# -------------------------------------------------------------------- the lock


class JournalLock:
    """Optuna's lock of a journal, a file that is created exclusively, granted only to the holder of the lease.

    It differs from Optuna's own in what it does when a process was suspended while it held the lock, so that
    another took it over: giving it back then leaves the other's alone.
    """

    def __init__(self, journal: Path, lease_check: Callable[[], None]) -> None:
        self._path = journal.with_name(f"{journal.name}.lock")  # where Optuna has it
        self._lease_check = lease_check
        self._mine: int | None = None  # open as long as we hold it, so that no other lock can have its inode

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for a block.

        Raises:
            LeaseLost: this driver may not write any more.
        """
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> bool:
        """Wait for the lock; one that stays the same for LEFT_BEHIND seconds was left by a killed process."""
        watched, since, pause = _file_now(self._path), time.monotonic(), 0.001
        while not self._created():
            found = _file_now(self._path)
            if found != watched:
                watched, since = found, time.monotonic()
            elif found is not None and time.monotonic() - since > LEFT_BEHIND:
                self._remove(found)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        try:
            self._lease_check()
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back, if it is still ours. What was written in it is written, so this raises nothing."""
        if self._mine is None:
            return
        mine, self._mine = self._mine, None
        with contextlib.suppress(OSError):  # then it is taken for left behind
            found = _file_now(self._path)
            if found is not None and found[:2] == _identity(os.fstat(mine)):
                self._remove(found)
        with contextlib.suppress(OSError):
            os.close(mine)

    def _created(self) -> bool:
        try:
            self._mine = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC)
        except FileExistsError:
            return False
        return True

    def _remove(self, wanted: tuple[int, int, int]) -> None:
        """Take away the lock that was found; if it has just become another's, that one is put back."""
        aside = self._path.with_name(f"{self._path.name}{uuid4().hex}.rename")
        try:
            os.rename(self._path, aside)  # noqa: PTH104  # one process alone succeeds
        except FileNotFoundError:
            return
        if _file_now(aside) != wanted:
            with contextlib.suppress(OSError):
                os.link(aside, self._path, follow_symlinks=False)
        aside.unlink(missing_ok=True)


def _file_now(path: Path) -> tuple[int, int, int] | None:
    """What tells the file at a path from any other that was or will be there; None if there is none."""
    try:
        found = path.lstat()  # plain Optuna's lock is a symbolic link
    except FileNotFoundError:
        return None
    return *_identity(found), found.st_mtime_ns
